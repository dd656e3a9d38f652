"""Events on their way from a run to one reader, in another thread or in a coroutine.

Invariant: a run is never slowed down by its reader, and a slow reader's queue stays short: of what only says
how far the run is, the newest unread event is kept.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from slotferry.model.events import CheckpointSaved, Event, Progress, RunEnded

_PASSING = (Progress, CheckpointSaved)


class EventQueue:
    """Hands events to one reader, which waits for them."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Take an event; called by the run's thread."""
        with self._changed:
            if isinstance(event, _PASSING):
                self._forget_outdated(type(event))
            self._events.append(event)
            self._changed.notify()

    def take(self) -> Event | None:
        """Return the next event; None where there is none yet."""
        with self._changed:
            return self._events.popleft() if self._events else None

    def _forget_outdated(self, kind: type[Event]) -> None:
        """Forget an unread event of this kind, if only passing ones have come since."""
        for index in range(-1, -len(self._events) - 1, -1):
            if not isinstance(self._events[index], _PASSING):
                return
            if isinstance(self._events[index], kind):
                del self._events[index]
                return

    def __iter__(self) -> Iterator[Event]:
        while True:
            with self._changed:
                while not self._events:
                    self._changed.wait()
                event = self._events.popleft()
            yield event
            if isinstance(event, RunEnded):
                return


class AsyncEvents:
    """Hands events to one coroutine of the loop in which it is made."""

    def __init__(self) -> None:
        import asyncio

        self._queue = EventQueue()
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        """Take an event; called by the run's thread."""
        self._queue.put(event)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(self._arrived.set)

    async def get(self) -> Event:
        """Wait for the next event and return it; cancelled, it takes none."""
        while True:
            self._arrived.clear()
            if (event := self._queue.take()) is not None:
                return event
            await self._arrived.wait()
