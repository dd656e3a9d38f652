"""What a run of `reshard` writes down of its slots, and how its end is told."""

from __future__ import annotations

from pathlib import Path

from slotferry.report.reshard.tables import report_table
from slotferry.reshard.journal import ReshardJournal
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


def test_what_is_open_is_not_said_to_be_where_it_was() -> None:
    left = {1: "open: a key differs between its two nodes", 2: "open: no memory", 3: "in use"}
    table = report_table(Report("moves", "slots_left", moved=4, left=left))
    assert "left       1  slots, where they were" in table or "left   1  slots, where they were" in table
    assert "2  slots, open between two nodes" in table
    assert "where they were" not in report_table(Report("moves", "slots_left", left={1: "open: x"}))
