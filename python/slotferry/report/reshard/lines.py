"""Lines that tell how slots move, every few seconds and when something happens.

Invariant: as in slotferry.report: a display whose stream is gone falls silent, and ends no run.
"""

from __future__ import annotations

import time
from typing import Any, TextIO

from slotferry.model.notices import Event
from slotferry.report.base import Display
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted, SlotsLeft
from slotferry.text import format_bytes, format_duration

LINE_SECONDS = 5.0


class ReshardLines(Display):
    """A line every few seconds, and what happens at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._next = 0.0
        self._told = ""

    def show(self, event: Event) -> None:
        """Print the event if it is one to print."""
        if isinstance(event, ReshardEnded):
            self.finish()
        elif isinstance(event, ReshardStarted):
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"slotferry: {describe_start(event)}")
        elif isinstance(event, SlotsLeft):
            self.say(f"slotferry: slots {event.slots} stay where they are: {event.reason}")
        elif isinstance(event, ReshardProgress):
            self.progress(event)
        else:
            super().show(event)

    def progress(self, event: ReshardProgress) -> None:
        """Print a line where one is due."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LINE_SECONDS
            self.say(f"slotferry: {describe_progress(event)}")


def describe_start(event: ReshardStarted) -> str:
    """Return what is about to happen."""
    what = "goes on" if event.resumed else "begins"
    opened = f", {event.open_slots} of them open" if event.open_slots else ""
    return (
        f"{event.job} {what}: {event.slots:,} slots{opened}, {event.keys:,} keys in {event.cluster}, "
        f"by {event.method or 'no method yet'}"
    )


def describe_progress(event: ReshardProgress) -> str:
    """Return a line of figures."""
    parts: list[Any] = [
        f"{event.slots_done:,}/{event.slots:,} slots",
        f"{event.keys_moved:,}/{event.keys:,} keys",
        format_bytes(event.bytes_moved),
    ]
    if event.reason:
        return ", ".join([*parts, f"{event.state}: {event.reason}"])
    if event.keys_per_second:
        parts.append(f"{event.keys_per_second:,.0f} keys/s")
    if event.seconds_left is not None:
        parts.append(f"{format_duration(event.seconds_left)} left")
    return ", ".join(parts)
