"""The order of a run's engine jobs, and what the runner does when one ends early."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from slotferry._core import ErrorKind
from slotferry.errors import (
    InternalError,
    MigrationInterrupted,
    SlotferryError,
    SourceNotReadyError,
    TargetLostError,
)
from slotferry.jobs import runner
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.driver import EngineDriver, Sides, Work
from slotferry.jobs.engine_errors import from_engine
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark, PendingKey, Setup
from slotferry.jobs.options import Options
from slotferry.jobs.runner import Runner
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.events import CheckpointSaved, Event, Notice, Progress
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.topology.discovery import ServerFacts, SourceFacts, TargetFacts, Topology
from slotferry.topology.product import Product
from tests.unit.fakes import FakeCheckpoint, FakeCounts, FakeJob

SERVER = ServerFacts("old:6379", "id", (7, 0, 15), Product("redis", "7.0.15"), False)
Script = Callable[[Work], FakeJob]


class ScriptedDriver(EngineDriver):
    """Hands each `Work` to the next function of a script instead of an engine."""

    def __init__(self, scripts: list[Script], options: Options, events: list[Event]) -> None:
        sides = Sides(
            Connector(Endpoint.parse("redis://old", "source"), "source"),
            Connector(Endpoint.parse("redis://new:7000", "target"), "target"),
            SourceFacts(SERVER, 1000, 0.001),
            TargetFacts(SERVER, Topology(((0, 16383, "new", 7000),))),
        )
        super().__init__(sides, options, events.append, CancelRequest())
        self.scripts = scripts
        self.works: list[Work] = []

    def new_work(self, work: Work, partition_count: int) -> EngineJob:
        self.works.append(work)
        return self.scripts.pop(0)(work).as_job()

    def drive(self, job: EngineJob, tick: Callable[[], None]) -> None:
        tick()
        error = cast(FakeJob, job).error
        if error is not None:
            raise error


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        opened.create("job", Setup("s", "t", None, None, "error"), 2, "id")
        yield opened


def scan(counts: FakeCounts, error: SlotferryError | None = None, **lists: Any) -> Script:
    """A job that scans its partitions to their end (or fails)."""

    def script(work: Work) -> FakeJob:
        marks = [
            Mark(index, cursor + (4 if error else 0), error is None) for index, cursor in work.partitions
        ]
        return FakeJob([FakeCheckpoint(counts, marks, **lists)], error)

    return script


def settle(work: Work) -> FakeJob:
    """A job that migrates all keys it is given by name."""
    return FakeJob([FakeCheckpoint(FakeCounts(migrated=len(work.keys)), resolved=list(work.keys))])


def park(work: Work) -> FakeJob:
    """A job that gets nowhere with the keys it is given."""
    again = [PendingKey(key, 8, "not served") for key in work.keys]
    counts = FakeCounts(pending=len(again))
    return FakeJob([FakeCheckpoint(counts, resolved=list(work.keys), pending=again)])


def run(
    journal: Journal, *scripts: Script, options: Options | None = None
) -> tuple[ScriptedDriver, list[Event]]:
    events: list[Event] = []
    driver = ScriptedDriver(list(scripts), options or Options(), events)
    Runner(journal, "job", driver).run()
    assert driver.scripts == []
    return driver, events


PENDING = [PendingKey(b"p1", 8, "not served"), PendingKey(b"p2", 8, "not served")]
FAILED = [FailedKey(b"f", 1, "conflict", "differs", "n:1")]


def test_a_run_without_trouble_is_one_job(journal: Journal) -> None:
    driver, events = run(journal, scan(FakeCounts(7, 7)))
    assert driver.works == [Work(partitions=[(0, 0), (1, 1)], keys=[])]
    assert journal.totals("job").keys == Keys(scanned=7, migrated=7)
    assert [type(event) for event in events] == [Progress, CheckpointSaved, Progress]


def test_pending_keys_are_taken_up_after_the_scan_with_more_patience(journal: Journal) -> None:
    options = Options(retry_for=77)
    driver, _ = run(journal, scan(FakeCounts(3, 1, pending=2), pending=PENDING), settle, options=options)
    assert driver.works[1].keys == [b"p1", b"p2"]
    assert driver.works[1].park_after == pytest.approx(77, abs=5)
    assert journal.totals("job").keys == Keys(scanned=3, migrated=3)


def test_a_pass_that_makes_no_progress_is_the_last(journal: Journal) -> None:
    driver, _ = run(journal, scan(FakeCounts(3, 1, pending=2), pending=PENDING), park)
    assert len(driver.works) == 2
    assert journal.totals("job").keys == Keys(scanned=3, migrated=1, pending=2)


def test_a_pass_that_makes_progress_is_followed_by_another(journal: Journal) -> None:
    def half(work: Work) -> FakeJob:
        counts = FakeCounts(migrated=1)
        return FakeJob([FakeCheckpoint(counts, resolved=[work.keys[0]])])

    driver, _ = run(journal, scan(FakeCounts(3, 1, pending=2), pending=PENDING), half, settle)
    assert [work.keys for work in driver.works[1:]] == [[b"p1", b"p2"], [b"p2"]]
    assert journal.totals("job").keys == Keys(scanned=3, migrated=3)


def test_resuming_takes_pending_keys_first_and_leaves_failed_ones(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slotferry.jobs.journal.reader._CHUNK_KEYS", 1)
    marks = [Mark(0, 0, True), Mark(1, 9, False)]
    counts = Totals(Keys(scanned=4, migrated=1))
    journal.record("job", Advance(counts, marks, pending=PENDING, failures=FAILED))

    def scan_and_settle(work: Work) -> FakeJob:
        checkpoint = FakeCheckpoint(FakeCounts(1, 2), [Mark(1, 0, True)], resolved=list(work.keys))
        return FakeJob([checkpoint])

    driver, _ = run(journal, scan_and_settle, settle)
    assert driver.works == [Work(partitions=[(1, 9)], keys=[b"p1"]), Work(keys=[b"p2"])]
    assert journal.totals("job").keys == Keys(scanned=5, migrated=4, failed=1)


def test_once_the_scan_is_complete_failed_keys_are_tried_again(journal: Journal) -> None:
    marks = [Mark(0, 0, True), Mark(1, 0, True)]
    counts = Totals(Keys(scanned=4, migrated=1))
    journal.record("job", Advance(counts, marks, pending=PENDING, failures=FAILED))
    driver, _ = run(journal, settle)
    assert driver.works == [Work(partitions=[], keys=[b"p1", b"p2", b"f"])]
    assert journal.totals("job").keys == Keys(scanned=4, migrated=4)


def test_an_error_ends_the_run_with_what_was_reached_in_the_journal(journal: Journal) -> None:
    with pytest.raises(TargetLostError):
        run(journal, scan(FakeCounts(5, 5), TargetLostError("gone")))
    assert journal.totals("job").keys == Keys(scanned=5, migrated=5)
    assert journal.marks("job") == [Mark(0, 4, False), Mark(1, 5, False)]


def test_a_cancelled_run_starts_no_further_job(journal: Journal) -> None:
    driver = ScriptedDriver([], Options(), [])
    driver.cancel.ask()
    with pytest.raises(MigrationInterrupted):
        Runner(journal, "job", driver).run()
    assert driver.works == []


def test_counts_that_do_not_add_up_are_a_bug(journal: Journal) -> None:
    with pytest.raises(InternalError, match="do not add up"):
        run(journal, scan(FakeCounts(scanned=5, migrated=4)))


def test_a_changed_source_lets_the_run_start_over(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = SourceFacts(ServerFacts("old:6379", "id-2", (7, 0, 15), Product("redis", ""), False), 5, 0.001)
    monkeypatch.setattr(runner, "discover_any_source", lambda *_: changed)
    error = from_engine(ErrorKind.SOURCE_CHANGED, "the source has another run_id")
    journal.record("job", Advance(Totals(Keys(scanned=1)), failures=FAILED))
    driver, events = run(journal, scan(FakeCounts(5, 5), error), scan(FakeCounts(5, 5)))
    assert driver.works[1] == Work(partitions=[(0, 0), (1, 1)], keys=[])
    assert driver.sides.source_facts == changed
    assert journal.totals("job").keys == Keys(scanned=5, migrated=5)
    record = journal.job("job")
    assert record is not None
    assert record.run_id == "id-2"
    assert [event.message for event in events if isinstance(event, Notice)] == [
        "the source has another run_id; the cursors are void: every partition is scanned again from the start"
    ]


def test_a_source_that_changes_all_the_time_is_refused(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "discover_any_source", lambda *_: SourceFacts(SERVER, 5, 0.001))
    error = from_engine(ErrorKind.SOURCE_CHANGED, "another run_id")
    with pytest.raises(SourceNotReadyError, match="changed its run_id 6 times"):
        run(journal, *[scan(FakeCounts(1, 1), error)] * 6)
