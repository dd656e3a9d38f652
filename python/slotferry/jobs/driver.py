"""Drives the engine: one core job after the other, until everything of a run is done.

Invariant: pull-only. The loop waits, drains events, pushes what the engine asked for, records checkpoints
and tells what it sees; it never blocks on a server (topology is refreshed in a thread of its own).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slotferry._core import EngineError, ErrorKind
from slotferry.errors import (
    InternalError,
    JournalError,
    SlotferryError,
    SourceLostError,
    SourceUnfitError,
    TargetLostError,
)
from slotferry.jobs.cancel import CancelRequest
from slotferry.jobs.controls import Controls, Steering
from slotferry.jobs.engine_errors import from_engine
from slotferry.jobs.journal.journal import JobRecord, Journal
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.options import Options
from slotferry.jobs.partitions import PAGE_KEYS
from slotferry.model.counts import Totals
from slotferry.model.events import (
    CheckpointSaved,
    EngineNews,
    Event,
    Notice,
    Progress,
    Resynced,
    TopologyChanged,
)
from slotferry.model.follow import FollowProgress
from slotferry.net.access_keeper import AccessKeeper
from slotferry.net.connector import Connector
from slotferry.topology.databases import Route, total_keys
from slotferry.topology.discovery import (
    SourceFacts,
    TargetFacts,
    Topology,
    TopologyRefresher,
    discover_source,
)
from slotferry.topology.eviction import Eviction
from slotferry.topology.sentinel import ServiceFinder, SourceWatch
from slotferry.topology.views import TopologyViews

if TYPE_CHECKING:
    from slotferry._core import Job, Snapshot

CHECKPOINT_SECONDS = 0.25  # what was done since the last one is looked at again after a kill
PROGRESS_SECONDS = 0.1
_WAIT_SECONDS = 0.1
_PARK_SECONDS = 20.0  # outlasts the failover of a primary
_LAST_PARK_SECONDS = 1.0
_RATE_WINDOW = 5.0
_MAX_SOURCE_CHANGES = 5

Emit = Callable[[Event], None]


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


def is_followed_alone(journal: Journal, name: str) -> bool:
    """Whether the job's source is copied to its end and followed: no cursor is used any more."""
    mark = journal.follow_mark(name)
    return mark is not None and mark.phase == "following"


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
        self.record: JobRecord | None = None
        """The job in the journal, after which temporary keys are named; None: nothing is resumed."""
        self._checkpoint_wanted = False
        self._functions_changed = False
        self.topology = sides.target_facts.topology
        """The target's, as it is known now."""
        self._access = AccessKeeper({"source": sides.source, "target": sides.target})
        views = TopologyViews.of(sides.target, self.topology.node_ids)
        self._refresher = TopologyRefresher(lambda: views.refresh(self.topology.primaries))

    def new_job(self, work: Work, partition_count: int) -> Job:
        """Describe a core job. Raises `SlotferryError`."""
        from slotferry._core import Job

        source, facts = self.sides.source.endpoint, self.sides.source_facts
        route, selection = work.route or self.sides.ways[0], self.options.selection
        address = facts.address(source)
        settings: dict[str, Any] = {
            "source": source.path if address is None else (address.host, address.port),
            "source_access": self.sides.source.access(route.source),
            "source_run_id": facts.server.run_id,
            "source_replication_id": facts.server.replication_id,
            "source_has_pexpiretime": facts.server.has_pexpiretime,
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
            "key_map": selection.key_map(route.prefix),
            "value_filter": selection.value_filter(),
            "eviction": self.sides.eviction,
            "match": selection.scan_match,
            "type": selection.scan_type,
            "page_keys": PAGE_KEYS,
            "memory_limit": self.options.memory_limit,
            "retry_for": self.options.retry_for,
            "max_keys_per_second": self.options.max_keys_per_second,
            "max_bytes_per_second": self.options.max_bytes_per_second,
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

    def _big_key_bytes(self) -> int | None:
        """Return from which size on keys are copied in parts; None where no key can be so large."""
        limit, used = self.options.big_key_bytes, self.sides.source_facts.used_memory
        return None if not limit or (used is not None and used < limit) else limit

    def drive(self, job: Job, tick: Callable[[], None]) -> None:
        """Run `job` to its end, calling `tick` about ten times a second. Raises what ended it."""
        with self._engine_errors(), self._source_watch() as watch:
            job.start()
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
    def _source_watch(self) -> Iterator[SourceWatch | None]:
        """Look after a source behind Sentinel meanwhile."""
        found = self.sides.source_facts.found
        if found is None:
            yield None
            return
        with SourceWatch(ServiceFinder(self.sides.source), found) as watch:
            yield watch

    def _loop(self, job: Job, tick: Callable[[], None], watch: SourceWatch | None) -> None:
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

    def _heed(self, watch: SourceWatch) -> None:
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

    def _serve(self, job: Job) -> None:
        for event in job.drain_events():
            if event.kind == "topology_wanted":
                self._refresher.want()
                continue
            if event.kind == "checkpoint_wanted":
                self._checkpoint_wanted = True
                continue
            if event.kind in ("source_access_wanted", "source_lost"):
                self._access.want("source")
            elif event.kind in ("target_access_wanted", "node_lost"):
                self._access.want("target")
            if event.kind == "follow_functions":
                self._functions_changed = True
            if event.kind == "follow_resynced":
                self.emit(Resynced(event.message))
                continue
            self.emit(EngineNews(event.kind, event.message, event.node, event.slot))
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

    def _count(self, snapshot: Snapshot) -> None:
        self.engine_cpu_seconds += snapshot.engine_cpu_seconds
        self.keys_by_primary.update(dict(snapshot.keys_by_primary))


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


class ProgressTeller:
    """Emits `Progress` events, not more often than every `PROGRESS_SECONDS`."""

    def __init__(self, emit: Emit, *, counts_only: bool = False) -> None:
        """Take what is told; `counts_only`: a scanned key is done."""
        self._emit = emit
        self._counts_only = counts_only
        self._begun = time.monotonic()
        self._next = 0.0
        self._seen: deque[tuple[float, int]] = deque()
        self._writes: deque[tuple[float, int]] = deque()
        self.follow: FollowProgress | None = None
        """How the source was followed when it was told last."""
        self.copied = False
        """Whether a source that is followed is copied to its end."""

    def tell(
        self, snapshot: Snapshot, totals: Totals, expected_keys: int | None, *, at_once: bool = False
    ) -> None:
        """Emit the run as it is now, if it is time, or `at_once`."""
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        done = totals.keys.scanned if self._counts_only else totals.keys.done
        self._next = now + PROGRESS_SECONDS
        if snapshot.follow is not None:
            rate = _rate(self._writes, now, snapshot.follow.writes)
            self.follow = FollowProgress.of(snapshot.follow).at_rate(rate)
        follows = self.follow is not None and self.copied and snapshot.state == "running"
        self._emit(
            Progress(
                state="following" if follows else snapshot.state,
                reason=snapshot.reason,
                keys=totals.keys,
                expected_keys=expected_keys,
                bytes=totals.bytes,
                keys_per_second=_rate(self._seen, now, done if self._counts_only else totals.keys.settled),
                elapsed_seconds=now - self._begun,
                buffered_bytes=snapshot.buffered_bytes,
                moved=totals.moved,
                ask=totals.ask,
                retries=totals.retries,
                done_keys=done,
                follow=self.follow,
            )
        )


def _rate(seen: deque[tuple[float, int]], now: float, count: int) -> float | None:
    """Return how much `count` grew in a second over the last seconds; None until a second was seen."""
    if seen and count < seen[-1][1]:
        seen.clear()  # the job started over
    seen.append((now, count))
    while now - seen[0][0] > _RATE_WINDOW:
        seen.popleft()
    since, before = seen[0]
    return (count - before) / (now - since) if now - since >= 1.0 else None


class Runner:
    """Does everything that is left of the job `name`: partitions, then keys by name."""

    def __init__(self, journal: Journal, name: str, driver: EngineDriver) -> None:
        self._journal = journal
        self._name = name
        self._driver = driver
        self._teller = ProgressTeller(driver.emit)
        self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        self._journal_fails = False
        self.started_over = False
        """Whether the source changed during the run, so that its counts began anew."""

    def run(self) -> None:
        """Work until nothing is left that can be done. Raises `SlotferryError` where the run ends early."""
        for _ in range(_MAX_SOURCE_CHANGES + 1):
            try:
                self._do_all(self._works)
                self._account()
            except SourceLostError as error:  # noqa: PERF203 - a handful of turns
                if error.kind != "source_changed":
                    raise
                self._start_over(error)
            else:
                return self._check_counts()
        raise SourceUnfitError(
            f"the source changed its run_id {_MAX_SOURCE_CHANGES + 1} times during this run",
            hint="name one server as the source, not a load balancer in front of several",
        )

    def _do_all(self, works: Callable[[], Iterator[Work]]) -> None:
        """Do all work there is; where the target took acknowledged keys back, from the last checkpoint on."""
        reached, since = -1, time.monotonic()
        while True:
            try:
                for work in works():
                    self._driver.cancel.check()
                    self._do(work)
            except TargetLostError as error:  # noqa: PERF203 - once a failover
                if error.kind != "target_failed_over":
                    raise
                self._driver.cancel.check()
                settled = self._journal.totals(self._name).keys.settled
                if settled > reached:
                    reached, since = settled, time.monotonic()
                elif time.monotonic() - since >= self._driver.options.retry_for:
                    raise
                self._driver.emit(
                    Notice(f"{error}; all that was written since the last checkpoint is sent again")
                )
            else:
                return

    def _account(self) -> None:
        """Account for what was written, where anything was."""

    def _works(self) -> Iterator[Work]:
        """Yield the core jobs of this run: scan and left-over keys, then pending keys until they stay so.

        One database after the other: a connection is in one at a time.
        """
        todo = [mark for mark in self._journal.marks(self._name) if not mark.done]
        # Failed keys are tried again once the scan is complete: until then, resuming means going on.
        with_failed = not todo
        for database, route in self._routes():
            cursors = [(mark.index, mark.cursor) for mark in todo if mark.database == database]
            left = self._journal.unsettled_keys(self._name, with_failed=with_failed, database=database)
            first = next(left, [])
            if cursors or first:
                yield Work(partitions=cursors, keys=first, route=route)
            for keys in left:
                yield Work(keys=keys, route=route)
        yield from self._pending_works()

    def _pending_works(self) -> Iterator[Work]:
        """Yield core jobs for pending keys until they stay so."""
        while pending := self._journal.totals(self._name).keys.pending:
            deadline = time.monotonic() + self._driver.options.retry_for
            for database, route in self._routes():
                for keys in self._journal.unsettled_keys(self._name, with_failed=False, database=database):
                    # The patience is for the pass: its later jobs need not wait for the same slots once more.
                    patience = max(_LAST_PARK_SECONDS, deadline - time.monotonic())
                    yield Work(keys=keys, park_after=patience, route=route)
            if self._journal.totals(self._name).keys.pending >= pending:
                return

    def _routes(self) -> list[tuple[int, Route | None]]:
        """Return the job's databases with their routes."""
        ways = self._driver.sides.ways
        if len(ways) == 1:
            return [(ways[0].source, None)]
        return [(route.source, route) for route in ways]

    def _do(self, work: Work) -> None:
        database = (work.route or self._driver.sides.ways[0]).source
        count = sum(mark.database == database for mark in self._journal.marks(self._name))
        work = replace(work, big_positions=tuple(self._journal.big_positions(self._name, database)))
        job = self._driver.new_job(work, max(count, 1))
        recorder = Recorder(self._journal, self._name, job, database)
        try:
            self._driver.drive(job, lambda: self._tick(job, recorder))
        finally:
            recorder.finish()
            self._tell_checkpoint(recorder)
            # So that what is shown last is what is recorded.
            expected = self._expected_keys(recorder.keys.scanned, recorder)
            self._teller.tell(job.snapshot(), recorder.totals, expected, at_once=True)

    def _tick(self, job: Job, recorder: Recorder) -> None:
        now = time.monotonic()
        if self._driver.take_checkpoint_wanted() or now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_SECONDS
            self._save(recorder)
        snapshot = job.snapshot()
        totals = recorder.live(snapshot)
        self._teller.tell(snapshot, totals, self._expected_keys(totals.keys.scanned, recorder))

    def _save(self, recorder: Recorder) -> None:
        try:
            recorder.save()
        except JournalError as error:
            if not self._journal_fails:
                self._driver.emit(Notice(f"{error}; trying again, the work goes on"))
            self._journal_fails = True
            return
        self._journal_fails = False
        self._tell_checkpoint(recorder)

    def _tell_checkpoint(self, recorder: Recorder) -> None:
        self._driver.emit(CheckpointSaved(recorder.keys, recorder.partitions_done, recorder.partitions))

    def _expected_keys(self, scanned: int, recorder: Recorder) -> int | None:
        """Return how many keys there will have been; with a filter, judged by how far the cursors are."""
        if self._driver.options.keys_from is not None:
            return scanned
        if not self._driver.options.filtered:
            sides = self._driver.sides
            return max(scanned, total_keys(sides.ways, sides.source_facts))
        fraction = recorder.scanned_fraction
        return round(recorder.keys.scanned / fraction) if fraction > 0.01 else None

    def _start_over(self, error: SlotferryError) -> None:
        record = self._journal.job(self._name)
        if record is None:
            raise InternalError(f"the job {self._name} is gone from the journal")
        facts = self._look_again(error, record.run_id)
        self._driver.sides = replace(self._driver.sides, source_facts=facts)
        for note in facts.notes:
            self._driver.emit(Notice(note))
        if facts.server.run_id == record.run_id:
            self._driver.emit(
                Notice(f"the source {facts.server.node} is fit to be read again: going on there")
            )
            return
        if self._driver.options.keys_from is not None or is_followed_alone(self._journal, self._name):
            self._journal.adopt(self._name, facts.server.run_id)
            return
        databases = {mark.database: 0 for mark in self._journal.marks(self._name)}
        for mark in self._journal.marks(self._name):
            databases[mark.database] += 1
        self._journal.reset(
            self._name,
            record.setup,
            record.partition_count,
            facts.server.run_id,
            databases,
            follows_on=self._driver.options.follow,
        )
        self.started_over = True
        at = f" of {facts.server.node}" if facts.found else ""
        self._driver.emit(
            Notice(f"{error}; the cursors are void: every partition{at} is scanned again from the start")
        )

    def _look_again(self, reason: SlotferryError, run_id: str) -> SourceFacts:
        """Look at the source anew, for as long as it may take to come back."""
        deadline = time.monotonic() + self._driver.options.retry_for
        told = False
        while True:
            self._driver.cancel.check()
            try:
                return discover_source(self._driver.sides.source, run_id)
            except SourceLostError as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    self._driver.emit(Notice(f"{reason}; waiting: {error}"))
                    told = True
                time.sleep(0.5)

    def _check_counts(self) -> None:
        keys = self._journal.totals(self._name).keys
        if not keys.add_up:
            raise InternalError(f"the counts of job {self._name} do not add up: {keys}")
