"""A scripted engine job, for faults that a real one can't be brought to at a chosen instant.

Invariant: it keeps the border's promises: counts of a checkpoint are cumulative, its lists handed over once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from slotferry._core import Job
from slotferry.jobs.journal.records import Mark, PendingKey
from slotferry.model.counts import FailedKey


@dataclass
class FakeCounts:
    scanned: int = 0
    migrated: int = 0
    unchanged: int = 0
    skipped: int = 0
    expired: int = 0
    vanished: int = 0
    pending: int = 0
    failed: int = 0
    bytes: int = 0


@dataclass
class FakeSnapshot:
    counts: FakeCounts = field(default_factory=FakeCounts)
    state: str = "running"
    reason: str = ""
    moved: int = 0
    ask: int = 0
    retries: int = 0
    buffered_bytes: int = 0
    engine_cpu_seconds: float = 0.5
    follow: None = None
    keys_by_primary: list[tuple[str, int]] = field(default_factory=list)
    retries_by_reason: list[tuple[str, int]] = field(default_factory=list)


@dataclass
class FakeCheckpoint:
    counts: FakeCounts = field(default_factory=FakeCounts)
    partitions: Sequence[Mark] = ()
    failures: Sequence[FailedKey] = ()
    pending: Sequence[PendingKey] = ()
    notes: Sequence[FailedKey] = ()
    big_positions: Sequence[tuple[bytes, str]] = ()
    resolved: Sequence[bytes] = ()
    follow: None = None


class FakeJob:
    """Hands out `checkpoints` one after the other, then the last one's counts without lists."""

    def __init__(self, checkpoints: Sequence[FakeCheckpoint], error: Exception | None = None) -> None:
        self.checkpoints = list(checkpoints)
        self.last = FakeCheckpoint()
        self.now = FakeSnapshot()
        self.error = error
        self.taken = 0
        self.cancelled: list[bool] = []
        self.asked: list[object] = []

    def as_job(self) -> Job:
        return cast(Job, self)

    def checkpoint(self) -> Any:
        self.taken += 1
        if self.checkpoints:
            self.last = self.checkpoints.pop(0)
            return self.last
        return FakeCheckpoint(self.last.counts, self.last.partitions)

    def snapshot(self) -> Any:
        return self.now

    def pause(self) -> None:
        self.asked.append("pause")

    def resume(self) -> None:
        self.asked.append("resume")

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        self.asked.append((max_keys_per_second, max_bytes_per_second))
