"""What a verification ended with: how many keys are the same, and what differs.

Invariant: every key of the source is in exactly one of equal, expired, vanished, pending, unreadable and the
kinds of difference; `extra` ones are the target's alone, unless they were deleted at the source meanwhile.
`misplaced` counts copies of keys: what the slot's owner holds under such a name is compared as any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from slotferry.errors import ExitCode, OutputError
from slotferry.report import FailedKey, Keys, Report
from slotferry.text import show_key

DIFFERENCES = {
    "missing": "the target lacks them",
    "extra": "the source lacks them",
    "misplaced": "on a node that does not own their slot",
    "different": "another value",
    "type": "a value of another type",
    "ttl": "the same value with another TTL",
}
"""The kinds of difference, and what each means."""

_BOTH = " <> "


@dataclass(frozen=True)
class Difference:
    """A key that is not the same on both sides; `source` and `target` are what they hold, in short.

    `kind` is one of `DIFFERENCES`, or says why the key could not be compared: `payload` (damaged, of an
    unknown type, or too large for its type), `denied`, `error`.
    """

    key: bytes
    slot: int
    kind: str
    source: str
    target: str
    node: str

    @classmethod
    def of(cls, failure: FailedKey) -> Difference:
        """Take over a failed key of the journal."""
        source, found, target = failure.message.partition(_BOTH)
        if not found:
            source, target = "", failure.message
        return cls(failure.key, failure.slot, failure.kind, source, target, failure.node)

    def to_dict(self) -> dict[str, Any]:
        """Return a line of `--differences`."""
        return {
            "key": show_key(self.key),
            "kind": self.kind,
            "source": self.source,
            "target": self.target,
            "slot": self.slot,
            "node": self.node,
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
