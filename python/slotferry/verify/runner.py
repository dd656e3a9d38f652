"""Drives the engine through a verification: source to target, target to source, again what differs, repair.

Invariant: what is reported as a difference was read on both sides at one time, `recheck` times in a row
(extra keys at least once); and what is repaired is compared once more before it counts as repaired.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import Any

from slotferry.errors import InternalError, RefusedError, SlotferryError, TargetLostError
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.progress import ProgressReporter
from slotferry.jobs.runner import Runner
from slotferry.model.events import Notice, PhaseStarted
from slotferry.text import shorten_key
from slotferry.topology.databases import Route
from slotferry.topology.discovery import TargetFacts, discover_target
from slotferry.verify import misplaced
from slotferry.verify.options import VerifyOptions

_RECHECK_SECONDS = 1.0
_MAX_TARGET_CHANGES = 5
REPAIRABLE = ("missing", "different", "type", "ttl", "payload")


class _Comparing(Runner):
    """What both directions share: the keys that differ are read again by name."""

    least_rechecks = 0
    side = "source"

    def __init__(self, journal: Journal, name: str, driver: EngineDriver, options: VerifyOptions) -> None:
        super().__init__(journal, name, driver)
        self._options = options
        self._progress = ProgressReporter(driver.emit, driver.figures, purpose="verify", side=self.side)
        self.paused_seconds = 0.0
        """How long it did nothing, to let a moment pass."""

    def compare(self, keys: Sequence[bytes], route: Route | None) -> None:
        """Read these keys on both sides and record what they are now."""
        self._do(self._by_name(keys, route=route))

    def routes(self) -> list[tuple[int, Route | None]]:
        """Return the databases that are compared, with their routes."""
        return self._routes()

    def _by_name(
        self, keys: Sequence[bytes], park_after: float | None = None, route: Route | None = None
    ) -> Work:
        work = Work(keys=keys, settings=comparison_settings(self._options), route=route)
        return work if park_after is None else replace(work, park_after=park_after)

    def _works(self) -> Iterator[Work]:
        yield from self._scans()
        number = 0
        while (keys := self._journal.totals(self._name).keys).failed or keys.pending:
            # Keys whose slots were unavailable have not been compared at all yet.
            least = max(self.least_rechecks, 1 if keys.pending else 0)
            if number >= max(self._options.recheck, least):
                return
            number += 1
            self._driver.emit(
                PhaseStarted("recheck", f"{count_keys(keys.failed + keys.pending)} read again ({number})")
            )
            self._pause()
            if self._driver.cluster is not None:
                self._refresh(self._driver.cluster)
            deadline = time.monotonic() + self._driver.options.retry_for
            for database, route in self._routes():
                left = self._journal.unsettled_keys(self._name, with_failed=True, database=database)
                for names in left:
                    yield self._by_name(names, max(1.0, deadline - time.monotonic()), route)

    def _scans(self) -> Iterator[Work]:
        """Yield what is left to be scanned."""
        raise NotImplementedError

    def _pause(self) -> None:
        """Let a moment pass, in which what is in motion moves on."""
        begun = time.monotonic()
        while time.monotonic() < begun + _RECHECK_SECONDS:
            self._driver.cancel.check()
            time.sleep(0.05)
        self.paused_seconds += time.monotonic() - begun


class SourceRunner(_Comparing):
    """Compares every key of the source with the target's."""

    def _scans(self) -> Iterator[Work]:
        settings = {**comparison_settings(self._options), "sample": self._options.partial}
        marks = [mark for mark in self._journal.marks(self._name) if not mark.done]
        for database, route in self._routes():
            todo = [(mark.index, mark.cursor) for mark in marks if mark.database == database]
            if todo:
                yield Work(partitions=todo, settings=settings, route=route)
        yield from self._moved_works(settings)


