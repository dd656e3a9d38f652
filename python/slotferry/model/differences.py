"""A key that is not the same on both sides, and the kinds of difference.

Invariant: the kinds are written down here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slotferry.model.counts import FailedKey
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
        # What could not be compared says why, behind what the target holds, or in place of both.
        target = ": ".join(part for part in (failure.target, failure.message) if part)
        return cls(failure.key, failure.slot, failure.kind, failure.source or "", target, failure.node)

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
