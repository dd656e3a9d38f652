"""Hanging up on servers that do not answer, where a run is to end at once.

Invariant: whoever only looks has nothing in hand, and is cut off as soon as an end is asked for; whoever
works is cut off where an end at once is asked for, after a moment in which it may come by itself. What was
lost by that ends as an interruption.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from slotferry.errors import SlotferryError, SourceLostError, TargetLostError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.net.connector import Connector

GRACE_SECONDS = 1.0
_LOOK_SECONDS = 0.05


@contextmanager
def looking(cancel: CancelRequest, *connectors: Connector) -> Iterator[None]:
    """Look after what changes nothing: it ends where `cancel` is asked for, be it immediately or not.

    What was seen with lost connections is worth nothing, so this raises `MigrationInterrupted` then, whatever
    came of it.
    """
    ending = CancelRequest(saves=False, within=cancel)
    try:
        with Watch(lambda: ending.level > 0, lambda: _hang_up(connectors)):
            yield
    except SlotferryError as error:
        if ending.level:
            raise ending.error() from error
        raise
    ending.check()


@contextmanager
def working(cancel: CancelRequest, *connectors: Connector) -> Iterator[None]:
    """Look after what may be under way: it is hung up on a moment after an end at once was asked for.

    What comes of that is judged by `reason_of`.
    """
    with Watch(lambda: cancel.level > 1, lambda: _hang_up(connectors), GRACE_SECONDS):
        yield


def reason_of(error: SlotferryError, cancel: CancelRequest) -> SlotferryError:
    """Return what a run ends with that met `error`: who is hung up on is not lost."""
    lost = isinstance(error, (SourceLostError, TargetLostError))
    return cancel.error() if lost and cancel.level > 1 else error


def _hang_up(connectors: tuple[Connector, ...]) -> None:
    for connector in connectors:
        connector.hang_up()


class Watch:
    """A thread that hangs up where that is `asked` for, `grace` seconds later."""

    def __init__(self, asked: Callable[[], bool], hang_up: Callable[[], None], grace: float = 0.0) -> None:
        self._asked = asked
        self._hang_up = hang_up
        self._grace = grace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-hangup", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
