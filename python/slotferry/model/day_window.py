"""A time of day in which something may be begun, as the machine's own wall clock shows it.

Invariant: one whose end is not after its start ends on the next day; its end is not in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime

from slotferry.errors import OptionError

_TIME = "([01][0-9]|2[0-3]|24):([0-5][0-9])"
_DAY = 24 * 60


@dataclass(frozen=True)
class DayWindow:
    """A window of each day, in minutes after midnight."""

    start: int
    end: int

    @classmethod
    def parse(cls, text: str) -> DayWindow:
        """Read `02:00-04:00`. Raises `OptionError` for the option `window`."""
        match = re.fullmatch(rf"\s*{_TIME}\s*-\s*{_TIME}\s*", text)
        hint = "write it like 02:00-04:00 (24-hour clock)"
        if match is None:
            raise OptionError("{window} is {value!r}", hint=hint, value=text)
        start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
        if start >= _DAY or end > _DAY or start == end:
            raise OptionError("{window} is {value!r}", hint=hint, value=text)
        return cls(start, end)

    def is_open(self, now: datetime) -> bool:
        """Whether it is open at this time of the wall clock."""
        minute = now.hour * 60 + now.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end
