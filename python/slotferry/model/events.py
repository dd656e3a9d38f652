"""What a run tells while it goes on: typed events, from which every display is fed.

Invariant: an event is a value: frozen, complete in itself, and free of secrets. The first of a run that is
not refused is `RunStarted`, the last is always `RunEnded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from slotferry.model.cutover import CutoverStep
from slotferry.model.follow import FollowProgress
from slotferry.model.notices import Event, Notice

if TYPE_CHECKING:
    from slotferry.model.counts import Keys
    from slotferry.model.report import Report

__all__ = [
    "CheckpointSaved",
    "CutoverStep",
    "DryRunResult",
    "EngineNews",
    "Event",
    "FollowProgress",
    "Notice",
    "PhaseStarted",
    "Progress",
    "RepairPlanned",
    "Resynced",
    "RunEnded",
    "RunStarted",
    "TopologyChanged",
]


@dataclass(frozen=True)
class RunStarted(Event):
    """Both sides are fit and the work begins. `expected_keys` is how many keys the source holds.

    `source_node` is the server that is read; behind Sentinel `source_role` is its role, else None.
    """

    type: ClassVar[str] = "run_started"

    job: str
    run: int
    resumed: bool
    source: str
    target: str
    source_node: str
    source_role: str | None
    source_product: str
    target_primaries: tuple[str, ...]
    partitions: int
    expected_keys: int
    dry_run: bool


@dataclass(frozen=True)
class PhaseStarted(Event):
    """A verification goes on to its next part: `recheck`, `target` or `repair`."""

    type: ClassVar[str] = "phase"

    phase: str
    message: str


@dataclass(frozen=True)
class RepairPlanned(Event):
    """All is compared, nothing is repaired yet: how many keys are to be sent again, and how many deleted.

    `target_keys` is how many keys of the target were looked at.
    """

    type: ClassVar[str] = "repair_planned"

    to_send: int
    to_delete: int
    target_keys: int


@dataclass(frozen=True)
class FileProgress:
    """How far an RDB file is read.

    `bytes` are those whose keys are acknowledged and recorded, of a compressed file as it is decompressed;
    `of` is how many the file has, None where that is not known (compressed, or from stdin).
    """

    bytes: int
    of: int | None


@dataclass(frozen=True)
class Progress(Event):
    """The run at one instant. `keys` are the job's, over all runs; the rate is over the last seconds.

    `done_keys` of them are acknowledged or given up (in a dry run: counted), the others are in hand.
    `state` is the engine's, or `following` once all is copied; `follow` tells how the source is followed;
    `reason` says why it is `waiting`. `expected_keys` is an estimate, None where
    there is none yet. `purpose` is `verify` where keys are compared: those that differ are `failed` then, and
    `side` is `target` while the target's keys are looked for at the source. `keys_by_primary` counts what
    this run's primaries have acknowledged, `retries_by_reason` the commands that this run has sent again:
    `unavailable`, `full`, `connection_lost`. `file` tells how far an RDB file is read.
    `paused_by` is `operator`, `cutover` or `latency` while it pauses.
    """

    type: ClassVar[str] = "progress"

    state: str
    reason: str
    keys: Keys
    expected_keys: int | None
    bytes: int
    keys_per_second: float | None
    elapsed_seconds: float
    buffered_bytes: int
    moved: int
    ask: int
    retries: int
    done_keys: int
    follow: FollowProgress | None = None
    purpose: str = "migrate"
    side: str = "source"
    engine_cpu_seconds: float = 0.0
    keys_by_primary: tuple[tuple[str, int], ...] = ()
    retries_by_reason: tuple[tuple[str, int], ...] = ()
    paused_by: str | None = None
    file: FileProgress | None = None


@dataclass(frozen=True)
class EngineNews(Event):
    """What the engine met: a node or the source `_lost` or `_back`, `slot_parked`."""

    type: ClassVar[str] = "engine"

    kind: str
    message: str
    node: str | None
    slot: int | None


@dataclass(frozen=True)
class Resynced(Event):
    """The source's stream began anew, and what came meanwhile is gone: a comparison of both sides follows."""

    type: ClassVar[str] = "resynced"

    message: str


@dataclass(frozen=True)
class TopologyChanged(Event):
    """The control plane handed the engine a fresh topology."""

    type: ClassVar[str] = "topology"

    primaries: tuple[str, ...]
    missing_slots: int


@dataclass(frozen=True)
class CheckpointSaved(Event):
    """The journal has a new checkpoint: `keys` are the job's as far as they are recorded."""

    type: ClassVar[str] = "checkpoint"

    keys: Keys
    partitions_done: int
    partitions: int


@dataclass(frozen=True)
class DryRunResult(Event):
    """What a dry run found: keys that a real run would copy, in all and by primary.

    `existing` of them are at the target already; `absent` ones are listed and not at the source.
    """

    type: ClassVar[str] = "dry_run"

    keys: int
    keys_by_primary: tuple[tuple[str, int], ...]
    on_conflict: str
    partitions: int
    existing: int = 0
    absent: int = 0


@dataclass(frozen=True)
class RunEnded(Event):
    """The end, however it came; in JSON it is the summary."""

    type: ClassVar[str] = "summary"

    report: Report

    def to_dict(self) -> dict[str, Any]:
        """Return the summary."""
        return self.report.to_dict()
