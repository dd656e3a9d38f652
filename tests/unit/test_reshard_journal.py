"""What a run of `reshard` writes down of its slots, and how its end is told."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from slotferry.report.page.resharding import reshard_page
from slotferry.report.reshard.tables import report_table
from slotferry.reshard.journal import ReshardJournal, ReshardRecord
from slotferry.reshard.plan.model import Holding, Plan, PlannedNode, Policy, Transfer
from slotferry.reshard.report import Report


def _plan() -> Plan:
    holding = Holding(100, 1000, 10_000)
    nodes = tuple(PlannedNode(i * 40, f"n:{i}", (i * 40,), 0.5, "0-9", holding, holding) for i in "ab")
    return Plan(
        cluster="redis+cluster://n:1",
        created=1.5,
        policy=Policy(),
        fingerprint="print",
        nodes=nodes,
        transfers=(Transfer("a" * 40, "b" * 40, "0-9", 10, 100),),
        remarks=(),
        estimated=False,
    )


def test_slots_that_a_repair_has_closed_count_as_moved(tmp_path: Path) -> None:
    """A repair forgets what is open no more; the run finds those slots at their target, and counts them."""
    with ReshardJournal(tmp_path / "journal.db") as journal:
        journal.begin("moves", _plan())
        journal.set_open("moves", dict.fromkeys(range(6), "process"))
        journal.settle("moves", range(4), {}, 40, 400)
        journal.forget_open([4, 5])
        journal.settle("moves", [4], {5: "open: a key differs between its two nodes"}, 10, 100)

        assert journal.slots("moves", "moved") == [0, 1, 2, 3, 4]
        assert journal.slots("moves", "open") == [5]
        assert journal.reasons("moves") == {"open: a key differs between its two nodes": "5"}


def test_what_was_moved_when_is_kept_for_the_plan_that_is_carried_out(tmp_path: Path) -> None:
    with ReshardJournal(tmp_path / "journal.db") as journal:
        run, _ = journal.begin("moves", _plan())
        journal.settle("moves", range(4), {}, 40, 400)
        journal.settle("moves", [4], {5: "in use"}, 10, 100)
        journal.settle("moves", [], {6: "in use"}, 0, 0)

        steps = journal.steps("moves")
        assert {step.run for step in steps} == {run}
        assert [sum(got) for got in zip(*((s.slots, s.keys, s.bytes) for s in steps), strict=True)] == [
            5,
            50,
            500,
        ]
        page = reshard_page(journal, journal.path, found(journal), None)
        assert [chart.name for chart in page.charts] == ["keys", "bytes", "slots"]
        assert page.charts[-1].description == "5 of 10 that were planned."

        journal.begin("moves", replace(_plan(), created=2.5, remarks=("another",)))
        assert journal.steps("moves") == []


def test_a_reshard_of_which_nobody_knows_when_has_a_page(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with ReshardJournal(path) as journal:
        journal.begin("moves", _plan())
        assert reshard_page(journal, path, found(journal), None).no_charts == "Nothing moved yet."
        journal.settle("moves", range(4), {}, 40, 400)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:  # as an older version left it
        connection.execute("DROP TABLE reshard_steps")
    with ReshardJournal(path) as journal:
        page = reshard_page(journal, path, found(journal), None)
        assert list(page.charts) == []
        assert "does not say when" in page.no_charts


def found(journal: ReshardJournal) -> ReshardRecord:
    record = journal.job("moves")
    assert record is not None
    return record


def test_what_is_open_is_not_said_to_be_where_it_was() -> None:
    left = {1: "open: a key differs between its two nodes", 2: "open: no memory", 3: "in use"}
    table = report_table(Report("moves", "slots_left", moved=4, left=left))
    assert "left       1  slots, where they were" in table or "left   1  slots, where they were" in table
    assert "2  slots, open between two nodes" in table
    assert "where they were" not in report_table(Report("moves", "slots_left", left={1: "open: x"}))
