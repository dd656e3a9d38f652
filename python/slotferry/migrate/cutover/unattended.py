"""Cuts over by itself: as soon as it may succeed, and again after a while where it did not.

Invariant: nothing is begun outside of the window, while the operator has paused the run, or after a command
that may have switched the application. Attempts in vain come at ever longer distances.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Protocol

from slotferry.errors import RefusedError
from slotferry.jobs.control.window import Window, find_zone
from slotferry.migrate.cutover.attempts import Attempt
from slotferry.model.cutover import CutoverOptions
from slotferry.model.events import Event, Notice
from slotferry.model.follow import Lag

AGAIN_SECONDS = 5.0
MOST_AGAIN_SECONDS = 600.0


class Ready(Protocol):
    """As much of a `RunFollower` as is looked at."""

    @property
    def copied(self) -> bool:
        """Whether the copy is done."""

    @property
    def paused(self) -> bool:
        """Whether the operator has paused the run."""

    def lag(self) -> Lag | None:
        """Return how far behind it is."""


class WhenReady:
    """Looks, in each turn of a run, whether to begin a cut-over."""

    def __init__(
        self,
        follower: Ready,
        begin: Callable[[CutoverOptions], Attempt],
        options: CutoverOptions,
        window: str | None,
        emit: Callable[[Event], None],
        clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take who follows, what begins a cut-over, how it is to be done, and when."""
        self._follower = follower
        self._begin = begin
        self._options = options
        self._window = window
        self._emit = emit
        self._clock = clock
        self._monotonic = monotonic
        self._attempt: Attempt | None = None
        self._wait = AGAIN_SECONDS
        self._next = 0.0
        self._is_over = False

    def look(self) -> None:
        """Begin one where it is time; returns at once."""
        if self._attempt is not None:
            if not self._attempt.ended.is_set():
                return
            self._take(self._attempt)
            self._attempt = None
        if not self._is_over and self._monotonic() >= self._next and self._is_ready():
            try:
                self._attempt = self._begin(self._options)
            except RefusedError as error:  # as where one was begun by hand
                self._put_off(error.message)

    def _take(self, attempt: Attempt) -> None:
        report = attempt.report
        if attempt.error is not None:
            self._put_off(attempt.error.message)
        elif report is not None and report.may_be_switched:
            self._is_over = True
            self._emit(
                Notice(
                    f"not cut over: {report.reason}; it is not tried again by itself, as the command "
                    "may have switched the application: see where it is, then use 'slotferry cutover'"
                )
            )
        elif report is not None and not report.is_done:
            self._put_off(report.reason)

    def _put_off(self, reason: str) -> None:
        self._emit(Notice(f"not cut over: {reason}; trying again in {self._wait:g} s at the earliest"))
        self._next = self._monotonic() + self._wait
        self._wait = min(2 * self._wait, MOST_AGAIN_SECONDS)

    def _is_ready(self) -> bool:
        lag = self._follower.lag()
        return (
            self._follower.copied
            and not self._follower.paused
            and lag is not None
            and lag.connected
            and not lag.in_doubt
            and lag.seconds <= self._options.max_lag
            and self._is_open()
        )

    def _is_open(self) -> bool:
        # The zone is asked for each time: a run that follows may go on over a change of the clocks.
        return self._window is None or Window.parse(self._window, find_zone(None)).is_open(self._clock())
