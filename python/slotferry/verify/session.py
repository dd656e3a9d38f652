"""One verification from its first look at both sides to its report.

Invariant: as of a migration's session: journal and lock, look, preflight, and only then the work; whatever
happens, a run that was begun is ended in the journal and every run ends in a report. Both directions have a
job of their own in the journal, since their cursors come from different servers.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice

from slotferry import preflight
from slotferry.errors import OutputError, SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.control_socket import ControlSocket
from slotferry.jobs.driver import Emit, EngineDriver, Sides
from slotferry.jobs.journal.history_writer import HistoryWriter
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import COMPLETED, JobRecord
from slotferry.jobs.lock import JobLock
from slotferry.migrate.resume import check_setup, default_job_name, partitions_by_database
from slotferry.migrate.session import Session, as_our_error, status_of
from slotferry.model.counts import Keys, Totals
from slotferry.model.differences import Difference
from slotferry.model.events import Notice, PhaseStarted, RepairPlanned
from slotferry.model.report import Status, VerifyReport
from slotferry.net.endpoints import Endpoint
from slotferry.output_file import OutputFile
from slotferry.preflight.rights import (
    denied_commands,
    judge_rights,
    repair_probes,
    verify_source_probes,
    verify_target_probes,
)
from slotferry.verify import deletion_guard, misplaced
from slotferry.verify.jobs import extra_job
from slotferry.verify.options import VerifyOptions
from slotferry.verify.runner import REPAIRABLE, Repair, SourceRunner, TargetRunner, both_run_ids

_EXAMPLES = 10


class VerifySession(Session):
    """One run; `perform` is called once."""

    def __init__(
        self, source: Endpoint, target: Endpoint, options: VerifyOptions, emit: Emit, cancel: CancelRequest
    ) -> None:
        super().__init__(source, target, options, emit, cancel)
        self._verify = options
        self.job = options.job or f"verify-{default_job_name(source, target)}"
        self._setup = replace(self._setup, purpose="verify", comparison=options.comparison)
        self._extra_job = extra_job(self.job)
        self._target_keys = Keys()
        self._kinds: dict[str, int] = {}
        self._examples: tuple[Difference, ...] = ()
        self._repair: Repair | None = None
        self._planned: RepairPlanned | None = None
        self._paused_seconds = 0.0
        named = options.differences
        self._file = None if named is None else OutputFile(named, "differences", "--differences")
        self._lost_output: OutputError | None = None

    def perform(self) -> VerifyReport:
        """Run and return the report, whose `error` says why the run ended early, be it Ctrl-C."""
        report = super().perform()
        assert isinstance(report, VerifyReport)  # noqa: S101 - `_report` makes it
        return report

    def _run(self, begun: float) -> None:
        path = self._options.journal_path
        with (
            Journal.open(path) as journal,
            JobLock(path, self.job),
            ControlSocket(path, self.job, self.controls, self._status) as socket,
        ):
            if socket.complaint:
                self._emit(Notice(socket.complaint))
            for name in (self.job, self._extra_job):
                self._forget_damaged(journal, name)
            record = journal.job(self.job)
            if record is not None and (self._resumes(record) or record.setup.purpose != "verify"):
                check_setup(record, self._setup)
            extra = journal.job(self._extra_job)
            if extra is not None and extra.setup.purpose != "verify":
                check_setup(extra, self._setup)  # a migration of that name must not lose its place
            resumes = record is not None and self._resumes(record)
            known = journal.databases(self.job) if resumes else ()
            sides = self._look(record.run_id if record is not None and resumes else "", known)
            self._refuse_empty_source(sides)
            driver = EngineDriver(sides, self._verify, self._emit, self._cancel, self.controls)
            self._prepare(journal, driver)
            with self._recorded(journal, begun):
                self._compare(journal, driver)

    def _resumes(self, record: JobRecord) -> bool:
        """Whether something is left to be resumed; after a complete pass a verification begins anew."""
        return not self._options.restart and record.status not in COMPLETED

    def _prepare(self, journal: Journal, driver: EngineDriver) -> None:
        """Bring both directions to where this run starts."""
        sides, cluster = driver.sides, driver.cluster
        databases = partitions_by_database(self._options, sides.source_facts, sides.ways)
        partitions = max(databases.values())
        primaries = len(sides.target_facts.topology.primaries)
        run_id = swept = sides.source_facts.run_id
        self._figures.resumed = self._prepare_one(journal, self.job, partitions, run_id, databases)
        if cluster is not None:
            cluster.begin(journal, self.job)
            swept = cluster.begin_sweeps()
            primaries *= cluster.swept
        sweep_id = both_run_ids(swept, sides.target_facts)
        if not self._figures.resumed:
            journal.discard(self._extra_job)
        self._prepare_one(journal, self._extra_job, primaries, sweep_id, list(databases), nodes=True)

    def _prepare_one(
        self,
        journal: Journal,
        name: str,
        partitions: int,
        run_id: str,
        databases: Sequence[int] | Mapping[int, int] = (0,),
        *,
        nodes: bool = False,
    ) -> bool:
        record = journal.job(name)
        if record is None:
            journal.create(name, self._setup, partitions, run_id, databases, nodes=nodes)
            return False
        if self._resumes(record) and record.setup == self._setup:
            if record.run_id == run_id:
                return True
            self._emit(
                Notice(
                    f"a server is another process than the one that {name} began with, or slots have moved: "
                    "its cursors are void, and this direction is scanned again from the start"
                )
            )
        journal.reset(name, self._setup, partitions, run_id, databases, nodes=nodes)
        return False

    @contextmanager
    def _recorded(self, journal: Journal, begun: float) -> Iterator[None]:
        """Enter the run into the journal, for both directions, and end it there whatever happens."""
        figures, jobs = self._figures, (self.job, self._extra_job)
        numbers = [journal.begin_run(name, resumed=figures.resumed) for name in jobs]
        figures.runs = numbers[0]
        self._history = HistoryWriter(lambda entries: journal.tell(self.job, entries))
        self._history.run = numbers[0]
        figures.settled_before = sum(journal.totals(name).keys.settled for name in jobs)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._end_series(journal)
            self._history.write()
            self._history = None
            self._collect(journal)
            ours = None if error is None else as_our_error(error, self._cancel)
            for name, number in zip(jobs, numbers, strict=True):
                status = status_of(journal.totals(name).keys, ours)
                journal.end_run(name, number, status, time.monotonic() - begun, ours)
            self._write_differences(journal)

    def _write_differences(self, journal: Journal) -> None:
        """Write all that the journal has. What goes wrong with that is told by the report."""
        if self._file is None:
            return
        differences = map(Difference.of, misplaced.all_differences(journal, self.job))
        try:
            self._file.write(json.dumps(difference.to_dict()) + "\n" for difference in differences)
        except OutputError as error:
            self._lost_output = error

    def _compare(self, journal: Journal, driver: EngineDriver) -> None:
        options, sides = self._verify, driver.sides
        self._driver = driver
        driver.record = journal.job(self.job)
        self._begin_series(journal, driver)
        self._announce(sides, len(journal.marks(self.job)) // len(sides.ways))
        source = SourceRunner(journal, self.job, driver, options)
        try:
            source.run()
        finally:
            self._paused_seconds += source.paused_seconds
            if source.started_over:
                self._figures.settled_before, self._figures.resumed = 0, False
        target = TargetRunner(journal, self._extra_job, driver, options)
        if sides.source_facts.file is not None:
            self._emit(
                Notice("extra and misplaced keys are not looked for: an RDB file can't be asked for them")
            )
        elif not self._has_way_back(sides):
            self._emit(
                Notice(
                    "keys are renamed, chosen by what they are, or of databases that share one: extra and "
                    "misplaced keys are not looked for"
                )
            )
        else:
            self._emit(PhaseStarted("target", "every key of the source is compared; now the target's are"))
            target.expected_keys = journal.totals(self.job).keys.scanned  # if both sides are the same
            try:
                target.run()
            finally:
                self._paused_seconds += target.paused_seconds
        if options.repair and self._may_repair(journal):
            jobs = (self.job, self._extra_job)
            extra = {name: journal.difference_counts((name, name)).get("extra", 0) for name in jobs}
            repair = self._repair = Repair(journal, driver, options, allowed=extra)
            if journal.difference_counts(jobs):
                self._emit(PhaseStarted("repair", "what differs is sent again and compared once more"))
            repair.run(source, self.job)
            repair.run(target, self._extra_job)

    def _may_repair(self, journal: Journal) -> bool:
        """Tell what is to be repaired; return whether it is to be done now. Raises what stands against it."""
        options, kinds = self._verify, journal.difference_counts((self.job, self._extra_job))
        self._planned = planned = RepairPlanned(
            to_send=sum(kinds.get(kind, 0) for kind in REPAIRABLE),
            to_delete=kinds.get("extra", 0) if options.delete_extra else 0,
            target_keys=journal.totals(self._extra_job).keys.scanned,
        )
        self._emit(planned)
        refusal = None
        if options.delete_extra:
            scanned = journal.totals(self.job).keys.scanned
            refusal = deletion_guard.refuse_unmatched(scanned, planned) or deletion_guard.refuse_too_many(
                planned, options.max_delete
            )
        if options.dry_run:
            if refusal is not None:
                self._emit(Notice(f"it would be refused: {refusal.message}; {refusal.hint}"))
            return False
        if refusal is not None:
            raise refusal
        if planned.to_delete and not options.yes and options.confirm is not None:
            deletion_guard.ask(planned, options.confirm, self._cancel)
        return True

    def _refuse_empty_source(self, sides: Sides) -> None:
        """Raise where a typo in the source's URL would make every key of the target extra."""
        if not self._verify.delete_extra or not self._has_way_back(sides):
            return
        refusal = deletion_guard.refuse_empty_source(sides.ways, sides.source_facts)
        if refusal is not None and not self._options.dry_run:
            raise refusal
        if refusal is not None:
            self._emit(Notice(f"it would be refused: {refusal.message}"))

    @property
    def _sample(self) -> float | None:
        return self._verify.partial

    def _dry_run(self) -> None:
        """Compare as ever: a dry run of a verification leaves out the repair alone."""
        self._run(time.monotonic())

    def _has_way_back(self, sides: Sides) -> bool:
        """Whether a key of the target alone says where it would be at the source, and that it is meant.

        What a filter of types, sizes or TTLs leaves out at the source may be at the target all the same: it
        must not be taken for extra, and be deleted.
        """
        selection = self._verify.selection
        renamed = selection.renames or any(route.prefix for route in sides.ways)
        merged = len({route.target for route in sides.ways}) < len(sides.ways)
        return not (renamed or merged or selection.probes)

    def _collect(self, journal: Journal) -> None:
        jobs = (self.job, self._extra_job)
        source, target = (journal.totals(name) for name in jobs)
        self._target_keys = target.keys
        self._figures.totals = Totals(
            source.keys,
            source.bytes + target.bytes,
            source.moved + target.moved,
            source.ask + target.ask,
            source.retries + target.retries,
        )
        self._kinds = misplaced.count_all(journal, self.job)
        examples = list(journal.failed_of(jobs, _EXAMPLES, extra=False if self._verify.dry_run else None))
        if self._verify.dry_run:  # which shows some of what would be deleted as well
            examples += journal.failed_of(jobs, _EXAMPLES, extra=True)
        examples += islice(misplaced.found(journal, self._extra_job), _EXAMPLES)
        self._examples = tuple(map(Difference.of, examples))

    def _judge(self, sides: Sides) -> list[preflight.Row]:
        """Return whether both sides can be compared."""
        database = sides.target.endpoint.database
        rows = list(preflight.judge_servers(sides.source_facts, sides.target_facts, database))
        if not any(row.status == "error" for row in rows):
            rows += self._judge_rights(sides)
        return preflight.apply_skips(rows, self._options.skip_check)

    def _judge_rights(self, sides: Sides) -> list[preflight.Row]:
        options = self._verify
        rows = [] if sides.source_facts.file is not None else self._judge_source_rights(sides)
        probes = verify_target_probes(has_pexpiretime=sides.target_facts.has_pexpiretime, quick=options.quick)
        if options.repair and not options.dry_run:
            probes += repair_probes(delete=options.delete_extra)
        denied = {}
        for address in sides.target_facts.topology.primaries:
            with sides.target.open(address) as node:
                denied[node.name] = denied_commands(node, probes)
        return rows + judge_rights("target", denied)

    def _judge_source_rights(self, sides: Sides) -> list[preflight.Row]:
        database = sides.source.endpoint.database
        probes = verify_source_probes(sides.source_facts.server, quick=self._verify.quick)
        found = sides.source_facts.found
        with sides.source.open(None if found is None else found.address) as node:
            if database:
                node.need("SELECT", database)
            denied = {node.name: denied_commands(node, probes)}
        return judge_rights("source", denied)

    def _report(self, elapsed: float, error: SlotferryError | None) -> VerifyReport:
        figures, driver, repair = self._figures, self._driver, self._repair
        keys = figures.totals.keys
        settled = keys.settled + self._target_keys.settled
        done = max(0, keys.scanned if not figures.resumed else settled - figures.settled_before)
        active = max(0.0, elapsed - self._paused_seconds)
        status: Status = status_of(keys, error)
        lost = self._lost_output
        if error is None:
            differ = self._kinds or keys.pending or self._target_keys.pending
            status = "completed_with_differences" if differ else "completed"
        return VerifyReport(
            job=self.job,
            status=status,
            totals=figures.totals,
            elapsed_seconds=elapsed,
            keys_per_second=done / active if active > 0 else 0.0,
            runs=figures.runs,
            resumed=figures.resumed,
            error=error or lost,
            keys_by_primary=tuple(sorted(driver.keys_by_primary.items())) if driver else (),
            engine_cpu_seconds=driver.engine_cpu_seconds if driver else 0.0,
            target_keys=self._target_keys,
            differences=dict(self._kinds),
            examples=self._examples,
            repaired=repair.repaired if repair else 0,
            deleted=repair.deleted if repair else 0,
            to_send=self._planned.to_send if self._planned else 0,
            to_delete=self._planned.to_delete if self._planned else 0,
            misplaced_repair=misplaced.repair_command(self._target)
            if self._kinds.get(misplaced.KIND)
            else None,
            dry_run=self._verify.dry_run,
            quick=self._verify.quick,
            sample=self._verify.partial,
            empty=figures.empty,
            fail_if_empty=self._verify.fail_if_empty,
        )
