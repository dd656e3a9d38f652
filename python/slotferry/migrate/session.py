"""One run from its first look at both sides to its report.

Invariant: in this order: journal and lock, look, preflight, and only then the first write; whatever happens,
a run that was begun is ended in the journal and every run ends in a `Report`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slotferry import preflight
from slotferry.errors import MigrationInterrupted, SlotferryError, unexpected
from slotferry.jobs.address_space import check_address_space
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.control_socket import ControlSocket
from slotferry.jobs.control.controls import Controls
from slotferry.jobs.control.hangup import reason_of, working
from slotferry.jobs.driver import Emit, EngineDriver, Sides
from slotferry.jobs.journal.history_writer import HistoryWriter
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.series import SeriesWriter, keep_owners
from slotferry.jobs.lock import JobLock
from slotferry.jobs.options import Options
from slotferry.migrate.account.accounting import Accounting
from slotferry.migrate.account.target_watch import TargetWatch
from slotferry.migrate.before.dry_run import DryRun
from slotferry.migrate.before.first_look import FirstLook
from slotferry.migrate.copy_runner import CopyRunner
from slotferry.migrate.emptiness import explain, found_none
from slotferry.migrate.followed_run import FollowedRun
from slotferry.migrate.functions import FunctionPlan, load_functions, plan_functions
from slotferry.migrate.key_list import KeyList
from slotferry.migrate.resume import (
    check_setup,
    default_job_name,
    make_setup,
    partitions_by_database,
    prepare_job,
    starts_over,
)
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.events import Event, Notice, Progress, RunStarted
from slotferry.model.follow import FollowProgress
from slotferry.model.history import HistoryEntry
from slotferry.model.report import Emptiness, Report, Status
from slotferry.net.endpoints import Endpoint
from slotferry.topology.databases import may_collide, total_keys
from slotferry.topology.eviction import choose_eviction

if TYPE_CHECKING:
    from slotferry.migrate.before.collisions import Collision

_REPORTED_FAILURES = 10
_NO_PROGRESS = Progress(
    state="connecting",
    reason="",
    keys=Keys(),
    expected_keys=None,
    bytes=0,
    keys_per_second=None,
    elapsed_seconds=0.0,
    buffered_bytes=0,
    moved=0,
    ask=0,
    retries=0,
    done_keys=0,
)


@dataclass
class _Figures:
    """What the report will say; filled in as the run goes."""

    totals: Totals = field(default_factory=Totals)
    collisions: int = 0
    settled_before: int = 0
    runs: int = 0
    resumed: bool = False
    failures: tuple[FailedKey, ...] = ()
    failed_kinds: dict[str, int] = field(default_factory=dict)
    notes: int = 0
    history: tuple[HistoryEntry, ...] = ()
    empty: Emptiness | None = None
    follow: FollowProgress | None = None


class Session:
    """One run; `perform` is called once."""

    def __init__(
        self, source: Endpoint, target: Endpoint, options: Options, emit: Emit, cancel: CancelRequest
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._listener = emit
        self._progress: Progress | None = None
        self._cancel = cancel
        self.controls = Controls(cancel, options.rates)
        self._setup = make_setup(source, target, options)
        self._names: KeyList | None = None
        self._first_look = FirstLook(source, target, options, cancel)
        self._figures = _Figures()
        self._driver: EngineDriver | None = None
        self._history: HistoryWriter | None = None
        self._series: SeriesWriter | None = None
        self.emptiness_told = False
        """Whether the operator knows already that there is no key."""
        self.job = options.job or default_job_name(source, target)
        self.followed = FollowedRun(self.job, options, self.controls, self._emit)
        """The source as it is followed, and its cut-overs."""

    def perform(self) -> Report:
        """Run and return the report, whose `error` says why the run ended early, be it Ctrl-C."""
        begun = time.monotonic()
        error: SlotferryError | None = None
        try:
            check_address_space(self._options.memory_limit)
            if self._options.keys_from is not None:
                self._names = KeyList(self._options.keys_from, self._options.selection, self._cancel)
                self._setup = replace(self._setup, keys_from=self._names.digest)
            with working(self._cancel, *self._first_look.connectors()):
                if self._options.dry_run:
                    self._dry_run()
                else:
                    self._run(begun)
                self._look_for_emptiness()
        except BaseException as raised:  # noqa: BLE001 - the report tells of it
            error = as_our_error(raised, self._cancel)
        finally:
            if self._names is not None:
                self._names.close()
        return self._report(time.monotonic() - begun, error)

    def _look_for_emptiness(self) -> None:
        """Tell why no key was found, where none was, and of names that are not at the source."""
        keys, names, driver = self._figures.totals.keys, self._names, self._driver
        if driver is None:
            return
        if found_none(keys, named=names is not None):
            self._figures.empty = empty = explain(
                driver.sides.source_facts,
                driver.sides.ways,
                self._options.selection,
                names=None if names is None else names.count(),
                sample=self._sample,
            )
            if not self.emptiness_told:
                self._emit(Notice(str(empty)))
        elif names is not None and keys.vanished:
            self._emit(
                Notice(f"warning: {keys.vanished:,} of {keys.scanned:,} listed keys are not at the source")
            )

    @property
    def _sample(self) -> float | None:
        """The part of the keys that is looked at; None for all."""
        return None

    def _emit(self, event: Event) -> None:
        if isinstance(event, Progress):
            self._progress = event
        if self._history is not None:
            self._history.hear(event)
        if self._series is not None:
            self._series.hear(event)
        self._listener(event)

    def _status(self) -> dict[str, Any]:
        """Return how the run is at this instant."""
        progress = self._progress or _NO_PROGRESS
        state = self.followed.state()
        return {"job": self.job, "run": self._figures.runs, "pid": os.getpid(), **progress.to_dict(), **state}

    def _run(self, begun: float) -> None:
        options, figures = self._options, self._figures
        path = options.journal_path
        with (
            Journal.open(path) as journal,
            JobLock(path, self.job),
            ControlSocket(path, self.job, self.controls, self._status, answer=self.followed.answer) as socket,
        ):
            self._history = HistoryWriter(lambda entries: journal.tell(self.job, entries))
            if socket.complaint:
                self._emit(Notice(socket.complaint))
            self._forget_damaged(journal, self.job)
            record = journal.job(self.job)
            if record is not None and not options.restart:
                figures.totals, figures.runs = record.totals, record.runs
                check_setup(record, self._setup)
            # Of several replicas the one that the cursors come from is worth the most.
            preferred = "" if record is None or options.restart else record.run_id
            resumes = record is not None and not starts_over(record, self._setup, options)
            sides = self._look(preferred, journal.databases(self.job) if resumes else ())
            sides = self._with_eviction(sides)
            if journal.has_cutovers(self.job):
                self.followed.recover(sides)
            if options.follow and not resumes:
                self.followed.refuse_full_target(sides)
            functions = self._plan_functions(sides)
            goes_on = resumes and record is not None and record.run_id == sides.source_facts.run_id
            # What is followed already is looked at beside it, so that one key does not hold up all others.
            collisions = () if goes_on or (resumes and options.follow) else self._find_collisions(sides)
            driver = EngineDriver(sides, options, self._emit, self._cancel, self.controls)
            accounting = Accounting(journal, self.job, driver, self._names)
            figures.resumed = prepare_job(
                journal,
                self.job,
                self._setup,
                sides.source_facts,
                options,
                lambda text: self._emit(Notice(text)),
                sides.ways,
                self._names,
                void=accounting.void() if resumes else "",
            )
            if driver.cluster is not None:
                driver.cluster.begin(journal, self.job)
            figures.runs = self._history.run = journal.begin_run(self.job, resumed=figures.resumed)
            self._begin_series(journal, driver)
            figures.settled_before = journal.totals(self.job).keys.settled
            error: BaseException | None = None
            try:
                if collisions:
                    self._record_collisions(journal, collisions)
                with TargetWatch(sides.target, driver.topology) as watch:
                    accounting.begin(watch, resumed=figures.resumed)
                    load_functions(sides.target, sides.target_facts, functions)
                    self._migrate(journal, driver, accounting)
            except BaseException as raised:
                error = raised
                raise
            finally:
                self._end_run(journal, begun, error)

    def _end_run(self, journal: Journal, begun: float, error: BaseException | None) -> None:
        """Write down how the run has ended, and take the job's figures."""
        figures = self._figures
        self._end_series(journal)
        figures.totals = journal.totals(self.job)
        figures.failures = tuple(journal.failures(self.job, _REPORTED_FAILURES))
        figures.failed_kinds = journal.difference_counts((self.job, self.job))
        figures.collisions = journal.count_notes(self.job, "collision")
        figures.notes = journal.count_notes(self.job) - figures.collisions
        ours = None if error is None else as_our_error(error, self._cancel)
        status = self._status_of_run(ours)
        journal.end_run(self.job, figures.runs, status, time.monotonic() - begun, ours)
        if self._history is not None:
            self._history.write()
        self._history = None
        figures.history = tuple(journal.history(self.job))

    def _begin_series(self, journal: Journal, driver: EngineDriver) -> None:
        self._series = SeriesWriter(journal, self.job, self._figures.runs)
        self._series.begin("compare" if self._setup.purpose == "verify" else "copy")
        keep_owners(journal, self.job, driver.topology.named_ranges)

    def _end_series(self, journal: Journal) -> None:
        if self._series is not None:
            self._series.finish()
            self._series = None
        if self._driver is not None:
            keep_owners(journal, self.job, self._driver.topology.named_ranges)

    def _forget_damaged(self, journal: Journal, name: str) -> None:
        """Let a restart begin without what the journal can't say any more."""
        if self._options.restart and journal.forget_damaged(name):
            self._emit(Notice(f"what the journal has of the job {name} is damaged: it begins without it"))

    def _migrate(self, journal: Journal, driver: EngineDriver, accounting: Accounting) -> None:
        self._driver = driver
        driver.record = journal.job(self.job)
        self._announce(
            driver.sides, max(Counter(mark.database for mark in journal.marks(self.job)).values(), default=0)
        )
        if self._options.follow:
            self._follow(journal, driver, accounting)
            return
        runner = CopyRunner(journal, self.job, driver, accounting, lambda: self._load_functions_again(driver))
        try:
            runner.run()
        finally:
            if runner.started_over:
                self._figures.settled_before, self._figures.resumed = 0, False

    def _follow(self, journal: Journal, driver: EngineDriver, accounting: Accounting) -> None:
        try:
            self.followed.run(journal, driver, accounting)
        finally:
            self._figures.follow = self.followed.progress
            if self.followed.started_over:
                self._figures.settled_before, self._figures.resumed = 0, False

    def _with_eviction(self, sides: Sides) -> Sides:
        if not self._options.keep_eviction_metadata:
            return sides
        chosen = choose_eviction(sides.source, sides.source_facts, sides.target, sides.target_facts)
        return replace(sides, eviction=chosen)

    def _load_functions_again(self, driver: EngineDriver) -> None:
        """Load function libraries on primaries that have lost them, or have become primaries meanwhile."""
        facts = replace(driver.sides.target_facts, topology=driver.topology)
        sides = replace(driver.sides, target_facts=facts)
        load_functions(sides.target, facts, self._plan_functions(sides))

    def _plan_functions(self, sides: Sides) -> FunctionPlan:
        """Return which function libraries are to be loaded, and tell of it."""
        if not self._options.functions:
            return FunctionPlan()
        plan = plan_functions(
            sides.source,
            sides.source_facts,
            sides.target,
            sides.target_facts,
            self._options.on_conflict,
            lambda text: self._emit(Notice(text)),
        )
        if plan.loads or plan.kept:
            self._emit(Notice(str(plan)))
        return plan

    def _find_collisions(self, sides: Sides) -> tuple[Collision, ...]:
        """Look for keys that would share a name, where there can be any. Raises the refusal."""
        options = self._options
        if options.on_collision == "unchecked" or not may_collide(sides.ways, options.selection.renames):
            return ()
        from slotferry.migrate.before.collisions import find_collisions

        driver = EngineDriver(sides, options, self._emit, self._cancel, self.controls)
        return find_collisions(driver, self._names)

    def _record_collisions(self, journal: Journal, collisions: Sequence[Collision]) -> None:
        from slotferry.migrate.before.collisions import record_collisions

        record_collisions(journal, self.job, collisions)

    def _dry_run(self) -> None:
        sides = self._with_eviction(self._look())
        self._plan_functions(sides)
        self._find_collisions(sides)
        counts = partitions_by_database(self._options, sides.source_facts, sides.ways)
        count = max(counts.values())
        driver = self._driver = EngineDriver(sides, self._options, self._emit, self._cancel, self.controls)
        self._announce(sides, count)
        dry_run = DryRun(driver, self._names)
        try:
            self._emit(dry_run.run(counts))
        finally:
            self._figures.totals = dry_run.totals

    def _look(self, preferred: str = "", databases: Sequence[int] = ()) -> Sides:
        """Look at both sides, as `FirstLook.look` does."""
        return self._first_look.look(self._judge, self._emit, self._listener, preferred, databases)

    def _judge(self, sides: Sides) -> Sequence[preflight.Row]:
        """Return what stands for and against the run."""
        facts, chosen = sides.source_facts, self._options.db
        several = facts.databases if chosen == "all" else chosen
        return preflight.find_rows(
            sides.source,
            facts,
            sides.target,
            sides.target_facts,
            self._options.skip_check,
            keys=None if several is None else sum(facts.databases.get(number, 0) for number in several),
            filtered=self._options.filtered,
            renamed=bool(self._options.rules or self._options.map_db),
            wait_replicas=self._options.wait_replicas,
            follow=self._options.follow,
            snapshot=self._options.read == "snapshot",
        )

    def _announce(self, sides: Sides, partitions: int) -> None:
        self._emit(
            RunStarted(
                job=self.job,
                run=self._figures.runs,
                resumed=self._figures.resumed,
                source=self._setup.source,
                target=self._setup.target,
                source_node=sides.source_facts.server.node,
                source_role=sides.source_facts.found.role if sides.source_facts.found else None,
                source_product=str(sides.source_facts.server.product),
                target_primaries=tuple(map(str, sides.target_facts.topology.primaries)),
                partitions=partitions,
                expected_keys=total_keys(sides.ways, sides.source_facts),
                dry_run=self._options.dry_run,
            )
        )

    def _report(self, elapsed: float, error: SlotferryError | None) -> Report:
        figures, driver = self._figures, self._driver
        keys = figures.totals.keys
        done = keys.scanned if self._options.dry_run else max(0, keys.settled - figures.settled_before)
        return Report(
            job=self.job,
            status=self._status_of_run(error),
            totals=figures.totals,
            elapsed_seconds=elapsed,
            keys_per_second=done / elapsed if elapsed > 0 else 0.0,
            runs=figures.runs,
            resumed=figures.resumed,
            error=error,
            failures=figures.failures,
            failed_kinds=figures.failed_kinds,
            keys_by_primary=tuple(sorted(driver.keys_by_primary.items())) if driver else (),
            engine_cpu_seconds=driver.engine_cpu_seconds if driver else 0.0,
            notes=figures.notes,
            collisions=figures.collisions,
            history=figures.history,
            empty=figures.empty,
            fail_if_empty=self._options.fail_if_empty,
            follow=figures.follow,
            cutover=self.followed.cutover,
        )

    def _status_of_run(self, error: SlotferryError | None) -> Status:
        cutover = self.followed.cutover
        if error is None and cutover is not None and cutover.is_done:
            return "cut_over"
        return status_of(self._figures.totals.keys, error)


def status_of(keys: Keys, error: SlotferryError | None) -> Status:
    """Return the status of a run that ended with these keys and this error."""
    if isinstance(error, MigrationInterrupted):
        return "interrupted"
    if error is not None:
        return "failed"
    return "completed_with_failures" if keys.pending or keys.failed else "completed"


def as_our_error(error: BaseException, cancel: CancelRequest) -> SlotferryError:
    """Return `error` if it is ours, else one of ours for it: Ctrl-C interrupts, the rest is a bug."""
    if isinstance(error, SlotferryError):
        return reason_of(error, cancel)
    if isinstance(error, KeyboardInterrupt):
        interruption = cancel.error()
        interruption.__cause__ = error
        return interruption
    return unexpected(error)
