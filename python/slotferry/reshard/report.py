"""What an `apply` ended with.

Invariant: every slot of the plan is in exactly one of moved, left (with a reason) and remaining.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from slotferry.errors import ExitCode, SlotferryError
from slotferry.reshard.cluster.wire import format_ranges

Status = Literal[
    "completed", "balanced", "outside_window", "slots_left", "work_left", "interrupted", "failed"
]


def is_left_open(reason: str) -> bool:
    """Whether a slot that was left for this reason lies open between two nodes, and not where it was."""
    return reason.startswith("open")


@dataclass(frozen=True)
class Report:
    """How a run ended. Slots, keys and bytes are the job's, over all its runs; time and rate are this run's.

    `remaining` slots are for the next run; `left` ones stay where they are, or lie open, for the reason
    given. `reason` says why work is left.
    """

    job: str
    status: Status
    method: str = ""
    moved: int = 0
    remaining: int = 0
    left: Mapping[int, str] = field(default_factory=dict)
    keys: int = 0
    bytes: int = 0
    elapsed_seconds: float = 0.0
    keys_per_second: float = 0.0
    runs: int = 0
    resumed: bool = False
    conflicts: int = 0
    reason: str = ""
    opens_at: float | None = None
    error: SlotferryError | None = None

    @property
    def ok(self) -> bool:
        """Whether every slot is where the plan wants it."""
        return self.status in ("completed", "balanced")

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with; 75 means: work is left, run me again."""
        if self.error is not None:
            return self.error.exit_code
        if self.status == "work_left":
            return ExitCode.WORK_LEFT
        # A scheduler that comes outside of the window has done nothing wrong, and nothing is half done.
        return ExitCode.OK if self.ok or self.status == "outside_window" else ExitCode.INCOMPLETE

    @property
    def left_open(self) -> int:
        """How many of the slots that were left lie open between two nodes."""
        return sum(map(is_left_open, self.left.values()))

    def left_by_reason(self) -> dict[str, str]:
        """Return the slots that were left, as ranges, by reason."""
        grouped: dict[str, list[int]] = {}
        for slot, reason in sorted(self.left.items()):
            grouped.setdefault(reason, []).append(slot)
        return {reason: format_ranges(slots) for reason, slots in grouped.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the summary: what `--json` prints last and `--report` writes."""
        return {
            "type": "summary",
            "job": self.job,
            "status": self.status,
            "method": self.method,
            "slots": {"moved": self.moved, "left": len(self.left), "remaining": self.remaining},
            "left": [{"slots": slots, "reason": why} for why, slots in self.left_by_reason().items()],
            "keys": self.keys,
            "bytes": self.bytes,
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "keys_per_second": round(self.keys_per_second, 1),
            "runs": self.runs,
            "resumed": self.resumed,
            "conflicts": self.conflicts,
            "reason": self.reason or None,
            "opens_at": self.opens_at,
            "error": None if self.error is None else self.error.to_dict(),
        }
