"""The job that is followed now, as other threads see it (see `follower.Follower`).

Invariant: what is held is held whatever the operator pauses or resumes meanwhile, and an operator's pause
outlasts the hold. Once the job is `finished`, no engine writes for it any more.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slotferry.jobs.control.controls import Controls
from slotferry.model.follow import Lag
from slotferry.net.connector import Connector

if TYPE_CHECKING:
    from slotferry._core import FollowProgress, Job

Position = tuple[str, int, int]

_KEPT_SECONDS = 10.0
_BETWEEN_SECONDS = 0.5
_TICK_SECONDS = 0.005


class RunFollower:
    """Follows for as long as a run does, over all its engine jobs."""

    def __init__(self, job: str, source: Connector, controls: Controls, database: int) -> None:
        self.job = job
        self.source = source
        self.database = database
        self.copied = False
        self.engine: Job | None = None
        self.in_doubt = False
        """Whether the target may have lost something, or a look goes on that a cut-over waits for."""
        self.shared_names: Sequence[bytes] = ()
        """Keys of the source that were found to share their names with others."""
        self.finished = False
        """Whether the run was told to end well."""
        self._controls = controls
        self._marks: deque[tuple[float, Position]] = deque()
        self._pause = threading.Event()

    @property
    def paused(self) -> bool:
        """Whether the operator has paused the run."""
        return self._controls.paused

    def see(self, engine: Job) -> None:
        """Look at the run's engine, in the run's own thread, several times a second."""
        self.engine = engine
        seen, now = engine.snapshot().follow, time.monotonic()
        if seen is None or seen.in_doubt or (self._marks and self._marks[-1][1][0] != seen.mark[0]):
            self._marks.clear()
        if seen is not None and (not self._marks or now - self._marks[-1][0] >= _BETWEEN_SECONDS):
            self._marks.append((now, seen.mark))
        while self._marks and now - self._marks[0][0] > _KEPT_SECONDS:
            self._marks.popleft()

    def let_go(self) -> None:
        """There is no engine any more, or none yet."""
        self.engine = None
        self._marks.clear()

    def lag(self) -> Lag | None:
        """Return how far behind it is; None while no stream is attached."""
        if (seen := self._progress()) is None:
            return None
        return Lag(seen.lag_bytes, seen.lag_seconds, seen.connected, seen.in_doubt or self.in_doubt)

    def position(self) -> Position | None:
        """Return the mark; None as in `lag`."""
        seen = self._progress()
        return None if seen is None else seen.mark

    def earlier_position(self) -> Position | None:
        """Return a mark of some seconds ago, of the same history; None as in `lag`."""
        now = self.position()
        earlier = next((mark for _, mark in list(self._marks)), now)
        return earlier if now is None or earlier is None or earlier[0] == now[0] else now

    def wait_clean(self, offset: int, timeout: float) -> bool:
        """Wait until all of the stream up to `offset` is at the target."""
        engine = self.engine
        if engine is None or self.in_doubt or not engine.wait_clean(offset, timeout):
            return False
        return engine is self.engine and not self.in_doubt

    def hold(self, timeout: float) -> bool:
        """Let nothing be written until `release`; return whether nothing is under way any more."""
        engine, until = self.engine, time.monotonic() + timeout
        if engine is None:
            return False
        self._controls.hold(engine)
        while True:
            seen = self._progress()
            if seen is not None and seen.at_rest and engine is self.engine:
                return True
            if seen is None or time.monotonic() >= until:
                return False
            self._pause.wait(_TICK_SECONDS)

    def release(self) -> None:
        """Go on after `hold`."""
        self._controls.release(self.engine)

    def compare_ahead(self) -> int:
        """Compare large keys while writes flow, from now on; return how many are not compared yet."""
        engine = self.engine
        return 0 if engine is None else engine.compare_ahead()

    def compare_at_fence(self, timeout: float) -> Sequence[bytes]:
        """Return the keys that are proven equal, of those that were compared while writes flowed."""
        engine = self.engine
        return () if engine is None else engine.compare_at_fence(timeout)

    def copy_again(self, keys: Sequence[bytes], is_wanted: Callable[[], bool], *, whole: bool) -> bool:
        """Copy these keys though the stream has not touched them; return whether they are copied."""
        engine, seen = self.engine, self._progress()
        if engine is None or seen is None:
            return False
        copied = seen.copied + len(keys)
        engine.touch(keys, untold=not whole)
        while is_wanted() and engine is self.engine and (seen := self._progress()) is not None:
            if seen.copied >= copied and not seen.touched:
                return True
            engine.wait_clean(seen.received + 1, _TICK_SECONDS)  # so that nothing is held back
            self._pause.wait(_TICK_SECONDS)
        return False

    def finish(self, offset: int) -> None:
        """Let the run end well at `offset`: nothing is written any more."""
        self.finished = True
        if (engine := self.engine) is not None:
            engine.finish_following(offset)

    def _progress(self) -> FollowProgress | None:
        engine = self.engine
        return None if engine is None else engine.snapshot().follow
