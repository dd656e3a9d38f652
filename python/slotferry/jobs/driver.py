"""Drives the engine: starts core jobs for one pair of sides and takes each to its end.

Invariant: pull-only. The loop waits, drains events, pushes what the engine asked for and reports what it
sees; it never blocks on a server (topology is refreshed in a thread of its own).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slotferry._core import EngineError, ErrorKind, EventKind
from slotferry.errors import SourceNotReadyError
from slotferry.jobs.cluster.source import ClusterSource, NodeWork
from slotferry.jobs.cluster.watch import ClusterWatch
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.controls import Controls, Steering
from slotferry.jobs.engine_errors import from_engine
from slotferry.jobs.job_group import EngineJob, JobGroup, Rates
from slotferry.jobs.journal.records import JobRecord
from slotferry.jobs.options import Options
from slotferry.jobs.partitions import PAGE_KEYS
from slotferry.model.events import (
    EngineNews,
    Event,
    Notice,
    Resynced,
    TopologyChanged,
)
from slotferry.net.access_keeper import AccessKeeper
from slotferry.net.connector import Connector
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.databases import Route
from slotferry.topology.discovery import (
    SourceFacts,
    TargetFacts,
    Topology,
)
from slotferry.topology.eviction import Eviction
from slotferry.topology.product import scans_by_slot
from slotferry.topology.rdb_file import target_now
from slotferry.topology.sentinel import ServiceFinder, SourceWatch
from slotferry.topology.views import TopologyRefresher, TopologyViews

if TYPE_CHECKING:
    from slotferry._core import Job, Snapshot

_WAIT_SECONDS = 0.1
_PARK_SECONDS = 20.0  # outlasts the failover of a primary

Emit = Callable[[Event], None]
_Watch = SourceWatch | ClusterWatch


@dataclass(frozen=True)
class Sides:
    """Source and target, and what discovery found out about them."""

    source: Connector
    target: Connector
    source_facts: SourceFacts
    target_facts: TargetFacts
    routes: tuple[Route, ...] = ()
    eviction: Eviction | None = None

    @property
    def ways(self) -> tuple[Route, ...]:
        """The way of each database: unless said otherwise, of the one that the source's URL names."""
        return self.routes or (Route(self.source.endpoint.database, self.target.endpoint.database),)


@dataclass(frozen=True)
class Work:
    """What one core job is given: (index, cursor) of partitions, names of keys, when to park a slot.

    All of it is of one database; `route` is None where it is the only one.
    """

    partitions: Sequence[tuple[int, int]] = ()
    keys: Sequence[bytes] = ()
    big_positions: Sequence[tuple[bytes, str]] = ()
    park_after: float = _PARK_SECONDS
    scan_only: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    """More of the engine's settings, which go before the options'."""
    route: Route | None = None
    slots: frozenset[int] | None = None
    """Read all keys of these slots of a source that is a cluster again, instead of partitions."""


@dataclass(frozen=True)
class RunFigures:
    """What a run has used and done, over all its core jobs, and by whom it is paused, if it is."""

    engine_cpu_seconds: float
    keys_by_primary: tuple[tuple[str, int], ...]
    retries_by_reason: tuple[tuple[str, int], ...]
    paused_by: str | None


def copy_id(record: JobRecord, database: int) -> str:
    """Return what names a job and its source among all jobs, whatever journals they are in."""
    names = (record.name, record.created, record.setup.source, database)
    return hashlib.sha256(repr(names).encode()).hexdigest()[:16]


