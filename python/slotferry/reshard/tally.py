"""What a run has moved so far, and the progress that is told of it.

Invariant: while slots move, each is in at most one of `moved`, `left` and `stuck`; those in none are still to
be moved, by this run or the next.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from slotferry.model.notices import Event
from slotferry.reshard.events import ReshardProgress
from slotferry.reshard.limits import Condition

TICK_SECONDS = 0.1
_RATE_SECONDS = 5.0


@dataclass
class Tally:
    """Figures of a run of a plan with `slots` moves; `left` and `stuck` have a reason for each slot.

    `before` are the keys and bytes of the runs before, `counted` the keys that each slot had at the start.
    """

    slots: int = 0
    moved: set[int] = field(default_factory=set)
    left: dict[int, str] = field(default_factory=dict)
    stuck: dict[int, str] = field(default_factory=dict)
    """Slots that are open for want of memory."""
    keys: int = 0
    bytes: int = 0
    before: tuple[int, int] = (0, 0)
    counted: dict[int, int] = field(default_factory=dict)
    _counting: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, keys: int, size: int) -> None:
        """Count keys and bytes as they arrive; may be called by any thread."""
        with self._counting:
            self.keys += keys
            self.bytes += size

    @property
    def remaining(self) -> int:
        """How many slots are for the next run, as it is now."""
        return self.slots - len(self.moved) - len(self.left)

    @property
    def advance(self) -> int:
        """Grows with whatever is moved."""
        return len(self.moved) + self.keys

    @property
    def all_keys(self) -> int:
        """How many keys the job will have moved."""
        return self.before[0] + sum(self.counted.values())


class Ticker:
    """Tells the progress, at most once a tick, with the rate of the last seconds."""

    def __init__(self, tally: Tally, emit: Callable[[Event], None]) -> None:
        self._tally = tally
        self._emit = emit
        self._begun = time.monotonic()
        self._next = 0.0
        self._past: deque[tuple[float, int]] = deque()

    def tick(self, condition: Condition) -> None:
        """Tell it if it is time."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TICK_SECONDS
        tally = self._tally
        self._past.append((now, tally.keys))
        while now - self._past[0][0] > _RATE_SECONDS:
            self._past.popleft()
        since, keys = self._past[0]
        rate = (tally.keys - keys) / (now - since) if now - since > 0.5 else None
        self._emit(
            ReshardProgress(
                state=condition.state,
                reason=condition.reason,
                slots_done=len(tally.moved),
                slots=tally.slots,
                keys_moved=tally.before[0] + tally.keys,
                keys=tally.all_keys,
                bytes_moved=tally.before[1] + tally.bytes,
                keys_per_second=rate,
                elapsed_seconds=now - self._begun,
                slots_left=len(tally.left),
                paused_by=condition.paused_by,
            )
        )
