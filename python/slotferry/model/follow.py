"""How a source is followed, at one instant: the values that events, reports and displays share.

Invariant: a value is frozen and holds what the engine said, and nothing that was worked out from text.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotferry import _core


@dataclass(frozen=True)
class Lag:
    """How far the target is behind what was received of the source's stream, at one instant."""

    bytes: int
    seconds: float
    connected: bool
    """Whether the stream flows now."""
    in_doubt: bool
    """Whether something waits for a comparison of both sides: until then no offset is clean."""


@dataclass(frozen=True)
class FollowProgress:
    """Counts are of this run. `lag_bytes` of the source's stream are received and not at the target yet.

    `lag_seconds` is how long ago the first of them was received. `touched` keys are to be copied again;
    `writes` are commands that touched keys. A resync is a stream that began anew with a gap; a comparison
    of both sides settles what is `in_doubt` then. `writes_per_second` is None until it was seen for a second.
    """

    lag_bytes: int
    lag_seconds: float
    touched: int
    writes: int
    resyncs: int
    comparisons: int
    connected: bool
    in_doubt: bool
    busy_keys: int = 0
    """Keys that are written all the time: they are copied when they rest, and the lag does not count them."""
    writes_per_second: float | None = None

    @classmethod
    def of(cls, seen: _core.FollowProgress) -> FollowProgress:
        """Return what the engine says."""
        return cls(
            lag_bytes=seen.lag_bytes,
            lag_seconds=round(seen.lag_seconds, 3),
            touched=seen.touched,
            writes=seen.writes,
            resyncs=seen.resyncs,
            comparisons=seen.comparisons,
            connected=seen.connected,
            in_doubt=seen.in_doubt,
            busy_keys=len(seen.busy_keys),
        )

    def at_rate(self, writes_per_second: float | None) -> FollowProgress:
        """Return the same with a rate."""
        rate = None if writes_per_second is None else round(writes_per_second, 1)
        return replace(self, writes_per_second=rate)


@dataclass(frozen=True)
class FollowMark:
    """Where a job goes on following: all before it is at the target, but for what a comparison settles.

    `phase` is `copying` until the bulk copy has come to its end, then `following`.
    """

    phase: str
    replication_id: str
    offset: int
    database: int
    in_doubt: bool

    @property
    def position(self) -> tuple[str, int, int]:
        """What the engine goes on from."""
        return self.replication_id, self.offset, self.database
