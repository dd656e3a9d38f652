"""What the tests of following share: a core job between two servers, and what it takes to drive it.

Invariant: the engine is driven by the border alone, as a command does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from slotferry._core import Access, Event, FollowProgress, FollowSettings, Job
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.testing.servers import LocalCluster, LocalServer, LocalServerError, wait_until
from slotferry.topology.discovery import discover_source, discover_target

_PARTITIONS = 4
_CLEAN_SECONDS = 60.0


class Following:
    """A job that copies and follows; started on entry, ended on exit. It answers the engine's questions."""

    def __init__(
        self,
        source: LocalServer,
        cluster: LocalCluster,
        *,
        via: tuple[str, int] | None = None,
        position: tuple[str, int, int] | None = None,
        copies: bool = True,
        on_flush: Any = "stop",
        **settings: Any,
    ) -> None:
        """`via` is where the source is reached; without `copies`, what is there already counts as copied."""
        self.source = source
        self.events: list[Event] = []
        ours = Connector(Endpoint.parse(source.url, "source"), "source")
        theirs = Connector(Endpoint.parse(cluster.url, "target"), "target")
        facts, target = discover_source(ours), discover_target(theirs)
        described: dict[str, Any] = {
            "source": via or (source.host, source.port),
            "source_access": Access(password=source.password),
            "source_run_id": facts.server.run_id,
            "source_replication_id": facts.server.replication_id,
            "source_has_pexpiretime": facts.server.has_pexpiretime,
            "target_access": Access(),
            "target_has_pexpiretime": target.has_pexpiretime,
            "target_rdb_versions": target.rdb_versions,
            "topology": target.topology.ranges,
            "target_nodes": sorted(target.topology.node_ids),
            "partition_count": _PARTITIONS,
            "partitions": [(index, index) for index in range(_PARTITIONS)] if copies else [],
            "on_conflict": "replace",
            "follow": FollowSettings(position=position, on_flush=on_flush),
        }
        self.job = Job(**{**described, **settings})

    def __enter__(self) -> Following:
        self.job.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.job.cancel(immediately=True)
        while not self.job.wait(1.0):
            self.job.drain_events()

    @property
    def progress(self) -> FollowProgress:
        """How following stands; fails before it has begun."""
        follow = self.job.snapshot().follow
        assert follow is not None
        return follow

    def wait_event(self, kind: str) -> Event:
        """Wait for an event of that kind, and forget it and those before it."""

        def came() -> bool:
            self.events += self.job.drain_events()
            if self.job.wait(0):
                self.job.result()
            return any(event.kind.value == kind for event in self.events)

        try:
            wait_until(came, f"no {kind} event", timeout=_CLEAN_SECONDS)
        except LocalServerError as error:
            raise LocalServerError(f"{error}; there are {self.events}") from error
        while True:
            event = self.events.pop(0)
            if event.kind.value == kind:
                return event

    def wait_copied(self) -> None:
        """Wait until the bulk copy has come to the end of each partition."""
        done: set[int] = set()

        def is_done() -> bool:
            if self.job.wait(0):
                self.job.result()
            done.update(mark.index for mark in self.job.checkpoint().partitions if mark.done)
            return len(done) == _PARTITIONS

        wait_until(is_done, "the copy does not end", timeout=_CLEAN_SECONDS)

    def wait_clean(self) -> None:
        """Wait until all that the source holds now is at the target; its writers have stopped."""
        with self.source.client() as client:
            offset = client.info("replication")["master_repl_offset"]
        if not self.job.wait_clean(offset, _CLEAN_SECONDS):
            if self.job.wait(0):
                self.job.result()
            raise AssertionError(f"not clean up to {offset}: {self.progress!r}")


class Writer:
    """Calls `write` with growing numbers in a thread, from entry to exit, which raises what it raised."""

    def __init__(self, write: Callable[[int], None]) -> None:
        self.count = 0
        self._write = write
        self._stop = threading.Event()
        self._failed: RedisError | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failed is not None:
            raise self._failed

    def wait_more(self, calls: int) -> None:
        """Wait until so many more calls were made."""
        until = self.count + calls
        wait_until(
            lambda: self.count >= until or self._failed is not None,
            "the writer stands still",
            timeout=_CLEAN_SECONDS,
        )

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._write(self.count)
                self.count += 1
        except RedisError as error:  # raised in the test's own thread
            self._failed = error
