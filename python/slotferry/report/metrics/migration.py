"""Metrics of a migration or a verification, from its events.

Invariant: counts of keys add up, for each purpose and side: scanned is the outcomes, pending and failed keys,
and those in hand. A counter never falls: where a key that was migrated is so no more (it failed while it was
followed, or a failover lost it), it stands among the pending or failed ones, and the counter stays. Every
label has a bounded number of values.
"""

from __future__ import annotations

import time
from collections import Counter

from slotferry.model.events import (
    CheckpointSaved,
    CutoverStep,
    EngineNews,
    Event,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
    TopologyChanged,
)
from slotferry.report.metrics.families import Family, Figures, counter, gauge

RETRY_REASONS = ("unavailable", "full", "connection_lost")
_OUTCOMES = ("migrated", "unchanged", "skipped", "expired", "vanished")


class MigrationFigures(Figures):
    """Figures of `migrate` and `verify`: of the job's keys over all runs, and of this run otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self._progress: dict[tuple[str, str], Progress] = {}
        self._most: Counter[tuple[str, str, str]] = Counter()
        self._newest: Progress | None = None
        self._news: Counter[str] = Counter()
        self._topologies = 0
        self._checkpoint: float | None = None
        self._steps: Counter[tuple[str, str]] = Counter()
        self._primaries = 0
        self._missing_slots = 0

    def take(self, event: Event) -> None:
        """Take an event; the lock is held."""
        if isinstance(event, Progress):
            self._progress[event.purpose, event.side] = self._newest = event
            counts = {name: getattr(event.keys, name) for name in ("scanned", *_OUTCOMES)}
            for name, count in {**counts, "bytes": event.bytes}.items():
                of = (event.purpose, event.side, name)
                self._most[of] = max(self._most[of], count)
            self.change(event.state, event.paused_by)
        elif isinstance(event, CheckpointSaved):
            self._checkpoint = time.time()
        elif isinstance(event, EngineNews):
            self._news[event.kind] += 1
        elif isinstance(event, TopologyChanged):
            self._topologies += 1
            self._primaries, self._missing_slots = len(event.primaries), event.missing_slots
        elif isinstance(event, CutoverStep):
            self._steps[event.step, event.state] += 1
        elif isinstance(event, Notice):
            self.count_notice()
        elif isinstance(event, RunStarted):
            self._primaries = len(event.target_primaries)
            self.begin(
                {"name": event.job, "run": event.run, "source": event.source, "target": event.target},
            )
        elif isinstance(event, RunEnded):
            self.end(event.report)

    def own_families(self) -> list[Family]:
        """Return what only this kind of run has; the lock is held."""
        return [*self._keys(), *self._work(), *self._target(), *self._following()]

    def _keys(self) -> list[Family]:
        scanned = counter("scanned_keys", "Keys that the job has scanned, over all its runs.")
        settled = counter("keys", "Keys of the job that nothing remains to be done for, by outcome.")
        pending = gauge("pending_keys", "Keys whose slots stayed unavailable, or that the target lost.")
        failed = gauge("failed_keys", "Keys that were given up, or that differ.")
        expected = gauge("expected_keys", "How many keys there will have been; an estimate.")
        size = counter("bytes", "Bytes of payloads that were copied or compared.")
        for (purpose, side), event in self._progress.items():
            of = {"purpose": purpose, "side": side}
            scanned.add(self._most[purpose, side, "scanned"], **of)
            for outcome in _OUTCOMES:
                settled.add(self._most[purpose, side, outcome], outcome=outcome, **of)
            pending.add(event.keys.pending, **of)
            failed.add(event.keys.failed, **of)
            size.add(self._most[purpose, side, "bytes"], **of)
            if event.expected_keys is not None:
                expected.add(event.expected_keys, **of)
        return [scanned, settled, pending, failed, expected, size]

    def _work(self) -> list[Family]:
        retries = counter("retries", "Commands that this run has sent again, by why.")
        redirects = counter("redirects", "Redirects of the target's nodes.")
        cpu = counter("engine_cpu_seconds", "CPU time of the engine's threads in this run.")
        buffered = gauge("buffered_bytes", "Bytes of keys and payloads in hand.")
        primaries = counter("primary_keys", "Keys that a primary of the target has acknowledged in this run.")
        for (purpose, side), event in self._progress.items():
            of = {"purpose": purpose, "side": side}
            again = dict(event.retries_by_reason)
            for reason in RETRY_REASONS:
                retries.add(again.get(reason, 0), reason=reason, **of)
            redirects.add(event.moved, kind="moved", **of).add(event.ask, kind="ask", **of)
        last = {event.purpose: event for event in self._progress.values()}
        if self._newest is not None:
            last[self._newest.purpose] = self._newest
            buffered.add(0 if self.has_ended else self._newest.buffered_bytes)
        for purpose, event in last.items():
            cpu.add(event.engine_cpu_seconds, purpose=purpose)
            for primary, keys in event.keys_by_primary:
                primaries.add(keys, purpose=purpose, primary=primary)
        return [retries, redirects, cpu, buffered, primaries]

    def _target(self) -> list[Family]:
        events = counter("engine_events", "What the engine met: nodes lost and back, slots parked and so on.")
        for kind, count in sorted(self._news.items()):
            events.add(count, kind=kind)
        saved = gauge("checkpoint_timestamp_seconds", "When the journal got its last checkpoint.")
        if self._checkpoint is not None:
            saved.add(self._checkpoint)
        steps = counter("cutover_steps", "Steps of cut-overs, by how they went.")
        for (step, state), count in sorted(self._steps.items()):
            steps.add(count, step=step, state=state)
        return [
            events,
            saved,
            counter("topology_changes", "Fresh topologies of the target.").add(self._topologies),
            gauge("primaries", "Primaries of the target.").add(self._primaries),
            gauge("missing_slots", "Slots of the target without a primary.").add(self._missing_slots),
            steps,
        ]

    def _following(self) -> list[Family]:
        families = {
            "lag_seconds": gauge("lag_seconds", "How far the target is behind a followed source."),
            "lag_bytes": gauge("lag_bytes", "Bytes of the source's stream that are not at the target yet."),
            "touched": gauge("touched_keys", "Keys that were written and are to be copied again."),
            "busy_keys": gauge("busy_keys", "Keys that are written all the time."),
            "connected": gauge("stream_connected", "Whether the source's stream flows."),
            "in_doubt": gauge("in_doubt", "Whether both sides have to be compared before a cut-over."),
            "writes": counter("stream_writes", "Commands of the stream that touched keys, in this run."),
            "resyncs": counter("stream_resyncs", "How often the stream began anew with a gap."),
            "comparisons": counter("comparisons", "Comparisons of both sides while following."),
        }
        newest = None if self.has_ended else self._newest
        follow = None if newest is None else newest.follow
        if follow is not None:
            for name, family in families.items():
                family.add(float(getattr(follow, name)))
        return list(families.values())
