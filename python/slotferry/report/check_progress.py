"""How far a check has looked at the keys: a bar on a terminal, elsewhere a line now and then.

Invariant: as of every display: it ends no check.
"""

from __future__ import annotations

import time
from typing import NoReturn, TextIO

from tqdm import tqdm

from slotferry.report.terminal_bar import open_bar

_LINE_SECONDS = 5.0
_LAYOUT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} keys, {remaining} left"


class CheckProgress:
    """Writes to `stream`; a context manager that leaves no bar behind."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: tqdm[NoReturn] | None = None
        self._shown = time.monotonic()

    def __enter__(self) -> CheckProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.leave = False
            self._bar.close()

    def notify(self, text: str) -> None:
        """Print one line."""
        print(f"slotferry: {text}", file=self._stream, flush=True)

    def report(self, done: int, total: int) -> None:
        """Show that `done` of `total` keys are looked at."""
        if self._stream.isatty():
            if self._bar is None:
                self._bar = open_bar(self._stream, total, _LAYOUT)
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            self.notify(f"looked at {done:,} of {total:,} keys")
