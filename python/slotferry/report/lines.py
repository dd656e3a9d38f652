"""A line every few seconds, for logs and pipes.

Invariant: every line stands for itself; nothing is overwritten.
"""

from __future__ import annotations

import time
from typing import TextIO

from slotferry.model.events import Event, Progress, RunStarted
from slotferry.report.base import Display
from slotferry.report.phrases import News, describe_progress, describe_start

LINE_SECONDS = 5.0


class LinesDisplay(Display):
    """Prints progress every `LINE_SECONDS` and what happens at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._next = 0.0
        self._news = News()

    def show(self, event: Event) -> None:
        """Print the event if it is one to print."""
        for line in self._news.lines(event):
            self.say(f"slotferry: {line}")
        if isinstance(event, Progress):
            self._progress(event)
        elif isinstance(event, RunStarted):
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"slotferry: {describe_start(event)}")
        else:
            super().show(event)

    def _progress(self, event: Progress) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + LINE_SECONDS
            self.say(f"slotferry: {describe_progress(event)}")
