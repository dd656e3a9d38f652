"""Credentials that may change under a long run: where they come from, and what holds now.

Invariant: a secret is asked for when a connection needs it; afterwards it is only known to the redaction.
Neither it nor the error of whoever was asked for it is ever part of a message. A connection that is open
keeps what it was opened with.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slotferry.errors import SlotferryError, SourceNotReadyError, TargetNotReadyError
from slotferry.model.address import Password, Side
from slotferry.net.endpoints import read_password_file
from slotferry.redaction import remember_secret

if TYPE_CHECKING:
    pass

JobSide = Literal["source", "target"]
Stamp = tuple[int, int, int]


class PasswordFile:
    """A password that is the first line of a file; called, it reads the file. Raises `UsageError`."""

    def __init__(self, party: Side, path: Path) -> None:
        self._party = party
        self.path = path

    def __repr__(self) -> str:
        return f"PasswordFile({str(self.path)!r})"

    def __call__(self) -> str:
        """Return the password as it is now."""
        return read_password_file(self._party, self.path)


def not_ready(party: Side, message: str, hint: str) -> SlotferryError:
    """Return the error for a party whose credentials can't be had."""
    kind = TargetNotReadyError if party in ("target", "cluster") else SourceNotReadyError
    return kind(message, hint=hint)


class Login:
    """The user and password of one party. Safe to use from several threads."""

    def __init__(self, party: Side, username: str | None, password: Password | None) -> None:
        self._party = party
        self._username = username
        self._password = password
        self._lock = threading.Lock()
        self._current: tuple[str | None, str | None] | None = None
        self.generation = 0
        """How often it has changed."""

    @property
    def is_renewable(self) -> bool:
        """Whether there may be another one when this one is refused."""
        return callable(self._password)

    def current(self) -> tuple[str | None, str | None]:
        """Return user and password; ask for them the first time. Raises `SlotferryError`."""
        with self._lock:
            if self._current is None:
                self._current = self._ask()
            return self._current

    def renew(self) -> bool:
        """Ask anew; return whether that brought something else. Raises `SlotferryError`."""
        asked = self._ask() if self.is_renewable else None
        with self._lock:
            changed = asked is not None and asked != self._current
            if changed:
                self._current = asked
                self.generation += 1
            return changed

    def _ask(self) -> tuple[str | None, str | None]:
        username, password = self._answer()
        remember_secret(password)
        return username, password

    def _answer(self) -> tuple[str | None, str | None]:
        if not callable(self._password):
            return self._username, self._password
        try:
            answer = self._password()
        except SlotferryError:
            raise
        except Exception as error:
            raise self._not_ready(f"could not be asked for: {type(error).__name__} was raised") from error
        if isinstance(answer, str):
            return self._username, answer
        if isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, str) for part in answer):
            return answer
        raise self._not_ready(f"are of the type {type(answer).__name__}")

    def _not_ready(self, what: str) -> SlotferryError:
        return not_ready(
            self._party,
            f"the {self._party}'s credentials {what}",
            "the callable has to return the password, or (user, password), as str",
        )


def stamp_files(files: Sequence[Path]) -> tuple[Stamp | None, ...]:
    """Return what changes when one of the files changes."""
    return tuple(map(_stamp, files))


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
