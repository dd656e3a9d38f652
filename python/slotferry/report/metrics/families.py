"""What a metric is: a name, a kind, a sentence, and samples by labels.

Invariant: nothing here knows how metrics are written or served. A name is never changed: dashboards and
alerts of others are built on it. Every sample has the job's name as `job_name` (`job` is Prometheus' own).
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from slotferry._core import __version__
from slotferry.model.notices import Event

STATES = ("connecting", "running", "waiting", "paused", "draining", "following", "finished")


@dataclass
class Family:
    """One metric. The names of counters are without their `_total`."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, **labels: str) -> Family:
        """Add a sample."""
        self.samples.append((labels, value))
        return self


def counter(name: str, text: str) -> Family:
    """Return a counter without samples."""
    return Family(f"slotferry_{name}", "counter", text)


def gauge(name: str, text: str) -> Family:
    """Return a gauge without samples."""
    return Family(f"slotferry_{name}", "gauge", text)


class Ended(Protocol):
    """What the reports of all runs have in common."""

    @property
    def ok(self) -> bool:
        """Whether all is done and well."""

    @property
    def exit_code(self) -> int:
        """What the command line exits with."""


class Source(Protocol):
    """What figures come from."""

    def handle(self, event: Event) -> None:
        """Take the next event."""

    def families(self) -> list[Family]:
        """Return all metrics as they are now."""

    @property
    def has_begun(self) -> bool:
        """Whether the job has begun here: from then on no other process was at work on it."""

    @property
    def is_under_way(self) -> bool:
        """Whether there is something to tell: before, what an earlier run wrote is not to be replaced."""

    def end_job(self, code: int) -> None:
        """Take how the job ended, where no event told it."""

    def leave_job(self) -> None:
        """Forget the job: another process is at work on it."""


class Figures:
    """Keeps the newest figures of a run that its events tell; may be read by another thread meanwhile.

    A subclass takes its own events (`take`) and says what it makes of them (`own_families`).
    """

    def __init__(self, job: str = "") -> None:
        """`job` is its name, where that is known before the run tells it."""
        self._job = job
        self._is_left = False
        self._lock = threading.Lock()
        self._info: dict[str, str] = {}
        self._state = "connecting"
        self._paused_by: str | None = None
        self._since = time.monotonic()
        self._seconds: Counter[str] = Counter()
        self._paused_seconds: Counter[str] = Counter()
        self._notices = 0
        self._ended: tuple[float, bool, int] | None = None

    def handle(self, event: Event) -> None:
        """Take the next event."""
        with self._lock:
            self.take(event)

    def take(self, event: Event) -> None:
        """Take an event; the lock is held."""
        raise NotImplementedError

    def own_families(self) -> list[Family]:
        """Return what only this kind of run has; the lock is held."""
        raise NotImplementedError

    def families(self) -> list[Family]:
        """Return all metrics as they are now."""
        with self._lock:
            self._spend()
            found = [*self._common(), *self.own_families()]
            for family in found:
                family.samples = [({"job_name": self._job, **had}, value) for had, value in family.samples]
            return found

    @property
    def has_begun(self) -> bool:
        """Whether the run has told what it is."""
        return bool(self._info)

    @property
    def is_under_way(self) -> bool:
        """Whether the run has begun or ended, here and not in another process."""
        return not self._is_left and (self.has_begun or self.has_ended)

    def end_job(self, code: int) -> None:
        """Take how the job ended, where no event told it."""
        with self._lock:
            if self._ended is None:
                self.change("finished")
                self._ended = (time.time(), code == 0, code)

    def leave_job(self) -> None:
        """Let the figures be: another process is at work on the job."""
        self._is_left = True

    def begin(self, info: Mapping[str, Any]) -> None:
        """Take what a run is: the labels of `slotferry_info`."""
        self._info = {"version": __version__, **{name: str(value) for name, value in info.items()}}
        self._job = str(info["name"])
        self._ended = None

    def change(self, state: str, paused_by: str | None = None) -> None:
        """Take the state; the time until now was spent in the one before."""
        self._spend()
        self._state, self._paused_by = state, paused_by

    def count_notice(self) -> None:
        """Count a notice."""
        self._notices += 1

    def end(self, report: Ended) -> None:
        """Take how the run ended."""
        self.change("finished")
        self._ended = (time.time(), report.ok, report.exit_code)

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended: what only says how it is has no meaning any more."""
        return self._ended is not None

    def _spend(self) -> None:
        now = time.monotonic()
        passed, self._since = now - self._since, now
        self._seconds[self._state] += passed  # type: ignore[assignment] # a Counter of seconds
        if self._paused_by is not None:
            self._paused_seconds[self._paused_by] += passed  # type: ignore[assignment]

    def _common(self) -> list[Family]:
        info = gauge("info", "What is being done: job, sides and version, as labels of a 1.")
        if self._info:
            info.add(1, **self._info)
        state = gauge("state", "1 for the state that the run is in, 0 for the others.")
        for name in STATES:
            state.add(float(name == self._state), state=name)
        spent = counter("state_seconds", "Seconds spent in each state.")
        for name in STATES:
            spent.add(self._seconds[name], state=name)
        paused = counter("paused_seconds", "Seconds that the run was paused, by what.")
        for reason in ("operator", "cutover", "latency"):
            paused.add(self._paused_seconds[reason], reason=reason)
        notices = counter("notices", "Messages to the operator.").add(self._notices)
        return [info, state, spent, paused, notices, *self._end_families()]

    def _end_families(self) -> list[Family]:
        at = gauge("ended_timestamp_seconds", "When the run ended; absent while it goes on.")
        succeeded = gauge("succeeded", "Whether the run ended with all done and well; absent before.")
        code = gauge("exit_code", "What the job's run exits with; absent before the end.")
        if self._ended is not None:
            ended, ok, exit_code = self._ended
            at.add(ended)
            succeeded.add(float(ok))
            code.add(float(exit_code))
        return [at, succeeded, code]
