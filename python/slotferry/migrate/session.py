"""One run from its first look at both sides to its report.

Invariant: in this order: journal and lock, look, preflight, and only then the first write; whatever happens,
a run that was begun is ended in the journal and every run ends in a `Report`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slotferry import preflight
from slotferry._core import key_slot
from slotferry.errors import MigrationInterrupted, SlotferryError, TargetUnfitError, UsageError, unexpected
from slotferry.jobs.address_space import check_address_space
from slotferry.jobs.cancel import CancelRequest
from slotferry.jobs.control_socket import ControlSocket
from slotferry.jobs.controls import Controls
from slotferry.jobs.driver import Emit, EngineDriver, Sides
from slotferry.jobs.hangup import looking, reason_of, working
from slotferry.jobs.journal.journal import Advance, Journal
from slotferry.jobs.journal.storyteller import Storyteller
from slotferry.jobs.lock import JobLock
from slotferry.jobs.options import Options
from slotferry.migrate.account.accounting import Accounting
from slotferry.migrate.account.target_watch import TargetWatch, look_at_all
from slotferry.migrate.copy_runner import CopyRunner
from slotferry.migrate.dry_run import DryRun
from slotferry.migrate.emptiness import explain, found_none
from slotferry.migrate.following.follower import Handler, Lag
from slotferry.migrate.following.runner import FollowRunner, RunFollower
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
from slotferry.model.history import Happening
from slotferry.model.report import Emptiness, Report, Status
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.topology.databases import check_routes, may_collide, plan_routes, total_keys
from slotferry.topology.discovery import discover_source, discover_target
from slotferry.topology.eviction import choose_eviction

if TYPE_CHECKING:
    from slotferry.migrate.collisions import Collision

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
    story: tuple[Happening, ...] = ()
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
        self._ends: tuple[Connector, Connector] | None = None
        self._figures = _Figures()
        self._driver: EngineDriver | None = None
        self._story: Storyteller | None = None
        self.follower: RunFollower | None = None
        """The job as it is followed; None where it is not, or not yet."""
        self.handlers: dict[str, Handler] = {}
        """What answers more requests of the control socket, while a source is followed."""
        self.emptiness_told = False
        """Whether the operator knows already that there is no key."""
        self.job = options.job or default_job_name(source, target)

    def perform(self) -> Report:
        """Run and return the report, whose `error` says why the run ended early, be it Ctrl-C."""
        begun = time.monotonic()
        error: SlotferryError | None = None
        try:
            check_address_space(self._options.memory_limit)
            if self._options.keys_from is not None:
                self._names = KeyList(self._options.keys_from, self._options.selection, self._cancel)
                self._setup = replace(self._setup, keys_from=self._names.digest)
            with working(self._cancel, *self._connectors()):
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

    @property
    def lag(self) -> Lag | None:
        """How far behind a followed source the target is; None while none is followed."""
        return None if self.follower is None else self.follower.lag()

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
        if self._story is not None:
            self._story.hear(event)
        self._listener(event)

    def _answer(self, command: str, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Answer a request that only a followed job knows; None for one that none knows."""
        handler = self.handlers.get(command)
        if handler is None:
            return None
        if self.follower is None:
            raise UsageError(
                f"the job {self.job} does not follow its source",
                hint="start it with 'slotferry migrate --follow'",
            )
        return handler(self.follower, request)

    def _status(self) -> dict[str, Any]:
        """Return how the run is at this instant."""
        progress = self._progress or _NO_PROGRESS
        return {"job": self.job, "run": self._figures.runs, "pid": os.getpid(), **progress.to_dict()}

    def _run(self, begun: float) -> None:
        options, figures = self._options, self._figures
        path = options.journal_path
        with (
            Journal.open(path) as journal,
            JobLock(path, self.job),
            ControlSocket(path, self.job, self.controls, self._status, answer=self._answer) as socket,
        ):
            self._story = Storyteller(lambda told: journal.tell(self.job, told))
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
            if not resumes:
                self._refuse_full_target(sides)
            functions = self._plan_functions(sides)
            goes_on = resumes and record is not None and record.run_id == sides.source_facts.server.run_id
            collisions = () if goes_on else self._find_collisions(sides)
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
            figures.runs = self._story.run = journal.begin_run(self.job, resumed=figures.resumed)
            figures.settled_before = journal.totals(self.job).keys.settled
            error: BaseException | None = None
            try:
                _record_collisions(journal, self.job, collisions)
                with TargetWatch(sides.target, driver.topology) as watch:
                    accounting.begin(watch, resumed=figures.resumed)
                    load_functions(sides.target, sides.target_facts, functions)
                    self._migrate(journal, driver, accounting)
            except BaseException as raised:
                error = raised
                raise
            finally:
                figures.totals = journal.totals(self.job)
                figures.failures = tuple(journal.failures(self.job, _REPORTED_FAILURES))
                figures.failed_kinds = journal.difference_counts((self.job, self.job))
                figures.collisions = journal.count_notes(self.job, "collision")
                figures.notes = journal.count_notes(self.job) - figures.collisions
                ours = None if error is None else as_our_error(error, self._cancel)
                status = status_of(figures.totals.keys, ours)
                journal.end_run(self.job, figures.runs, status, time.monotonic() - begun, ours)
                self._story.write()
                self._story = None
                figures.story = tuple(journal.story(self.job))

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
        self.follower = RunFollower(self.job, driver.sides.source)
        runner = FollowRunner(journal, self.job, driver, accounting, self.follower)
        try:
            runner.run()
        finally:
            self._figures.follow = runner.progress
            if runner.started_over:
                self._figures.settled_before, self._figures.resumed = 0, False

    def _refuse_full_target(self, sides: Sides) -> None:
        """Raise where a comparison would delete keys of the target that nobody copied there."""
        if not self._options.follow or "existing-keys" in self._options.skip_check:
            return
        (way,) = sides.ways
        held = sum(
            node.count({way.target}) for node in look_at_all(sides.target, sides.target_facts.topology)
        )
        if held:
            raise TargetUnfitError(
                f"the target holds {held:,} keys already, and a target that is followed into becomes equal "
                "to the source: what the source lacks may be deleted",
                hint="empty it, or give --skip-check existing-keys where all of it comes from this source",
            )

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
        from slotferry.migrate.collisions import survey_names, survey_source

        options = self._options
        if options.on_collision == "unchecked" or not may_collide(sides.ways, options.selection.renames):
            return ()
        self._emit(
            Notice(
                f"the names of {total_keys(sides.ways, sides.source_facts):,} keys are scanned first, to see "
                "whether two of them would share one"
            )
        )
        driver = EngineDriver(sides, options, self._emit, self._cancel, self.controls)
        if self._names is None:
            found = survey_source(
                driver, partitions_by_database(options, sides.source_facts, sides.ways), samples=0
            )
        else:
            found = survey_names(
                self._names.names(), options.selection, sides.ways, samples=0, memory=options.memory_limit
            )
        if not found.collisions:
            return ()
        refusal = found.refusal()
        if options.on_collision == "refuse" and not options.dry_run:
            raise refusal
        self._emit(Notice(refusal.message))
        return found.collisions

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
        """Look at both sides and check that they are fit. Raises the gravest problem, tells of the others.

        `preferred` is the run_id of a replica to read, `databases` are those that the job to resume has.
        """
        if self._source.is_cluster_url:
            raise preflight.source_is_cluster(str(self._source.addresses[0]))
        source, target = self._connectors()
        with looking(self._cancel, source, target):
            return self._look_at_both(source, target, preferred, databases)

    def _connectors(self) -> tuple[Connector, Connector]:
        """Return how both sides are reached. Raises `UsageError` where TLS files make no sense."""
        if self._ends is None:
            address_map = self._options.address_map_rules
            self._ends = (
                Connector(self._source, "source", address_map),
                Connector(self._target, "target", address_map),
            )
        return self._ends

    def _look_at_both(
        self, source: Connector, target: Connector, preferred: str, databases: Sequence[int]
    ) -> Sides:
        source_facts = discover_source(source, preferred)
        for note in source_facts.notes:
            self._emit(Notice(note))
        self._cancel.check()
        target_facts = discover_target(target, source_facts.server)
        self._cancel.check()
        sides = Sides(source, target, source_facts, target_facts)
        rows = self._judge(sides)
        self._tell_warnings(rows)
        problems = [row.error() for row in rows if row.status == "error"]
        for problem in problems[1:]:
            self._emit(Notice(str(problem)))
        if problems:
            raise problems[0]
        self._cancel.check()
        options = self._options
        chosen = databases if databases and options.db == "all" else options.db
        routes = plan_routes(self._source, self._target, chosen, options.map_db, source_facts)
        for notice in check_routes(routes, source, target, target_facts):
            self._emit(Notice(notice))
        return replace(sides, routes=routes)

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
        )

    def _tell_warnings(self, rows: Sequence[preflight.Row]) -> None:
        for row in rows:
            if row.skipped:
                self._emit(Notice(f"check {row.name} is skipped: {row.message}"))
        # A target that holds keys is what every resume finds: not worth a word here. Nor are keys in other
        # databases, where it was said which to copy.
        quiet = {"existing-keys", *([] if self._options.db is None else ["databases"])}
        for row in rows:
            if row.status == "warning" and not row.skipped and row.name not in quiet:
                # Not by `_emit`: what is so at every run is no part of the job's story.
                self._listener(Notice(f"warning ({row.name}): {row.message}; {row.advice}"))

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
                source_product=sides.source_facts.server.product,
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
            status=status_of(keys, error),
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
            story=figures.story,
            empty=figures.empty,
            fail_if_empty=self._options.fail_if_empty,
            follow=figures.follow,
        )


def _record_collisions(journal: Journal, job: str, collisions: Sequence[Collision]) -> None:
    """Write down which keys share a name, each under its first source."""
    for collision in collisions:
        database, key = collision.sources[0]
        note = FailedKey(key, key_slot(collision.target), "collision", str(collision), "", database)
        journal.record(job, Advance(notes=[note], database=database))


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
