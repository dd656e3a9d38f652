"""Looks after a source that is a cluster, once a second in a thread of its own, while a job reads it.

Invariant: the thread only looks; what a look means is decided, and written down, by who drives the job.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Iterator

from slotferry.errors import SlotferryError
from slotferry.jobs.cluster.source import ClusterSource
from slotferry.text import count_of
from slotferry.topology.cluster_source.look import ClusterLook

_LOOK_SECONDS = 1.0


class ClusterWatch:
    """A context manager; the caller polls: `notes()` are for the operator, `left()` says why to look anew."""

    def __init__(self, source: ClusterSource) -> None:
        self._source = source
        self._looks: deque[ClusterLook] = deque()
        self._failure: Exception | None = None
        self._end = threading.Event()
        # A daemon: a node that hangs must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="slotferry-source", daemon=True)

    def __enter__(self) -> ClusterWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def notes(self) -> Iterator[str]:
        """Take the looks that have come, and yield what is new. Raises what no look should end with."""
        if self._failure is not None:
            raise self._failure
        while self._looks:
            moved = self._source.note(self._looks.popleft())
            if moved:
                slots = count_of(len(moved), "slot")
                yield f"{slots} of the source moved, or on the way: read again before the end"

    def left(self) -> str:
        """Return why the source has to be looked at anew; empty while it need not."""
        return self._source.left()

    def look_once_more(self) -> None:
        """Look no more: who has driven the job does."""
        self._end.set()

    def _run(self) -> None:
        try:
            while not self._end.wait(_LOOK_SECONDS):
                with contextlib.suppress(
                    SlotferryError
                ):  # seen again in a second; the engine's limit ends it
                    self._looks.append(self._source.peek())
        except Exception as error:  # noqa: BLE001 - whoever waits for looks is told
            self._failure = error
