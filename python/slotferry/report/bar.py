"""A tqdm bar for a terminal: keys of an estimate, rate, bytes, state with its reason, time left.

Invariant: other lines go above the bar, never through it.
"""

from __future__ import annotations

from typing import NoReturn, TextIO

from tqdm import tqdm

from slotferry.model.events import Event, Progress, RunEnded, RunStarted
from slotferry.report.base import Display
from slotferry.report.phrases import (
    News,
    describe_file,
    describe_following,
    describe_start,
    describe_state,
    seconds_left,
    shown_part,
    unsettled_parts,
)
from slotferry.report.terminal_bar import open_bar
from slotferry.text import format_bytes, format_duration

_FORMAT = "{percentage:3.0f}%|{bar}| {desc}"
_FORMAT_WITHOUT_TOTAL = "{desc}"


class BarDisplay(Display):
    """One bar, from the first progress to the end."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar: tqdm[NoReturn] | None = None
        self._news = News()

    def show(self, event: Event) -> None:
        """Move the bar, or print a line above it."""
        if isinstance(event, RunEnded):
            self.finish()
        for line in self._news.lines(event):
            self.say(line)
        if isinstance(event, Progress):
            self._move(event)
        elif isinstance(event, RunStarted):
            self.say(describe_start(event))
        else:
            super().show(event)

    def say(self, line: str) -> None:
        """Print one line above the bar."""
        tqdm.write(line, file=self.stream)

    def finish(self) -> None:
        """Leave the bar as it stands last, and go on below it."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _move(self, event: Progress) -> None:
        has_total = event.expected_keys and event.state != "following"
        layout = _FORMAT if has_total else _FORMAT_WITHOUT_TOTAL
        if self._bar is None:
            self._bar = open_bar(self.stream, event.expected_keys, layout, _describe(event))
        bar = self._bar
        bar.total, bar.n, bar.bar_format = event.expected_keys, shown_part(event), layout
        bar.set_description_str(_describe(event))


def _describe(event: Progress) -> str:
    if event.state == "following" and event.follow is not None:
        return f"following: {describe_following(event.follow)}"
    expected = f"/{event.expected_keys:,}" if event.expected_keys else ""
    parts = [f"{event.done_keys:,}{expected} keys", format_bytes(event.bytes)]
    if event.file is not None:
        parts.append(describe_file(event.file))
    parts += unsettled_parts(event)
    if event.state != "running":
        # The reason needs the room, and the rate says little now.
        return ", ".join([*parts, describe_state(event)])
    if event.keys_per_second is not None:
        parts.insert(1, f"{event.keys_per_second:,.0f}/s")
    if event.reason:
        parts.append(event.reason)  # of what some keys wait for, while others flow
    elif (left := seconds_left(event)) is not None:
        parts.append(f"{format_duration(left)} left")
    return ", ".join(parts)
