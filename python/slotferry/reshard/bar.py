"""The bar that a person at a terminal sees while slots move.

Invariant: as in slotferry.reshard.display, whose figures it shows.
"""

from __future__ import annotations

import os
from typing import NoReturn, TextIO

from tqdm import tqdm

from slotferry.reshard.display import ReshardLines, describe_progress
from slotferry.reshard.events import ReshardProgress

_DEFAULT_SIZE = (100, 25)


class ReshardBar(ReshardLines):
    """A bar of slots, with keys, bytes, time left, and the reason of any wait."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar: tqdm[NoReturn] | None = None

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        tqdm.write(line, file=self.stream)

    def progress(self, event: ReshardProgress) -> None:
        """Move the bar."""
        if self._bar is None:
            columns, rows = _size(self.stream)
            self._bar = tqdm(
                total=event.slots,
                file=self.stream,
                dynamic_ncols=columns is None,
                ncols=columns,
                nrows=rows,
                mininterval=0,
                miniters=1,
                bar_format="{percentage:3.0f}%|{bar}| {desc}",
            )
        self._bar.n = event.slots_done
        self._bar.set_description_str(describe_progress(event))

    def finish(self) -> None:
        """Leave the bar as it stands last, and go on below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _size(stream: TextIO) -> tuple[int | None, int | None]:
    """Return a size for a terminal that does not know its own: tqdm would show nothing there."""
    try:
        known = os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return (None, None) if known else _DEFAULT_SIZE
