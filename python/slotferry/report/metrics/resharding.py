"""Metrics of a reshard, from its events.

Invariant: the slots of a job are moved, left or remaining, and add up to those of its plan.
"""

from __future__ import annotations

from slotferry.model.notices import Event, Notice
from slotferry.report.metrics.families import Family, Figures, counter, gauge
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted


class ReshardFigures(Figures):
    """Figures of `reshard apply` and `reshard run`: of the job's slots and keys over all its runs."""

    def __init__(self) -> None:
        super().__init__()
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
