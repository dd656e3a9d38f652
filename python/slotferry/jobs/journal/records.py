"""What the journal holds, as values: jobs, runs, marks, unsettled keys, and what a checkpoint adds.

Invariant: a record is frozen, and means the same whoever has written it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.follow import FollowMark

COMPLETED = frozenset({"completed", "completed_with_failures", "completed_with_differences"})
"""How a run may have ended that came to the end of its work."""

Purpose = Literal["migrate", "verify"]


@dataclass(frozen=True)
class Setup:
    """What a job was started with and what every run of it has to share.

    `comparison` says what a verification looks at; None for a migration.
    """

    source: str
    target: str
    match: str | None
    type: str | None
    on_conflict: str
    field_ttl: str = "error"
    wait_replicas: int = 0
    purpose: Purpose = "migrate"
    filters: str | None = None
    rules: str | None = None
    databases: str | None = None
    map_db: str | None = None
    keys_from: str | None = None
    eviction_metadata: str | None = None
    follow: str | None = None
    read: str | None = None
    comparison: str | None = None

    def differences(self, command: Setup) -> list[str]:
        """Return one text for each field where `command` differs from what the journal has."""
        return [
            f"{f.name.replace('_', '-')}: the journal has {_shown(mine)}, the command says {_shown(theirs)}"
            for f in fields(self)
            if (mine := getattr(self, f.name)) != (theirs := getattr(command, f.name))
        ]


@dataclass(frozen=True)
class JobRecord:
    """A job as the journal knows it; times are seconds since 1970. `status` may also be `running`."""

    name: str
    setup: Setup
    partition_count: int
    run_id: str
    status: str
    totals: Totals
    created: float
    updated: float
    runs: int


@dataclass(frozen=True)
class RunRecord:
    """One run of a job: `keys` are the job's at its end, None while it runs or where it was killed."""

    number: int
    resumed: bool
    host: str
    pid: int
    started: float
    ended: float | None
    status: str
    keys: Keys | None
    elapsed_seconds: float | None
    error_kind: str | None
    error_message: str | None


@dataclass(frozen=True)
class Mark:
    """A partition's low-water mark: SCAN goes on at `cursor`, unless `done`."""

    index: int
    cursor: int
    done: bool
    database: int = 0


@dataclass(frozen=True)
class ClusterRecord:
    """Of a job whose source is a cluster: the nodes of its partitions, in order, as node id and run id.

    `doubts` are the slots that are to be read again; `look` is who owned what when that was true.
    """

    layout: tuple[tuple[str, str], ...]
    doubts: frozenset[int]
    look: str


@dataclass(frozen=True)
class PendingKey:
    """A key whose slot stayed unavailable."""

    key: bytes
    slot: int
    reason: str
    database: int = 0


@dataclass(frozen=True)
class Advance:
    """What a checkpoint adds to the one before: `totals` are increments, their pending and failed unused.

    All of it belongs to one `database` of the source.
    """

    totals: Totals = field(default_factory=Totals)
    marks: Sequence[Mark] = ()
    resolved: Sequence[bytes] = ()
    failures: Sequence[FailedKey] = ()
    pending: Sequence[PendingKey] = ()
    notes: Sequence[FailedKey] = ()
    database: int = 0
    big_positions: Sequence[tuple[bytes, str]] = ()
    follow: FollowMark | None = None


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
