"""Credentials that may change under a long run: where they come from, and what holds now.

Invariant: a secret is asked for when a connection needs it; afterwards it is only known to the redaction.
Neither it nor the error of whoever was asked for it is ever part of a message. A connection that is open
keeps what it was opened with.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slotferry.endpoints import Password, Side, read_password_file
from slotferry.errors import SlotferryError, SourceUnfitError, TargetUnfitError
from slotferry.redaction import remember_secret

if TYPE_CHECKING:
    from slotferry._core import Access
    from slotferry.admin import Connector

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


def unfit(party: Side, message: str, hint: str) -> SlotferryError:
    """Return the error for a party whose credentials can't be had."""
    kind = TargetUnfitError if party in ("target", "cluster") else SourceUnfitError
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
            raise self._unfit(f"could not be asked for: {type(error).__name__} was raised") from error
        if isinstance(answer, str):
            return self._username, answer
        if isinstance(answer, tuple) and len(answer) == 2 and all(isinstance(part, str) for part in answer):
            return answer
        raise self._unfit(f"are of the type {type(answer).__name__}")

    def _unfit(self, what: str) -> SlotferryError:
        return unfit(
            self._party,
            f"the {self._party}'s credentials {what}",
            "the callable has to return the password, or (user, password), as str",
        )


class AccessKeeper:
    """Keeps what the engine opens its connections with up to date, for the connectors of a run.

    The caller polls: `want()` when a login was refused or a connection is to be opened anew, then `poll()`,
    which also notices files that changed. Asking happens in a thread: whoever is asked may take a while.
    """

    def __init__(self, connectors: Mapping[JobSide, Connector]) -> None:
        self._connectors = connectors
        self._stamps = {side: stamp_files(connector.files) for side, connector in connectors.items()}
        # Whoever opens a connection may renew a login: what the engine was given last is kept in mind here.
        self._given = {side: connector.generation for side, connector in connectors.items()}
        self._wanted: set[JobSide] = set()
        self._thread: threading.Thread | None = None
        self._renewed: list[tuple[JobSide, Access]] = []

    def want(self, side: JobSide) -> None:
        """Ask for the credentials of that side anew."""
        self._wanted.add(side)

    def poll(self) -> list[tuple[JobSide, Access]]:
        """Return each side that has something new since the last call, with it."""
        if self._thread is not None and self._thread.is_alive():
            return []
        renewed, self._renewed, self._thread = self._renewed, [], None
        self._look_at_files()
        if self._wanted:
            wanted, self._wanted = sorted(self._wanted), set()
            # A daemon: whoever is asked must not hold up the end of the process.
            self._thread = threading.Thread(
                target=self._renew, args=(wanted,), name="slotferry-access", daemon=True
            )
            self._thread.start()
        return renewed

    def _look_at_files(self) -> None:
        for side, connector in self._connectors.items():
            stamp = stamp_files(connector.files)
            if stamp != self._stamps[side]:
                self._stamps[side] = stamp
                self._wanted.add(side)

    def _renew(self, sides: Sequence[JobSide]) -> None:
        for side in sides:
            connector = self._connectors[side]
            # A file may be half written, or nobody answer: what was there before holds.
            with contextlib.suppress(SlotferryError):
                connector.renew()
                if connector.generation != self._given[side]:
                    self._renewed.append((side, connector.access()))
                    self._given[side] = connector.generation


def stamp_files(files: Sequence[Path]) -> tuple[Stamp | None, ...]:
    """Return what changes when one of the files changes."""
    return tuple(map(_stamp, files))


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
