"""Hanging up on nodes that do not answer, where a run is to end at once.

Invariant: whoever comes to an end by himself within a moment is not cut off, nor what is `Gate.unbroken`. For
the servers, and for the next run, it is as if this process had been killed: the journal has what may be open.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType

from slotferry.admin import Connector
from slotferry.errors import SlotferryError
from slotferry.reshard.care import Gate

_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 1.0


class Hangup:
    """Looks after a run in a thread of its own. Of what was lost by it the run hears as its interruption."""

    def __init__(self, connector: Connector, gate: Gate) -> None:
        self._connector = connector
        self._gate = gate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-hangup", daemon=True)

    def __enter__(self) -> Hangup:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if isinstance(error, SlotferryError) and (reason := self._gate.reason_of(error)) is not error:
            raise reason from error

    def _run(self) -> None:
        deadline: float | None = None
        while not self._ended.wait(_LOOK_SECONDS):
            if not self._gate.abandoned:
                continue
            if deadline is None:
                deadline = time.monotonic() + _GRACE_SECONDS
            if time.monotonic() >= deadline:
                self._gate.hang_up(self._connector)  # again and again: somebody may just have opened another
