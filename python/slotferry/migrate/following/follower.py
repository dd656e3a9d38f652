"""What a job that follows its source offers to whoever ends it: a cut-over.

Invariant: nothing here stops the source or writes to it, and every call may be made from any thread. Offsets
are the source's (`master_repl_offset`), in bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from slotferry.model.follow import Lag
from slotferry.net.connector import Connector


class Follower(Protocol):
    """A job that is followed at this moment."""

    @property
    def job(self) -> str:
        """The job's name in the journal."""

    @property
    def source(self) -> Connector:
        """How the source is reached."""

    @property
    def copied(self) -> bool:
        """Whether the bulk copy has come to its end: what is left is following alone."""

    def lag(self) -> Lag | None:
        """Return how far behind it is; None while no stream is attached yet, or none any more."""

    def wait_clean(self, offset: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds until all of the stream up to `offset` is at the target.

        Return whether it is so: False also where the job ends or begins anew meanwhile.
        """

    def finish(self, offset: int) -> None:
        """Let the run end well, once the stream up to `offset` is at the target. Returns at once."""


Handler = Callable[[Follower, Mapping[str, Any]], Mapping[str, Any]]
"""Answers a request of the control socket: what was sent along in, what is added to the answer out.

It is called in a thread of the client's own, which waits five seconds for the answer: what takes longer
begins in a thread of its own, and is asked for again. Raises `SlotferryError` for what is refused.
"""
