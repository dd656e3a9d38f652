"""When a job that a scheduler starts again and again has something to do, and how long it may.

Invariant: what an earlier run has left is gone on with whenever a window is open; a copy that is complete is
not made again before it is due, and one with failed keys not later. Nothing is begun outside of the windows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

from slotferry.errors import OptionError
from slotferry.jobs.control.window import Window, find_zone
from slotferry.jobs.journal.records import COMPLETED, RunRecord


@dataclass(frozen=True)
class Past:
    """When a job was last complete (seconds since 1970), and whether an earlier run has left work.

    `scanned_at` is when its last pass first came to the end of the source, be it with keys that failed.
    """

    completed_at: float | None = None
    is_unfinished: bool = False
    scanned_at: float | None = None

    @classmethod
    def of(cls, runs: Iterable[RunRecord]) -> Past:
        """Return what the runs of a job, in order, come to."""
        completed_at, is_unfinished, scanned_at = None, False, None
        for run in runs:
            is_unfinished = run.status != "completed"
            if not is_unfinished:
                completed_at = run.ended
            scanned_at = scanned_at if run.resumed else None
            if run.status in COMPLETED and scanned_at is None:
                scanned_at = run.ended
        return cls(completed_at, is_unfinished, scanned_at)


@dataclass(frozen=True)
class Turn:
    """What a job does now.

    `until` is when it has to end (seconds since 1970; None: never), `opens_at` when a window opens. With
    `is_fresh` the source is looked through anew, whatever keys are left: a resume would find no new ones.
    """

    status: Literal["due", "not_due", "outside_window"]
    reason: str = ""
    until: float | None = None
    opens_at: float | None = None
    is_fresh: bool = False


@dataclass(frozen=True)
class Schedule:
    """Times at which a job may run. `every` and `max_duration` are seconds.

    `windows` are texts like `01:00-05:00` in the time zone `tz` (None: the machine's). A complete copy is
    made again once `every` has passed since; without it once in each window, and without a window at each
    start. Raises `UsageError` for what makes no sense.
    """

    windows: tuple[str, ...] = ()
    tz: str | None = None
    every: float | None = None
    max_duration: float | None = None

    def __post_init__(self) -> None:
        self._parsed()
        for name in ("every", "max_duration"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError("{" + name + "} is not above 0", hint="leave it out for no limit")

    def _parsed(self) -> list[Window]:
        zone = find_zone(self.tz)
        return [Window.parse(text, zone) for text in self.windows]

    def turn(self, now: float, past: Past) -> Turn:
        """Return what is to be done at `now` (seconds since 1970)."""
        windows = self._parsed()
        opened, until = None, None
        if windows:
            instant = datetime.fromtimestamp(now, timezone.utc)
            opens, closes = min(window.opening(instant) for window in windows)
            if opens > instant:
                shown = opens.astimezone(windows[0].zone).isoformat(timespec="seconds")
                return Turn("outside_window", f"the window opens at {shown}", opens_at=opens.timestamp())
            opened, until = opens.timestamp(), closes.timestamp()
        if not past.is_unfinished and past.completed_at is not None:
            reason = self._not_due(now, past.completed_at, opened)
            if reason:
                return Turn("not_due", reason)
        if self.max_duration is not None:
            until = min(now + self.max_duration, until or float("inf"))
        scanned_at = past.scanned_at if past.is_unfinished else None
        is_fresh = scanned_at is not None and not self._not_due(now, scanned_at, opened)
        return Turn("due", until=until, is_fresh=is_fresh)

    def _not_due(self, now: float, completed_at: float, opened: float | None) -> str:
        """Return why a copy that is complete is not made again yet; empty where it is."""
        if self.every is not None:
            is_due = now - completed_at >= self.every
        else:
            is_due = opened is None or completed_at < opened
        if is_due:
            return ""
        shown = datetime.fromtimestamp(completed_at, find_zone(self.tz)).isoformat(timespec="seconds")
        return f"it was completed at {shown}"
