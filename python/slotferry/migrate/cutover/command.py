"""The operator's command, which switches the application while writes are stopped.

Invariant: it runs without a shell unless one is asked for, in a session of its own, for a bounded time; of
what it prints only the end is kept. It gets facts, never a secret, by its environment.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO

from slotferry.redaction import redact

_MOST_OUTPUT = 4096
_GRACE_SECONDS = 1.0
_TICK_SECONDS = 0.02
_MOST_SHOWN = 100


_SEE = "see whether it switched anything"


class CommandFailed(Exception):  # noqa: N818 - what the command did, no error of ours
    """The command did not succeed; the text is the end of a sentence about it.

    may_be_switched: it did not end by itself, so it is not known what it has done.
    """

    def __init__(self, text: str, *, may_be_switched: bool = False) -> None:
        super().__init__(text)
        self.may_be_switched = may_be_switched


def show_command(words: Sequence[str]) -> str:
    """Return a command with its arguments on one line, cut where it is long."""
    text = " ".join(shlex.join(words).split())
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def run_command(
    words: Sequence[str],
    facts: Mapping[str, str],
    deadline: float,
    is_wanted: Callable[[], bool],
) -> None:
    """Run it to its end. Raises `CommandFailed`, also where it was ended: late, or not wanted any more."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the operator's own words
            words,
            env={**os.environ, **facts},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else str(error)
        raise CommandFailed(f"can't be started: {what}") from None
    tail = _Tail(process.stdout)
    try:
        while (code := process.poll()) is None:
            if time.monotonic() >= deadline:
                raise CommandFailed(f"had not ended in time and was ended: {_SEE}", may_be_switched=True)
            if not is_wanted():
                raise CommandFailed(f"was ended on request: {_SEE}", may_be_switched=True)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_SECONDS)
    finally:
        _end(process)
    if code:
        how = f"exited with {code}" if code > 0 else f"was ended by signal {-code}"
        said = tail.last_line()
        raise CommandFailed(f"{how}: {said}" if said else how, may_be_switched=code < 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what still runs, with all that it has started."""
    if process.poll() is not None:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            return
    process.wait()


class _Tail:
    """Reads what comes, so that nobody waits for a reader, and keeps the end of it."""

    def __init__(self, output: IO[bytes] | None) -> None:
        self._output = output
        self._kept: deque[int] = deque(maxlen=_MOST_OUTPUT)
        # A daemon: what the command has left running may hold the pipe open for ever.
        self._thread = threading.Thread(target=self._read, name="slotferry-command", daemon=True)
        self._thread.start()

    def last_line(self) -> str:
        """Return the last line that is not empty, as it may be shown."""
        self._thread.join(_GRACE_SECONDS)
        lines = bytes(self._kept).decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        shown = "".join(one if one.isprintable() else " " for one in redact(last))
        return shown.strip()[-300:]

    def _read(self) -> None:
        if self._output is None:
            return
        with self._output:
            while block := os.read(self._output.fileno(), _MOST_OUTPUT):
                self._kept.extend(block)