class EngineDriver:
    """Starts core jobs for one pair of sides and takes each to its end."""

    def __init__(
        self,
        sides: Sides,
        options: Options,
        emit: Emit,
        cancel: CancelRequest,
        controls: Controls | None = None,
    ) -> None:
        self.sides = sides
        self.options = options
        self.emit = emit
        self.cancel = cancel
        self.controls = controls or Controls(cancel, options.rates)
        self._steering = Steering(self.controls)
        self.engine_cpu_seconds = 0.0
        self.keys_by_primary: Counter[str] = Counter()
        self.retries_by_reason: Counter[str] = Counter()
        self.record: JobRecord | None = None
        """The job in the journal, after which temporary keys are named; None: nothing is resumed."""
        self._uncounted = False
        """Whether a core job goes on, whose figures are not among these yet."""
        self._checkpoint_wanted = False
        self._functions_changed = False
        self._stdin_is_read = False
        facts = sides.source_facts
        self.cluster = ClusterSource(sides.source, facts.look) if isinstance(facts, ClusterFacts) else None
        """The source where it is a cluster."""
        self.topology = sides.target_facts.topology
        """The target's, as it is known now."""
        self._access = AccessKeeper({"source": sides.source, "target": sides.target})
        views = TopologyViews.of(sides.target, self.topology.node_ids)
        self._refresher = TopologyRefresher(lambda: views.refresh(self.topology.primaries))

    def new_work(self, work: Work, partition_count: int) -> EngineJob:
        """Describe what does `work`: a core job, or one for each primary of the source.

        Raises `SlotferryError`.
        `partition_count` is how many partitions the database has, over all primaries.
        """
        cluster = self.cluster
        if cluster is None:
            return self.new_job(work, partition_count)
        sweeps = work.settings.get("sweeps", ())
        each = max(1, partition_count // cluster.nodes)
        targets = len(self.sides.target_facts.primaries)
        parts = cluster.split(work.partitions, targets if sweeps else each, work.keys, sweeps, work.slots)
        jobs = []
        for part in parts:
            settings = {**work.settings, **({"sweeps": part.sweeps} if sweeps else {})}
            share = replace(
                work, partitions=part.partitions, keys=part.keys, settings=settings,
                big_positions=part.positions_of(work.big_positions),
            )  # fmt: skip
            jobs.append((self.new_job(share, 1 if sweeps else each, part, len(parts)), part.first))
        rates = Rates(self.options.max_keys_per_second, self.options.max_bytes_per_second)
        return JobGroup(jobs, rates)

    def new_job(self, work: Work, partition_count: int, node: NodeWork | None = None, among: int = 1) -> Job:
        """Describe a core job; `node` is the primary of the source that it reads, of so many that are read.

        Raises `SlotferryError`.
        """
        from slotferry._core import Job

        source, facts = self.sides.source.endpoint, self.sides.source_facts
        route, selection = work.route or self.sides.ways[0], self.options.selection
        address = facts.address(source) if node is None else node.node.address
        server = facts.server if node is None else node.server
        file = self._file(route)
        settings: dict[str, Any] = {
            "file": file,
            "source": source.path if address is None else (address.host, address.port),
            "source_access": self.sides.source.access(route.source),
            "source_run_id": server.run_id,
            "source_replication_id": server.replication_id,
            "source_cluster": None if node is None else (scans_by_slot(server.product), node.only),
            "source_has_pexpiretime": file is not None or server.has_pexpiretime,
            "target_access": self.sides.target.access(route.target),
            "target_has_pexpiretime": self.sides.target_facts.has_pexpiretime,
            "target_rdb_versions": self.sides.target_facts.rdb_versions,
            "target_limits": self.sides.target_facts.limits,
            "field_ttl": self.options.field_ttl,
            "big_key_bytes": self._big_key_bytes(),
            "copy_id": None if self.record is None else copy_id(self.record, route.source),
            "topology": self.topology.ranges,
            "target_nodes": sorted(self.topology.node_ids),
            "address_map": self.sides.target.address_map.rules,
            "on_conflict": self.options.on_conflict,
            "key_map": selection.key_map(route.prefix, whole=file is not None),
            "value_filter": selection.value_filter(),
            "eviction": self.sides.eviction,
            "match": selection.scan_match if file is None else None,
            "type": selection.scan_type,
            "page_keys": PAGE_KEYS,
            "memory_limit": max(1, self.options.memory_limit // among),
            "retry_for": self.options.retry_for,
            **Rates(self.options.max_keys_per_second, self.options.max_bytes_per_second).share(among),
            "pause_above_latency": _seconds(self.options.pause_above_latency),
            "wait_replicas": self.options.wait_replicas,
            "wait_timeout": self.options.wait_timeout / 1000,
        }
        with self._engine_errors():
            return Job(
                partition_count=partition_count,
                partitions=work.partitions,
                keys=work.keys,
                big_positions=work.big_positions,
                park_after=min(work.park_after, self.options.retry_for),
                scan_only=work.scan_only,
                **{**settings, **work.settings},
            )

    def _file(self, route: Route) -> tuple[str | None, str, tuple[int, int] | None, int, bool, int] | None:
        """Return the RDB file to read, as the engine takes it; None for a server. Raises `SlotferryError`."""
        file = self.sides.source_facts.file
        if file is None:
            return None
        if file.path is None and self._stdin_is_read:
            raise SourceNotReadyError(
                "the RDB file came from stdin, and has to be read again for keys that the target lacks",
                hint="save it in a file, and copy from that",
            )
        self._stdin_is_read = True
        now = target_now(self.sides.target, self.sides.target_facts)
        return (file.path, file.name, file.stamp, route.source, self.options.ignore_checksum, now)

    def _big_key_bytes(self) -> int | None:
        """Return from which size on keys are copied in parts; None where no key can be so large."""
        limit, used = self.options.big_key_bytes, self.sides.source_facts.used_memory
        return None if not limit or (used is not None and used < limit) else limit

    def drive(self, job: EngineJob, tick: Callable[[], None]) -> None:
        """Run `job` to its end, calling `tick` about ten times a second. Raises what ended it."""
        with self._engine_errors(), self._source_watch() as watch:
            job.start()
            self._uncounted = True
            try:
                self._loop(job, tick, watch)
            except BaseException:
                # Also for an error of ours or Ctrl-C in a program that leaves it alone: no engine runs on.
                job.cancel(immediately=True)
                while not job.wait(_WAIT_SECONDS):
                    pass
                raise
            finally:
                self._count(job.snapshot())
            job.result()

    def take_checkpoint_wanted(self) -> bool:
        """Whether the engine has asked for a checkpoint since the last call: it reads no more before."""
        wanted, self._checkpoint_wanted = self._checkpoint_wanted, False
        return wanted

    def take_functions_changed(self) -> bool:
        """Whether the followed source's functions have changed since the last call."""
        changed, self._functions_changed = self._functions_changed, False
        return changed

    @contextmanager
    def _source_watch(self) -> Iterator[_Watch | None]:
        """Look after a source behind Sentinel, or a cluster, meanwhile."""
        if self.cluster is not None:
            with ClusterWatch(self.cluster) as cluster_watch:
                yield cluster_watch
            return
        found = self.sides.source_facts.found
        if found is None:
            yield None
            return
        with SourceWatch(ServiceFinder(self.sides.source), found) as watch:
            yield watch

    def _loop(
        self, job: EngineJob, tick: Callable[[], None], watch: SourceWatch | ClusterWatch | None
    ) -> None:
        asked = 0
        self._steering.begin(job)
        while not job.wait(_WAIT_SECONDS):
            if self.cancel.level > asked:
                asked = self.cancel.level
                job.cancel(immediately=asked > 1)
            self._serve(job)
            for change in self._steering.steer(job):
                self.emit(Notice(change))
            if watch is not None:
                self._heed(watch)
            tick()
        self._serve(job)
        if watch is not None and asked < 2:
            watch.look_once_more()
            self._heed(watch)

    def _heed(self, watch: _Watch) -> None:
        """Pass on what is told of the source; raise where another server has to be found for it."""
        for note in watch.notes():
            self.emit(Notice(note))
        if left := watch.left():
            raise from_engine(ErrorKind.SOURCE_CHANGED, left)

    @contextmanager
    def _engine_errors(self) -> Iterator[None]:
        try:
            yield
        except EngineError as error:
            kind, message = error.args
            if kind == ErrorKind.INTERRUPTED:
                raise self.cancel.error() from None
            raise from_engine(kind, message) from None

    def _serve(self, job: EngineJob) -> None:
        for event in job.drain_events():
            if event.kind == EventKind.TOPOLOGY_WANTED:
                self._refresher.want()
                continue
            if event.kind == EventKind.CHECKPOINT_WANTED:
                self._checkpoint_wanted = True
                continue
            if event.kind in (EventKind.SOURCE_ACCESS_WANTED, EventKind.SOURCE_LOST):
                self._access.want("source")
            elif event.kind in (EventKind.TARGET_ACCESS_WANTED, EventKind.NODE_LOST):
                self._access.want("target")
            if event.kind == EventKind.FOLLOW_FUNCTIONS:
                self._functions_changed = True
            if event.kind == EventKind.FOLLOW_RESYNCED:
                self.emit(Resynced(event.message))
                continue
            self.emit(EngineNews(event.kind.value, event.message, event.node, event.slot))
        for side, access in self._access.poll():
            job.set_access(side, access)
            self.emit(
                Notice(f"the {side}'s credentials or certificates changed: used from the next connection on")
            )
        topology = self._refresher.poll()
        if topology is not None:
            job.set_topology(topology.ranges, sorted(topology.node_ids))
            if topology != self.topology:
                self._announce(topology)
            self.topology = topology

    def _announce(self, topology: Topology) -> None:
        missing = sum(last - first + 1 for first, last in topology.missing)
        self.emit(TopologyChanged(tuple(map(str, topology.primaries)), missing))

    def figures(self, snapshot: Snapshot) -> RunFigures:
        """Return the run's figures at the instant of `snapshot`, which is its newest core job's."""
        cpu, primaries, retries = self.engine_cpu_seconds, self.keys_by_primary, self.retries_by_reason
        if self._uncounted:
            cpu += snapshot.engine_cpu_seconds
            primaries = primaries + Counter(dict(snapshot.keys_by_primary))
            retries = retries + Counter(dict(snapshot.retries_by_reason))
        return RunFigures(
            cpu,
            tuple(sorted(primaries.items())),
            tuple(sorted(retries.items())),
            self._paused_by(snapshot),
        )

    def _paused_by(self, snapshot: Snapshot) -> str | None:
        if snapshot.state != "paused":
            return None
        return "operator" if self.controls.paused else "cutover" if self.controls.held else "latency"

    def _count(self, snapshot: Snapshot) -> None:
        self._uncounted = False
        self.engine_cpu_seconds += snapshot.engine_cpu_seconds
        self.keys_by_primary.update(dict(snapshot.keys_by_primary))
        self.retries_by_reason.update(dict(snapshot.retries_by_reason))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
