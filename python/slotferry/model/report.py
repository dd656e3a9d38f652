"""What a run ended with: the summary of the command line, of `--json` and of `--report`.

Invariant: every scanned key is in exactly one of the outcomes, so after a run they add up to `scanned`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from slotferry.errors import ExitCode, OutputError, SlotferryError
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.cutover import CutoverReport
from slotferry.model.differences import DIFFERENCES, Difference
from slotferry.model.follow import FollowProgress

if TYPE_CHECKING:
    from slotferry.model.history import HistoryEntry


Status = Literal[
    "completed",
    "completed_with_failures",
    "completed_with_differences",
    "cut_over",
    "interrupted",
    "failed",
]


@dataclass(frozen=True)
class Report:
    """How a run ended. `totals` are the job's, over all its runs; times and rates are this run's.

    `failures` are the first few failed keys; all of them are in the journal. `failed_kinds` counts them by
    kind. `notes` counts the keys that
    are copied without something that a policy gave up (`field_ttl`); the journal names them.
    `keys_by_primary` is this run's. `history` is what happened since the job was last completed, over all its
    runs: failovers, lost nodes, decisions. `error` says why the status is `interrupted` or `failed`.
    `verification` is set where one followed. `empty` says why no key was found, where none was; with
    `fail_if_empty` such a run is not `ok`. `follow` is how the source was followed at last, `cutover`
    what came of the last cut-over that was tried.
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
    history: tuple[HistoryEntry, ...] = ()
    empty: Emptiness | None = None
    fail_if_empty: bool = False
    follow: FollowProgress | None = None
    cutover: CutoverReport | None = None

    @property
    def keys(self) -> Keys:
        """The job's keys by outcome."""
        return self.totals.keys

    @property
    def ok(self) -> bool:
        """Whether every key is there: nothing failed, pending or left to scan; or the job is cut over."""
        if self.status == "cut_over":
            return self.error is None
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
        followed = {} if self.follow is None else {"follow": asdict(self.follow)}
        cut_over = {} if self.cutover is None else {"cutover": self.cutover.to_dict()}
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
            "history": [entry.to_dict() for entry in self.history],
            "error": None if self.error is None else self.error.to_dict(),
            **followed,
            **cut_over,
            **verified,
        }


@dataclass(frozen=True)
class VerifyReport(Report):
    """How a verification ended. `keys` are the source's; `unchanged` of them are equal.

    `target_keys` are those of the target that were looked for at the source. `differences` counts keys by
    kind, what could not be compared included; `examples` are the first few. `repaired` keys differed and were
    sent again, `deleted` ones were extra; both were compared once more, so they are among the equal ones or
    gone. `to_send` and `to_delete` are how many were to be, before the repair or in a dry run. `quick` and
    `sample` say what the result stands for. `misplaced_repair` is the command that brings misplaced keys to
    their slots' owners; None where there are none.
    """

    target_keys: Keys = field(default_factory=Keys)
    differences: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    examples: tuple[Difference, ...] = ()
    repaired: int = 0
    deleted: int = 0
    to_send: int = 0
    to_delete: int = 0
    misplaced_repair: str | None = None
    dry_run: bool = False
    quick: bool = False
    sample: float | None = None

    @property
    def differing(self) -> int:
        """How many keys differ or could not be compared."""
        return sum(self.differences.values())

    @property
    def ok(self) -> bool:
        """Whether both sides were compared whole and are the same (with `fail_if_empty`: and not empty)."""
        return self._same and not self._fails_empty

    @property
    def _same(self) -> bool:
        return self.error is None and not self.differing and not self.pending

    @property
    def pending(self) -> int:
        """How many keys could not be read at the target: their slots stayed unavailable."""
        return self.keys.pending + self.target_keys.pending

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with."""
        differ = self.differing or self.pending
        if self.error is not None and not (isinstance(self.error, OutputError) and differ):
            return self.error.exit_code
        return ExitCode.OK if self.ok else ExitCode.INCOMPLETE

    def to_dict(self) -> dict[str, Any]:
        """Return the summary: what `--json` prints last and `--report` writes."""
        counts = {kind: self.differences.get(kind, 0) for kind in DIFFERENCES}
        return {
            "type": "summary",
            "job": self.job,
            "status": self.status,
            "equal": self._same,
            "keys": {
                "source": self.keys.scanned,
                "target": self.target_keys.scanned,
                "equal": self.keys.unchanged,
                "expired": self.keys.expired,
                "vanished": self.keys.vanished,
                "pending": self.pending,
                **counts,
                "unreadable": self.differing - sum(counts.values()),
            },
            "repaired": self.repaired,
            "deleted": self.deleted,
            "to_send": self.to_send,
            "to_delete": self.to_delete,
            "misplaced_repair": self.misplaced_repair,
            "dry_run": self.dry_run,
            "quick": self.quick,
            "sample": self.sample,
            "bytes": self.totals.bytes,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "keys_per_second": round(self.keys_per_second, 1),
            "redirects": {"moved": self.totals.moved, "ask": self.totals.ask},
            "retries": self.totals.retries,
            "runs": self.runs,
            "resumed": self.resumed,
            "empty": None if self.empty is None else self.empty.to_dict(),
            "error": None if self.error is None else self.error.to_dict(),
        }


Reason = Literal["names", "source", "filters", "sample", "gone"]


@dataclass(frozen=True)
class Emptiness:
    """The likely reason why no key was found.

    `reason`: `names` (of a list of keys, none is there or none is taken), `source` (no keys in the databases
    that are read), `filters` (no key passes them), `sample` (no key falls into it), `gone` (all keys expired
    or were deleted before they were scanned). `elsewhere` counts the keys of other databases, by number.
    """

    reason: Reason
    message: str
    hint: str
    elsewhere: tuple[tuple[int, int], ...] = ()

    def __str__(self) -> str:
        return f"warning: {self.message}; {self.hint}"

    def to_dict(self) -> dict[str, Any]:
        """Return the `empty` of the summary."""
        return {**asdict(self), "elsewhere": {str(number): keys for number, keys in self.elsewhere}}
