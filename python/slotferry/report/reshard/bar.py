"""The bar that a person at a terminal sees while slots move.

Invariant: as in slotferry.report.reshard.lines, whose figures it shows.
"""

from __future__ import annotations

from typing import NoReturn, TextIO

from tqdm import tqdm

from slotferry.report.reshard.lines import ReshardLines, describe_progress
from slotferry.report.terminal_bar import open_bar
from slotferry.reshard.events import ReshardProgress

_LAYOUT = "{percentage:3.0f}%|{bar}| {desc}"


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
            self._bar = open_bar(self.stream, event.slots, _LAYOUT)
        self._bar.n = event.slots_done
        self._bar.set_description_str(describe_progress(event))

    def finish(self) -> None:
        """Leave the bar as it stands last, and go on below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
