"""Hanging up on nodes that do not answer, where a reshard is to end at once.

Invariant: whoever comes to an end by himself within a moment is not cut off, nor what is
`Scheduler.unbroken`. For the servers, and for the next run, it is as if this process had been killed: the
journal has what may be open.
"""

from __future__ import annotations

from types import TracebackType

from slotferry.errors import SlotferryError
from slotferry.jobs.control.hangup import GRACE_SECONDS, Watch
from slotferry.net.connector import Connector
from slotferry.reshard.limits import Scheduler


class Hangup:
    """Looks after a run in a thread of its own. Of what was lost by it the run hears as its interruption."""

    def __init__(self, connector: Connector, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._watch = Watch(lambda: scheduler.abandoned, lambda: scheduler.hang_up(connector), GRACE_SECONDS)

    def __enter__(self) -> Hangup:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__(kind, error, trace)
        if isinstance(error, SlotferryError) and (reason := self._scheduler.reason_of(error)) is not error:
            raise reason from error
