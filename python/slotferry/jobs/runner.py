"""Does all that is left of a job: its partitions, then keys by name, until what is pending stays so.

Invariant: what is done is recorded at once and never more than is done; a run that ends early says why, and
the next one goes on where it ended. Every scanned key ends in exactly one count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from slotferry.errors import (
    InternalError,
    JournalError,
    SlotferryError,
    SourceLostError,
    SourceNotReadyError,
    TargetLostError,
)
from slotferry.jobs.cluster.source import ClusterSource
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.progress import ProgressReporter
from slotferry.model.events import CheckpointSaved, Notice
from slotferry.text import format_slots, ranges_of
from slotferry.topology.cluster_source.facts import discover_any_source
from slotferry.topology.databases import Route, total_keys
from slotferry.topology.discovery import SourceFacts

CHECKPOINT_SECONDS = 0.25  # what was done since the last one is looked at again after a kill
_LAST_PARK_SECONDS = 1.0
_QUIET_SECONDS = 0.3
_MAX_SOURCE_CHANGES = 5


def is_followed_alone(journal: Journal, name: str) -> bool:
    """Whether the job's source is copied to its end and followed: no cursor is used any more."""
    mark = journal.follow_mark(name)
    return mark is not None and mark.phase == "following"


class Runner:
    """Does everything that is left of the job `name`: partitions, then keys by name."""

    def __init__(self, journal: Journal, name: str, driver: EngineDriver) -> None:
        self._journal = journal
        self._name = name
        self._driver = driver
        self._progress = ProgressReporter(driver.emit, driver.figures)
        self._next_checkpoint = time.monotonic() + CHECKPOINT_SECONDS
        self._journal_fails = False
        self.started_over = False
        """Whether the source changed during the run, so that its counts began anew."""

    def run(self) -> None:
        """Work until nothing is left that can be done. Raises `SlotferryError` where the run ends early."""
        last = None
        for _ in range(_MAX_SOURCE_CHANGES + 1):
            try:
                self._do_all(self._works)
                self._account()
            except SourceLostError as error:  # noqa: PERF203 - a handful of turns
                if error.kind != "source_changed":
                    raise
                last = error
                self._start_over(error)
            else:
                return self._check_counts()
        if self._driver.options.read == "snapshot":
            raise SourceLostError(
                f"the source was begun with {_MAX_SOURCE_CHANGES + 1} times during this run; at last: {last}",
                hint="see its log: a reader that is away for longer than repl-timeout is cut off; or give "
                "--read scan, which goes on where it was",
            )
        raise SourceNotReadyError(
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
        yield from self._late_works()

    def _late_works(self) -> Iterator[Work]:
        """Yield core jobs for what a scan may have missed, or left pending."""
        yield from self._moved_works()
        yield from self._pending_works()

    def _moved_works(self, settings: Mapping[str, Any] | None = None) -> Iterator[Work]:
        """Yield core jobs that read slots of a cluster again, until all were read from one owner, at rest.

        Raises `SourceNotReadyError` where slots don't come to rest.
        """
        cluster, patience = self._driver.cluster, self._driver.options.retry_for
        if cluster is None or self._driver.options.keys_from is not None:
            return
        deadline = time.monotonic() + patience
        while True:
            self._refresh(cluster)
            slots = cluster.begin_reading()
            if not cluster.doubts:
                return
            if slots:
                shown = format_slots(ranges_of(slots), 4)
                self._driver.emit(Notice(f"slots {shown} of the source moved: their keys are read again"))
                for _, route in self._routes():
                    yield Work(slots=slots, route=route, settings=settings or {})
                self._refresh(cluster)
                if cluster.end_reading(slots):
                    deadline = time.monotonic() + patience
            if time.monotonic() >= deadline:
                raise cluster.unquiet()
            if not slots:  # all that is in doubt is on its way: no server tells when it has come to rest
                time.sleep(_QUIET_SECONDS)

    def _refresh(self, cluster: ClusterSource) -> None:
        """Look anew at who owns which slot of the source. Raises `SlotferryError`."""
        driver = self._driver
        cluster.refresh(driver.cancel.check, lambda text: driver.emit(Notice(text)), driver.options.retry_for)

    def _pending_works(self) -> Iterator[Work]:
        """Yield core jobs for pending keys until they stay so."""
        cluster, patience = self._driver.cluster, self._driver.options.retry_for
        last = time.monotonic() + patience
        while pending := self._journal.totals(self._name).keys.pending:
            deadline = time.monotonic() + patience
            if cluster is not None:
                self._refresh(cluster)
            for database, route in self._routes():
                for keys in self._journal.unsettled_keys(self._name, with_failed=False, database=database):
                    # The patience is for the pass: its later jobs need not wait for the same slots once more.
                    patience = max(_LAST_PARK_SECONDS, deadline - time.monotonic())
                    yield Work(keys=keys, park_after=patience, route=route)
            if self._journal.totals(self._name).keys.pending < pending:
                last = time.monotonic() + patience
            elif cluster is None or not cluster.look.open or time.monotonic() >= last:
                return
            else:  # a slot that is on its way to another node of the source comes to rest
                time.sleep(_QUIET_SECONDS)

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
        job = self._driver.new_work(work, max(count, 1))
        recorder = Recorder(self._journal, self._name, job, database)
        try:
            self._driver.drive(job, lambda: self._tick(job, recorder))
        finally:
            recorder.finish()
            self._report_checkpoint(recorder)
            # So that what is shown last is what is recorded.
            expected = self._expected_keys(recorder.keys.scanned, recorder)
            self._progress.report(job.snapshot(), recorder.totals, expected, at_once=True)

    def _tick(self, job: EngineJob, recorder: Recorder) -> None:
        now = time.monotonic()
        if self._driver.take_checkpoint_wanted() or now >= self._next_checkpoint:
            self._next_checkpoint = now + CHECKPOINT_SECONDS
            self._save(recorder)
        snapshot = job.snapshot()
        totals = recorder.live(snapshot)
        self._progress.report(snapshot, totals, self._expected_keys(totals.keys.scanned, recorder))

    def _save(self, recorder: Recorder) -> None:
        try:
            recorder.save()
        except JournalError as error:
            if not self._journal_fails:
                self._driver.emit(Notice(f"{error}; trying again, the work goes on"))
            self._journal_fails = True
            return
        self._journal_fails = False
        self._report_checkpoint(recorder)

    def _report_checkpoint(self, recorder: Recorder) -> None:
        self._driver.emit(CheckpointSaved(recorder.keys, recorder.partitions_done, recorder.partitions))

    def _expected_keys(self, scanned: int, recorder: Recorder) -> int | None:
        """Return how many keys there will have been; with a filter, judged by how far the cursors are."""
        if self._driver.options.keys_from is not None:
            return scanned
        file = self._driver.sides.source_facts.file
        if file is not None:
            self._progress.file = file.progress(recorder.position)
            return file.expected_keys(recorder.keys.scanned, recorder.position)
        if not self._driver.options.filtered:
            sides = self._driver.sides
            return max(scanned, total_keys(sides.ways, sides.source_facts))
        fraction = recorder.scanned_fraction
        return round(recorder.keys.scanned / fraction) if fraction > 0.01 else None

    def _start_over(self, error: SlotferryError) -> None:
        cluster = self._driver.cluster
        if cluster is not None:
            self._driver.emit(Notice(f"{error}; its slots are read again from whoever owns them now"))
            self._refresh(cluster)
            return
        record = self._journal.job(self._name)
        if record is None:
            raise InternalError(f"the job {self._name} is gone from the journal")
        facts = self._look_again(error, record.run_id)
        self._driver.sides = replace(self._driver.sides, source_facts=facts)
        for note in facts.notes:
            self._driver.emit(Notice(note))
        if facts.server.run_id == record.run_id:
            again = (
                "another snapshot is taken" if self._driver.options.read == "snapshot" else "going on there"
            )
            self._driver.emit(Notice(f"{error}; the source {facts.server.node} can be read again: {again}"))
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
        reported = False
        while True:
            self._driver.cancel.check()
            try:
                return discover_any_source(self._driver.sides.source, run_id)
            except SourceLostError as error:
                if time.monotonic() >= deadline:
                    raise
                if not reported:
                    self._driver.emit(Notice(f"{reason}; waiting: {error}"))
                    reported = True
                time.sleep(0.5)

    def _check_counts(self) -> None:
        keys = self._journal.totals(self._name).keys
        if not keys.add_up:
            raise InternalError(f"the counts of job {self._name} do not add up: {keys}")
