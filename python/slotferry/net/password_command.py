"""A password that a command prints, such as one that asks a vault.

Invariant: the command is run without a shell, for a bounded time, with a bounded output. What it prints on
stdout is known to the redaction before anything else is done with it, and never part of a message.
"""

from __future__ import annotations

import os
import selectors
import shlex
import sys
import time
from typing import TYPE_CHECKING

from slotferry.errors import SlotferryError, UsageError
from slotferry.model.address import Side
from slotferry.net.credentials import not_ready
from slotferry.net.endpoints import first_line
from slotferry.redaction import redact, remember_secret

if TYPE_CHECKING:
    from subprocess import Popen

TIME_LIMIT = 30.0
"""Seconds."""
_MOST_OUTPUT = 64 << 10
_HINT = "run the command by hand: it has to print the password on its first line and exit with 0"


class PasswordCommand:
    """A password that is the first line that a command prints; called, it runs the command."""

    def __init__(self, party: Side, command: str) -> None:
        """Take the command apart as a shell does, without running any. Raises `UsageError`."""
        self._party = party
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"the {party} password command can't be taken apart: {error}",
                hint="check its quotation marks",
            ) from None
        if not self._words:
            raise UsageError(
                f"the {party} password command is empty", hint="give a program and its arguments"
            )
        self._name = f"the {party} password command ({os.path.basename(self._words[0])})"

    def __repr__(self) -> str:
        return f"PasswordCommand({self._party!r})"

    def __call__(self) -> str:
        """Run the command and return the password. Raises `SlotferryError` where it gives none."""
        import subprocess

        begun = time.monotonic()
        try:
            process = subprocess.Popen(  # noqa: S603 - the user's own words
                self._words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        except (OSError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise self._not_ready(f"can't be started: {what}") from None
        with process:
            try:
                printed, complaints = self._communicate(process, begun + TIME_LIMIT)
            finally:
                process.kill()  # without effect where it has ended
        return self._take(process.returncode, printed, complaints)

    def _communicate(self, process: Popen[bytes], deadline: float) -> tuple[bytes, bytes]:
        """Return what the command prints until it ends, on stdout and stderr."""
        import subprocess

        stdout, stderr = bytearray(), bytearray()
        with selectors.DefaultSelector() as selector:
            for stream, text in ((process.stdout, stdout), (process.stderr, stderr)):
                if stream is not None:
                    selector.register(stream, selectors.EVENT_READ, text)
            while selector.get_map():
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    raise self._not_ready(f"has not ended within {TIME_LIMIT:g} seconds")
                for key, _ in ready:
                    block = os.read(key.fd, _MOST_OUTPUT)
                    if not block:
                        selector.unregister(key.fileobj)
                    if len(key.data) <= _MOST_OUTPUT:
                        key.data.extend(block)
                if len(stdout) > _MOST_OUTPUT:
                    raise self._not_ready(f"prints more than {_MOST_OUTPUT >> 10} kB")
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise self._not_ready(f"has not ended within {TIME_LIMIT:g} seconds") from None
        return bytes(stdout), bytes(stderr[:_MOST_OUTPUT])

    def _take(self, code: int, printed: bytes, complaints: bytes) -> str:
        try:
            password = first_line(printed)
        except UnicodeDecodeError:
            password = None
        remember_secret(password)
        for line in redact(complaints.decode("utf-8", "replace")).splitlines():
            shown = "".join(one if one.isprintable() else " " for one in line)
            sys.stderr.write(f"slotferry: {self._party} password command: {shown}\n")
        if code:
            how = f"exited with {code}" if code > 0 else f"was ended by signal {-code}"
            raise self._not_ready(how)
        if password is None:
            raise self._not_ready("prints what is not UTF-8")
        if not password:
            raise self._not_ready("prints no password")
        return password

    def _not_ready(self, what: str) -> SlotferryError:
        return not_ready(self._party, f"{self._name} {what}", _HINT)