class TargetRunner(_Comparing):
    """Looks for every key of the target at the source, one SCAN a primary.

    The marks are those of the primaries in order. They are void when a primary is another process, or when
    slots have moved: a key may then have gone where the scan had been already.
    """

    least_rechecks = 1
    side = "target"
    expected_keys = 0

    def run(self) -> None:
        """Sweep until the target has been the same from start to end. Raises `SlotferryError`."""
        for _ in range(_MAX_TARGET_CHANGES):
            try:
                super().run()
            except TargetLostError as error:
                if error.kind != "target_changed":
                    raise
                reason = str(error)
            else:
                if self._look_at_target():
                    break
                reason = "the target's slots have moved meanwhile"
            self._sweep_again(reason)
        else:
            super().run()
            if not self._look_at_target():
                self._driver.emit(
                    Notice("the target's slots keep moving: some extra keys may not have been seen")
                )
        self._look_at_misplaced()

    def _look_at_misplaced(self) -> None:
        """Look a second time, a moment later, at keys that seemed to lie on another node than their slot."""
        if not self._journal.count_notes(self._name, misplaced.KIND):
            return
        self._pause()
        self._look_at_target()
        sides = self._driver.sides
        misplaced.look_again(
            self._journal,
            self._name,
            sides.target,
            sides.target_facts.topology,
            sides.ways,
            self._driver.cancel,
            lambda text: self._driver.emit(Notice(text)),
        )

    def _scans(self) -> Iterator[Work]:
        primaries = self._driver.sides.target_facts.primaries
        addresses = self._driver.sides.target_facts.topology.primaries
        marks = self._journal.marks(self._name)
        for database, route in self._routes():
            mine = [mark for mark in marks if mark.database == database]
            todo = [
                (mark.index, mark.cursor, address.host, address.port, primary.server.run_id)
                # Of a cluster each primary is asked, for the keys of its slots.
                for mark, primary, address in zip(mine, cycle(primaries), cycle(addresses), strict=False)
                if not mark.done
            ]
            if todo:
                settings = {"sweeps": todo, "sample": self._options.partial}
                yield Work(settings={**settings, **comparison_settings(self._options)}, route=route)

    def _do(self, work: Work) -> None:
        job = self._driver.new_work(work, 1)  # the engine has no partitions here, only primaries
        database = (work.route or self._driver.sides.ways[0]).source
        recorder = Recorder(self._journal, self._name, job, database)
        try:
            self._driver.drive(job, lambda: self._tick(job, recorder))
        finally:
            recorder.finish()
            self._report_checkpoint(recorder)
            expected = self._expected_keys(recorder.keys.scanned, recorder)
            self._progress.report(job.snapshot(), recorder.totals, expected, at_once=True)

    def _expected_keys(self, scanned: int, recorder: Recorder) -> int | None:  # noqa: ARG002
        return max(scanned, self.expected_keys)

    def _look_at_target(self) -> bool:
        """Look at the target anew; return whether it is as it was."""
        sides = self._driver.sides
        before = sides.target_facts.fingerprint
        self._driver.sides = replace(
            sides, target_facts=discover_target(sides.target, sides.source_facts.server)
        )
        return self._driver.sides.target_facts.fingerprint == before

    def _sweep_again(self, reason: str) -> None:
        self._look_at_target()
        self._reset()
        self._driver.emit(Notice(f"{reason}; looking for extra keys from the start"))

    def _start_over(self, error: SlotferryError) -> None:
        """Another source process answers: its keys may be others."""
        if self._driver.cluster is not None:
            super()._start_over(error)
            self._reset()
            return
        run_id = self._driver.sides.source_facts.server.run_id
        facts = self._look_again(error, run_id)
        self._driver.sides = replace(self._driver.sides, source_facts=facts)
        for note in facts.notes:
            self._driver.emit(Notice(note))
        if facts.server.run_id == run_id:
            return
        self._reset()
        self._driver.emit(Notice(f"{error}; looking for extra keys from the start"))

    def _reset(self) -> None:
        record = self._journal.job(self._name)
        if record is None:
            raise InternalError(f"the job {self._name} is gone from the journal")
        sides, cluster = self._driver.sides, self._driver.cluster
        swept = sides.source_facts.run_id if cluster is None else cluster.begin_sweeps()
        self._journal.reset(
            self._name,
            record.setup,
            len(sides.target_facts.topology.primaries) * (1 if cluster is None else cluster.swept),
            both_run_ids(swept, sides.target_facts),
            [route.source for route in sides.ways],
            nodes=True,
        )
        self.started_over = True


def count_keys(number: int) -> str:
    """Return the subject of a sentence."""
    return "1 key is" if number == 1 else f"{number:,} keys are"


def both_run_ids(source_run_id: str, target: TargetFacts) -> str:
    """Return what the marks of a sweep depend on."""
    return f"{source_run_id}+{target.fingerprint}"


def comparison_settings(options: VerifyOptions) -> dict[str, Any]:
    """Return what makes an engine job compare instead of copy."""
    depth = "lengths" if options.quick else "values"
    return {
        "verify": (options.ttl_tolerance, depth, options.show_values),
        "wait_replicas": 0,
        "eviction": None,
    }


@dataclass
class Repair:
    """Sends again what differs and compares it once more; counts what it has repaired."""

    journal: Journal
    driver: EngineDriver
    options: VerifyOptions
    repaired: int = 0
    deleted: int = 0
    allowed: dict[str, int] = field(default_factory=dict)
    """How many extra keys each job may delete: those that were counted before the repair began."""
    _complaints: int = 0

    def run(self, runner: _Comparing, name: str) -> None:
        """Repair what is recorded as failed under the job `name`. Raises `SlotferryError`."""
        kinds = [*REPAIRABLE, *(["extra"] if self.options.delete_extra else [])]
        for database, route in runner.routes():
            for kind in kinds:
                for keys in self.journal.failed_keys(name, kind, database):
                    self.driver.cancel.check()
                    if kind == "extra":
                        self._count_down(name, len(keys))
                    self._send(keys, route, delete=kind == "extra")
                    before = self.journal.totals(name).keys.failed
                    runner.compare(keys, route)
                    put_right = before - self.journal.totals(name).keys.failed
                    if kind == "extra":
                        self.deleted += put_right
                    else:
                        self.repaired += put_right

    def _count_down(self, name: str, keys: int) -> None:
        """Raise where the source has lost keys since the extra ones were counted."""
        self.allowed[name] = self.allowed.get(name, 0) - keys
        if self.allowed[name] < 0:
            raise RefusedError(
                f"{keys:,} keys are extra now, more than when they were counted: the source loses keys; they "
                "were not deleted",
                hint="see what happens at the source, then run it again",
            )

    def _send(self, keys: Sequence[bytes], route: Route | None, *, delete: bool) -> None:
        settings = {"on_conflict": "replace", "delete_extra": delete}
        work = Work(keys=keys, settings=settings, route=route)
        job = self.driver.new_work(work, 1)
        self.driver.drive(job, lambda: self._complain(job))
        self._complain(job)

    def _complain(self, job: EngineJob) -> None:
        """Tell of the first keys that can't be repaired; the engine goes on once it is rid of them."""
        for failure in job.checkpoint().failures:
            self._complaints += 1
            if self._complaints <= 3:
                key = shorten_key(failure.key)
                self.driver.emit(Notice(f"{key} can't be repaired: {failure.message}"))
