"""What a run ended with: the summary of the command line, of `--json` and of `--report`.

Invariant: every scanned key is in exactly one of the outcomes, so after a run they add up to `scanned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from slotferry.errors import ExitCode, SlotferryError

if TYPE_CHECKING:
    from slotferry._core import Counts
    from slotferry.emptiness import Emptiness
    from slotferry.story import Happening
    from slotferry.verify_report import VerifyReport

Status = Literal[
    "completed", "completed_with_failures", "completed_with_differences", "interrupted", "failed"
]


@dataclass(frozen=True)
class Keys:
    """How many keys ended how.

    `unchanged`: the target already had the same value; `skipped`: it had a value and `on_conflict` is
    `skip`; `expired`: the TTL ran out on the way; `vanished`: deleted at the source after it was scanned;
    `pending`: its slot stayed unavailable; `failed`: given up, with the reason in the journal.
    """

    scanned: int = 0
    migrated: int = 0
    unchanged: int = 0
    skipped: int = 0
    expired: int = 0
    vanished: int = 0
    pending: int = 0
    failed: int = 0

    @classmethod
    def of(cls, counts: Counts) -> Keys:
        """Take over the engine's counts."""
        return cls(
            counts.scanned,
            counts.migrated,
            counts.unchanged,
            counts.skipped,
            counts.expired,
            counts.vanished,
            counts.pending,
            counts.failed,
        )

    def __add__(self, other: Keys) -> Keys:
        return Keys(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Keys) -> Keys:
        return Keys(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def settled(self) -> int:
        """Keys that nothing remains to be done for."""
        return self.migrated + self.unchanged + self.skipped + self.expired + self.vanished

    @property
    def done(self) -> int:
        """Keys that have an outcome."""
        return self.settled + self.pending + self.failed

    @property
    def add_up(self) -> bool:
        """Whether every scanned key has an outcome and none has two."""
        return self.scanned == self.done


@dataclass(frozen=True)
class Totals:
    """Figures that add up over the runs of a job."""

    keys: Keys = field(default_factory=Keys)
    bytes: int = 0
    moved: int = 0
    ask: int = 0
    retries: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.keys + other.keys,
            self.bytes + other.bytes,
            self.moved + other.moved,
            self.ask + other.ask,
            self.retries + other.retries,
        )

    def __sub__(self, other: Totals) -> Totals:
        return Totals(
            self.keys - other.keys,
            self.bytes - other.bytes,
            self.moved - other.moved,
            self.ask - other.ask,
            self.retries - other.retries,
        )


@dataclass(frozen=True)
class FailedKey:
    """A key that was given up: `kind` is conflict, ttl_conflict, payload, too_large, denied or error."""

    key: bytes
    slot: int
    kind: str
    message: str
    node: str
    database: int = 0


@dataclass(frozen=True)
class Report:
    """How a run ended. `totals` are the job's, over all its runs; times and rates are this run's.

    `failures` are the first few failed keys; all of them are in the journal. `failed_kinds` counts them by
    kind. `notes` counts the keys that
    are copied without something that a policy gave up (`field_ttl`); the journal names them.
    `keys_by_primary` is this run's. `story` is what happened since the job was last completed, over all its
    runs: failovers, lost nodes, decisions. `error` says why the status is `interrupted` or `failed`.
    `verification` is set where one followed. `empty` says why no key was found, where none was; with
    `fail_if_empty` such a run is not `ok`.
    """

    job: str
    status: Status
    totals: Totals
    elapsed_seconds: float
    keys_per_second: float
    runs: int
    resumed: bool
    error: SlotferryError | None = None
    failures: tuple[FailedKey, ...] = ()
    failed_kinds: Mapping[str, int] = field(default_factory=dict)
    keys_by_primary: tuple[tuple[str, int], ...] = ()
    engine_cpu_seconds: float = 0.0
    notes: int = 0
    collisions: int = 0
    verification: VerifyReport | None = None
    story: tuple[Happening, ...] = ()
    empty: Emptiness | None = None
    fail_if_empty: bool = False

    @property
    def keys(self) -> Keys:
        """The job's keys by outcome."""
        return self.totals.keys

    @property
    def ok(self) -> bool:
        """Whether every key is there: nothing failed, nothing pending, nothing left to scan."""
        verified = self.verification is None or self.verification.ok
        return self.status == "completed" and verified and not self._fails_empty

    @property
    def _fails_empty(self) -> bool:
        return self.fail_if_empty and self.empty is not None

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with."""
        if self.error is not None:
            return self.error.exit_code
        return ExitCode.OK if self.ok else ExitCode.INCOMPLETE

    def to_dict(self) -> dict[str, Any]:
        """Return the summary: what `--json` prints last and `--report` writes."""
        verification = self.verification
        verified = {} if verification is None else {"verification": verification.to_dict()}
        return {
            "type": "summary",
            "job": self.job,
            "status": self.status,
            "keys": asdict(self.keys),
            "bytes": self.totals.bytes,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "keys_per_second": round(self.keys_per_second, 1),
            "redirects": {"moved": self.totals.moved, "ask": self.totals.ask},
            "retries": self.totals.retries,
            "notes": self.notes,
            "collisions": self.collisions,
            "runs": self.runs,
            "resumed": self.resumed,
            "empty": None if self.empty is None else self.empty.to_dict(),
            "story": [happening.to_dict() for happening in self.story],
            "error": None if self.error is None else self.error.to_dict(),
            **verified,
        }
