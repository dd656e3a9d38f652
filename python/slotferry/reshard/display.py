"""What a person sees while slots move: a bar or lines on stderr, and the result on stdout.

Invariant: as in slotferry.display: a display whose stream is gone falls silent, and ends no run.
"""

from __future__ import annotations

import os
import time
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

from slotferry.display.base import Display
from slotferry.display.json_lines import FREQUENT_SECONDS, JsonLines
from slotferry.events import Event
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted, SlotsLeft
from slotferry.reshard.tables import report_table
from slotferry.text import format_bytes, format_duration

LINE_SECONDS = 5.0
_DEFAULT_SIZE = (100, 25)


def choose_displays(style: str, as_json: bool, errors: TextIO, results: TextIO) -> list[Display]:
    """Return the displays of a run: progress in `style` to `errors`, results to `results`."""
    if style == "auto":
        style = "bar" if errors.isatty() else "lines"
    kinds = {"bar": ReshardBar, "lines": ReshardLines, "none": Display}
    return [kinds[style](errors), ReshardJson(results) if as_json else ReshardResult(results)]


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


class ReshardJson(JsonLines):
    """Every event as a JSON line; of progress one a second."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._next_progress = 0.0

    def show(self, event: Event) -> None:
        """Write the event as a line."""
        if isinstance(event, ReshardProgress):
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + FREQUENT_SECONDS
        super().show(event)


class ReshardResult(Display):
    """The result for a person."""

    def show(self, event: Event) -> None:
        """Print the table that a run ends with."""
        if isinstance(event, ReshardEnded) and event.report.error is None:
            self.say(report_table(event.report))


def _size(stream: TextIO) -> tuple[int | None, int | None]:
    """Return a size for a terminal that does not know its own: tqdm would show nothing there."""
    try:
        known = os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        known = False
    return (None, None) if known else _DEFAULT_SIZE


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
