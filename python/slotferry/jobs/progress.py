"""How far a run is, for whoever watches it.

Invariant: what is reported is what is recorded, or will be; not more often than every `PROGRESS_SECONDS`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from slotferry.model.counts import Totals
from slotferry.model.events import Event, FileProgress, Progress
from slotferry.model.follow import FollowProgress

if TYPE_CHECKING:
    from slotferry._core import Snapshot
    from slotferry.jobs.driver import RunFigures

PROGRESS_SECONDS = 0.1
_RATE_WINDOW = 5.0


class ProgressReporter:
    """Emits `Progress` events, not more often than every `PROGRESS_SECONDS`."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        figures: Callable[[Snapshot], RunFigures],
        *,
        counts_only: bool = False,
        purpose: str = "migrate",
        side: str = "source",
    ) -> None:
        """Report to `emit`; with `counts_only`: a scanned key is done. `figures` are the driver's."""
        self._emit = emit
        self._figures = figures
        self._purpose = purpose
        self._side = side
        self._counts_only = counts_only
        self._begun = time.monotonic()
        self._next = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._writes: deque[tuple[float, int]] = deque()
        self.follow: FollowProgress | None = None
        """How the source was followed when that was reported last."""
        self.file: FileProgress | None = None
        """How far an RDB file is read."""
        self.copied = False
        """Whether a source that is followed is copied to its end."""

    def report(
        self, snapshot: Snapshot, totals: Totals, expected_keys: int | None, *, at_once: bool = False
    ) -> None:
        """Emit the run as it is now, if it is time, or `at_once`."""
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        done = totals.keys.scanned if self._counts_only else totals.keys.done
        self._next = now + PROGRESS_SECONDS
        if snapshot.follow is not None:
            rate = _rate(self._writes, now, snapshot.follow.writes)
            self.follow = FollowProgress.of(snapshot.follow).at_rate(rate)
        figures = self._figures(snapshot)
        follows = self.follow is not None and self.copied and snapshot.state == "running"
        self._emit(
            Progress(
                state="following" if follows else snapshot.state,
                reason=snapshot.reason,
                keys=totals.keys,
                expected_keys=expected_keys,
                bytes=totals.bytes,
                keys_per_second=_rate(self._seen, now, done if self._counts_only else totals.keys.settled),
                elapsed_seconds=now - self._begun,
                buffered_bytes=snapshot.buffered_bytes,
                moved=totals.moved,
                ask=totals.ask,
                retries=totals.retries,
                done_keys=done,
                follow=self.follow,
                purpose=self._purpose,
                side=self._side,
                engine_cpu_seconds=round(figures.engine_cpu_seconds, 3),
                keys_by_primary=figures.keys_by_primary,
                retries_by_reason=figures.retries_by_reason,
                paused_by=figures.paused_by,
                file=self.file,
            )
        )


def _rate(seen: deque[tuple[float, int]], now: float, count: int) -> float | None:
    """Return how much `count` grew in a second over the last seconds; None until a second was seen."""
    if seen and count < seen[-1][1]:
        seen.clear()  # the job started over
    seen.append((now, count))
    while now - seen[0][0] > _RATE_WINDOW:
        seen.popleft()
    since, before = seen[0]
    return (count - before) / (now - since) if now - since >= 1.0 else None
