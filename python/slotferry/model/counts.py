"""How many keys ended how, and which were given up.

Invariant: every scanned key is in exactly one of the outcomes.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from slotferry.text import show_key

if TYPE_CHECKING:
    from slotferry._core import Counts


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
    """A key that was given up: `kind` is conflict, ttl_conflict, payload, too_large, denied or error.

    Of a verification, `kind` may be one of `differences.DIFFERENCES` as well; `source` and `target` are then
    what the two sides hold, in short.
    """

    key: bytes
    slot: int
    kind: str
    message: str
    node: str
    database: int = 0
    source: str | None = None
    target: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object, without the sides: those are a difference's (`Difference.to_dict`)."""
        return {
            "key": show_key(self.key),
            "slot": self.slot,
            "kind": self.kind,
            "message": self.message,
            "node": self.node,
            "database": self.database,
        }
