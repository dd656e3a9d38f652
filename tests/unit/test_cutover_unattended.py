"""When a run cuts over by itself: the window, what has to be so, and the distances between attempts."""

from __future__ import annotations

from datetime import datetime

from slotferry.errors import RefusedError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.migrate.cutover.attempts import Attempt
from slotferry.migrate.cutover.unattended import AGAIN_SECONDS, MOST_AGAIN_SECONDS, WhenReady
from slotferry.model.cutover import CutoverOptions, CutoverReport
from slotferry.model.events import Event
from slotferry.model.follow import Lag


def at(hour: int, minute: int = 0) -> datetime:
    """Return what the machine's own clock shows then."""
    return datetime(2026, 11, 30, hour, minute).astimezone()


class _Follower:
    copied = True
    paused = False
    seen: Lag | None = Lag(0, 0.2, connected=True, in_doubt=False)

    def lag(self) -> Lag | None:
        return self.seen


class _Bench:
    """What looks, with a clock that stands until it is moved."""

    def __init__(self, window: str | None = None) -> None:
        self.follower = _Follower()
        self.now, self.clock = 1000.0, at(3)
        self.begun: list[Attempt] = []
        self.told: list[Event] = []
        self.refusal: RefusedError | None = None
        self.when_ready = WhenReady(
            self.follower,
            self._begin,
            CutoverOptions(),
            window,
            self.told.append,
            lambda: self.clock,
            lambda: self.now,
        )

    def _begin(self, options: CutoverOptions) -> Attempt:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(Attempt(len(self.begun) + 1, options, CancelRequest()))
        return self.begun[-1]

    def look(self) -> int:
        """Look, and return how many were begun so far."""
        self.when_ready.look()
        return len(self.begun)

    def fail(self, *, may_be_switched: bool = False) -> None:
        attempt = self.begun[-1]
        attempt.report = CutoverReport(
            *("abandoned", "it failed", "check", 1, 2.0, 3, 1, len(self.begun)),
            may_be_switched=may_be_switched,
        )
        attempt.ended.set()


def test_it_waits_until_a_cut_over_may_succeed() -> None:
    bench = _Bench("02:00-04:00")
    bench.follower.copied = False
    assert bench.look() == 0
    bench.follower.copied, bench.follower.paused = True, True
    assert bench.look() == 0
    bench.follower.paused = False
    for seen in (
        None,
        Lag(9, 1.5, connected=True, in_doubt=False),
        Lag(0, 0.0, connected=False, in_doubt=False),
        Lag(0, 0.0, connected=True, in_doubt=True),
    ):
        bench.follower.seen = seen
        assert bench.look() == 0
    bench.follower.seen = Lag(0, 1.0, connected=True, in_doubt=False)
    bench.clock = at(4)
    assert bench.look() == 0
    bench.clock = at(2)
    assert bench.look() == 1
    assert bench.look() == 1  # one at a time


def test_what_fails_is_tried_again_at_ever_longer_distances() -> None:
    bench = _Bench()
    wait = AGAIN_SECONDS
    for number in range(1, 12):
        assert bench.look() == number
        bench.fail()
        assert bench.look() == number
        bench.now += wait - 0.1
        assert bench.look() == number
        bench.now += 0.1
        wait = min(2 * wait, MOST_AGAIN_SECONDS)
    assert len(bench.told) == 11


def test_a_refusal_is_told_and_tried_again() -> None:
    bench = _Bench()
    bench.refusal = RefusedError("a cut-over is under way")
    assert bench.look() == 0
    bench.refusal = None
    assert bench.look() == 0
    bench.now += AGAIN_SECONDS
    assert bench.look() == 1
    assert len(bench.told) == 1


def test_after_a_command_that_may_have_switched_it_is_not_tried_again() -> None:
    bench = _Bench()
    assert bench.look() == 1
    bench.fail(may_be_switched=True)
    assert bench.look() == 1
    bench.now += 10 * MOST_AGAIN_SECONDS
    assert bench.look() == 1
    (told,) = bench.told
    assert "see where it is" in str(told)
