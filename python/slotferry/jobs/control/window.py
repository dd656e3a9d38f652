"""Windows: the times of day at which something may be done, in a zone that has its own opinion of the clock.

Invariant: a window is open from its start to its end as the wall clock of its zone shows them. Where the
clock jumps over a start, the window opens at the jump; where it jumps over all of it, it does not open that
day; an hour that comes twice counts as one, from its first start to its last end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone, tzinfo

from slotferry.errors import UsageError

_TIME = r"([01][0-9]|2[0-4]):([0-5][0-9])(?::([0-5][0-9]))?"
_LOOK_AHEAD = 8  # days; a window that the clock skips opens on another day of these


@dataclass(frozen=True)
class Window:
    """One window a day; one whose end is not after its start ends on the next day: 00:00-24:00 is all day."""

    start: time
    end: time
    zone: tzinfo
    text: str

    @classmethod
    def parse(cls, text: str, zone: tzinfo) -> Window:
        """Read `01:00-05:00` (seconds may be given). Raises `UsageError`."""
        match = re.fullmatch(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", text)
        if match is None:
            raise UsageError(
                f"the window {text!r} makes no sense", hint="write it like 01:00-05:00 (24-hour clock)"
            )
        start, end = _clock(text, *match.groups()[:3]), _clock(text, *match.groups()[3:])
        if start == end and not (start == time(0) and match[4] == "24"):
            raise UsageError(
                f"the window {text!r} is empty", hint="leave it out to be free to move at any time"
            )
        return cls(start, end, zone, text.strip())

    def opening(self, now: datetime) -> tuple[datetime, datetime]:
        """Return when the window opens and closes: the one that is open, else the next. Both in UTC."""
        today = now.astimezone(self.zone).date()
        for days in range(-1, _LOOK_AHEAD):
            opens, closes = self._on(today + timedelta(days=days))
            if opens < closes and now < closes:
                return opens, closes
        raise UsageError(
            f"the window {self.text!r} does not open in the next {_LOOK_AHEAD} days",
            hint="see whether the clock of its time zone skips it",
        )

    def is_open(self, now: datetime) -> bool:
        """Whether it is open at this instant."""
        return self.opening(now)[0] <= now

    def _on(self, day: date) -> tuple[datetime, datetime]:
        last = day if self.end > self.start else day + timedelta(days=1)
        opens = _instant(datetime.combine(day, self.start), self.zone, fold=0)
        return opens, _instant(datetime.combine(last, self.end), self.zone, fold=1)


def _clock(text: str, hour: str, minute: str, second: str | None) -> time:
    if hour == "24":
        if (minute, second or "00") != ("00", "00"):
            raise UsageError(f"the window {text!r} makes no sense", hint="a day ends at 24:00")
        return time(0)
    return time(int(hour), int(minute), int(second or 0))


def _instant(wall: datetime, zone: tzinfo, *, fold: int) -> datetime:
    """Return when the wall clock shows `wall`; within a gap, the instant of the jump."""
    local = wall.replace(tzinfo=zone, fold=fold)
    instant = local.astimezone(timezone.utc)
    if instant.astimezone(zone).replace(tzinfo=None) == wall:
        return instant
    # The wall clock never shows it: the jump is where the offset before it stops being valid.
    early = wall.replace(tzinfo=zone, fold=1).astimezone(timezone.utc)
    late = wall.replace(tzinfo=zone, fold=0).astimezone(timezone.utc)
    early, late = min(early, late), max(early, late)
    before = early.astimezone(zone).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) / 2
        if middle.astimezone(zone).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)


def find_zone(name: str | None) -> tzinfo:
    """Return the time zone of that name, the machine's own for None. Raises `UsageError`."""
    if name is None:
        local = datetime.now().astimezone().tzinfo
        return local if local is not None else timezone.utc
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # seldom asked for, and every run comes by here

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"there is no time zone {name!r} on this machine",
            hint="write it like Europe/Berlin or UTC; where none is known, install tzdata",
        ) from None
