"""What a cut-over needs of others: the run that follows, and a comparison of both sides.

Invariant: a cut-over knows the run by this protocol alone, so whoever follows can be cut over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from slotferry.migrate.following.follower import Follower
from slotferry.model.cutover import CheckDepth, Checked


class HeldFollower(Follower, Protocol):
    """A run that follows its source and can be held."""

    @property
    def database(self) -> int:
        """The database of the source that is followed."""

    def position(self) -> tuple[str, int, int] | None:
        """Return the mark (replication id, offset, database selected there); None as in `lag`."""

    def earlier_position(self) -> tuple[str, int, int] | None:
        """Return a mark of some seconds ago, of the same history as `position`; None as in `lag`."""

    def hold(self, timeout: float) -> bool:
        """Write nothing more to the target until `release`.

        Wait up to `timeout` seconds for what is under way; return whether nothing is. May be called again.
        """

    def release(self) -> None:
        """Go on after `hold`."""

    def compare_ahead(self) -> int:
        """Compare large keys while writes flow, from now on; return how many are not compared yet."""

    def compare_at_fence(self, timeout: float) -> Sequence[bytes]:
        """Return the keys that are proven equal, of those that were compared ahead.

        Writes are stopped, and all is clean. Takes up to `timeout` seconds, and ends comparing ahead.
        """

    def copy_again(self, keys: Sequence[bytes], is_wanted: Callable[[], bool], *, whole: bool) -> bool:
        """Copy these keys of the source, though its stream has not touched them, while that is wanted.

        A stream that is followed by its elements is copied `whole`, or no more of it than its groups.
        Return whether they are copied. Writes at the source are stopped.
        """


@dataclass(frozen=True)
class CheckRequest:
    """What is to be compared while writes are stopped."""

    depth: CheckDepth
    touched: Sequence[bytes]
    """The keys that were touched last, by the source's names."""
    is_wanted: Callable[[], bool]
    """Whether the cut-over still goes on and there is time left; to be asked now and then."""
    copy_again: Callable[[Sequence[bytes], bool], bool]
    """Copies these keys of the source once more, whole or no more of a followed stream than its groups.

    Returns whether that was done in time.
    """


Check = Callable[[CheckRequest], Checked]
