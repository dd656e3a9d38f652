"""What a reshard tells while it goes on; every display is fed by these.

Invariant: an event is a value, complete in itself and free of secrets; the last one is `ReshardEnded`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from slotferry.model.notices import Event
from slotferry.reshard.report import Report


@dataclass(frozen=True)
class ReshardStarted(Event):
    """The work begins, or goes on (`resumed`)."""

    type: ClassVar[str] = "run_started"

    job: str
    run: int
    resumed: bool
    cluster: str
    method: str
    slots: int
    keys: int
    open_slots: int


@dataclass(frozen=True)
class ReshardProgress(Event):
    """How far it is: slots and keys of this job, over all its runs; the rate is over the last seconds.

    `state` is `running`, `paused` or `waiting`; `reason` says why it does not go on as it could, and
    `paused_by` (`operator`, `latency`) what pauses it.
    """

    type: ClassVar[str] = "progress"

    state: str
    reason: str
    slots_done: int
    slots: int
    keys_moved: int
    keys: int
    bytes_moved: int
    keys_per_second: float | None
    elapsed_seconds: float
    slots_left: int = 0
    paused_by: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest takes at the present rate; None where that can't be said."""
        if not self.slots_done or not self.elapsed_seconds:
            return None
        if self.keys_per_second and self.keys > self.keys_moved:
            return (self.keys - self.keys_moved) / self.keys_per_second
        return None


@dataclass(frozen=True)
class SlotsLeft(Event):
    """Slots that stay where they are, and why."""

    type: ClassVar[str] = "slots_left"

    slots: str
    reason: str


@dataclass(frozen=True)
class ReshardEnded(Event):
    """The end, however it came; in JSON it is the summary."""

    type: ClassVar[str] = "summary"

    report: Report

    def to_dict(self) -> dict[str, Any]:
        """Return the summary."""
        return self.report.to_dict()
