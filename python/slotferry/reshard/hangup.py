"""Hanging up on nodes that do not answer, where a run is to end at once.

Invariant: whoever comes to an end by himself within a moment is not cut off, nor what is `Gate.unbroken`. For
the servers, and for the next run, it is as if this process had been killed: the journal has what may be open.
Whoever only looks has nothing in hand, and is cut off without that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from slotferry.admin import Connector
from slotferry.cancel import CancelRequest
from slotferry.errors import SlotferryError
from slotferry.reshard.care import Gate

_LOOK_SECONDS = 0.05
_GRACE_SECONDS = 1.0


class Hangup:
    """Looks after a run in a thread of its own. Of what was lost by it the run hears as its interruption."""

    def __init__(self, connector: Connector, gate: Gate) -> None:
        self._gate = gate
        self._watch = _Watch(lambda: gate.abandoned, lambda: gate.hang_up(connector), _GRACE_SECONDS)

    def __enter__(self) -> Hangup:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.__exit__()
        if isinstance(error, SlotferryError) and (reason := self._gate.reason_of(error)) is not error:
            raise reason from error


@contextmanager
def looking(connector: Connector, cancel: CancelRequest) -> Iterator[None]:
    """Look after what changes nothing: it ends where `cancel` is asked for, be it immediately or not.

    What was seen with lost connections is worth nothing, so this raises `MigrationInterrupted` then, whatever
    came of it.
    """
    ending = CancelRequest(saves=False, within=cancel)
    try:
        with _Watch(lambda: ending.level > 0, connector.hang_up, grace=0.0):
            yield
    except SlotferryError as error:
        if ending.level:
            raise ending.error() from error
        raise
    ending.check()


class _Watch:
    """A thread that hangs up where that is `asked` for, `grace` seconds later."""

    def __init__(self, asked: Callable[[], bool], hang_up: Callable[[], None], grace: float) -> None:
        self._asked = asked
        self._hang_up = hang_up
        self._grace = grace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-hangup", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        deadline: float | None = None
        while not self._ended.wait(_LOOK_SECONDS):
            if not self._asked():
                continue
            if deadline is None:
                deadline = time.monotonic() + self._grace
            if time.monotonic() >= deadline:
                self._hang_up()  # again and again: somebody may just have opened another
