"""Metrics of a reshard, from its events.

Invariant: the slots of a job are moved, left or remaining, and add up to those of its plan.
"""

from __future__ import annotations

import threading

from slotferry.model.notices import Event, Notice
from slotferry.report.metrics.families import Family, Figures, counter, gauge
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted


class ReshardFigures(Figures):
    """Figures of `reshard apply` and `reshard run`: of the job's slots and keys over all its runs."""

    def __init__(self, job: str = "") -> None:
        super().__init__(job)
        self._progress: ReshardProgress | None = None
        self._slots = {"moved": 0, "left": 0, "remaining": 0}

    def take(self, event: Event) -> None:
        """Take an event; the lock is held."""
        if isinstance(event, ReshardProgress):
            self._progress = event
            self.change(event.state, event.paused_by)
            moved, left = event.slots_done, event.slots_left
            self._slots = {"moved": moved, "left": left, "remaining": event.slots - moved - left}
        elif isinstance(event, ReshardStarted):
            self._progress = None
            self._slots = {"moved": 0, "left": 0, "remaining": event.slots}
            cluster = event.cluster
            self.begin({"name": event.job, "run": event.run, "source": cluster, "target": cluster})
        elif isinstance(event, ReshardEnded):
            report = event.report
            self._slots = {"moved": report.moved, "left": len(report.left), "remaining": report.remaining}
            self.end(report)
        elif isinstance(event, Notice):
            self.count_notice()

    def own_families(self) -> list[Family]:
        """Return what only this kind of run has; the lock is held."""
        slots = gauge("slots", "Slots of the plan, by what became of them.")
        for state, count in self._slots.items():
            slots.add(count, state=state)
        keys = counter("keys", "Keys that were moved with their slots.")
        size = counter("bytes", "Bytes moved with their slots; none where servers move by themselves.")
        expected = gauge("expected_keys", "How many keys there will have been.")
        if (event := self._progress) is not None:
            of = {"purpose": "reshard", "side": "source"}
            keys.add(event.keys_moved, outcome="moved", **of)
            size.add(event.bytes_moved, **of)
            expected.add(event.keys, **of)
        return [slots, keys, size, expected]


class JobsFigures:
    """Figures of `reshard run`: each of its jobs has its own, and they stay when the next one begins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, ReshardFigures] = {}
        self._now = ""
        self._code: int | None = None

    def begin_job(self, name: str) -> None:
        """Take the events that follow for those of this job."""
        with self._lock:
            self._jobs[name], self._now = ReshardFigures(name), name

    def handle(self, event: Event) -> None:
        """Take the next event of the job that was begun last."""
        with self._lock:
            job = self._jobs.get(self._now)
        if job is not None:
            job.handle(event)

    def end_job(self, code: int) -> None:
        """Take how the job that was begun last ended, where no event told it."""
        with self._lock:
            job = self._jobs.get(self._now)
        if job is not None:
            job.end_job(code)

    def leave_job(self) -> None:
        """Forget the job that was begun last: another process is at work on it."""
        with self._lock:
            self._jobs.pop(self._now, None)

    def end(self, code: int) -> None:
        """Take what the command exits with."""
        self._code = code

    @property
    def has_begun(self) -> bool:
        """Whether the job that was begun last has told what it is."""
        with self._lock:
            job = self._jobs.get(self._now)
        return job is not None and job.has_begun

    @property
    def is_under_way(self) -> bool:
        """Whether a job has begun or ended, here and not in another process."""
        with self._lock:
            return any(job.is_under_way for job in self._jobs.values())

    def families(self) -> list[Family]:
        """Return the metrics of all jobs, each family once."""
        with self._lock:
            jobs = list(self._jobs.values())
        found: dict[str, Family] = {}
        for family in (family for job in jobs for family in job.families()):
            found.setdefault(
                family.name, Family(family.name, family.kind, family.help)
            ).samples += family.samples
        code = gauge("command_exit_code", "What 'reshard run' exits with; absent before the end.")
        if self._code is not None:
            code.add(float(self._code))
        return [*found.values(), code]
