"""Copies that an interrupted handover has left at the target: dropped, unless they may be the only ones."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from slotferry.api.resharding import Plan
from slotferry.model.address import Address
from slotferry.reshard.cluster.members import read_cluster
from slotferry.reshard.cluster.wire import Wire
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.move.copying import replication_identity
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.reshard.broken import node_id
from tests.reshard.client import keys_in, slots_owned
from tests.reshard.moving import MOVING, assert_clean, connector_of, importing, plan_away
from tests.servers.raw import connect

SLOT = MOVING[0]


def left_over(cluster: LocalCluster, folder: Path, *, process: str | None = None) -> tuple[Plan, list[str]]:
    """Leave a slot as a killed run does, copied and in the journal; then change some of its keys."""
    first = cluster.primaries[0]
    plan = plan_away(cluster)
    goes = next(move.target for move in plan.moves() if move.slot == SLOT)
    second = next(node for node in cluster.primaries if node_id(node) == goes)
    importing(cluster, SLOT, at=second)
    names = keys_in([SLOT], 10)
    with connect(first) as source, connect(second) as target:
        for name in names:
            target.execute("RESTORE-ASKING", name, 0, source.execute("DUMP", name))
        source.execute("SET", names[0], "changed since")
        source.execute("DEL", names[1])
    if process is None:
        connector = connector_of(cluster)
        with Wire(connector, Address(first.host, first.port)) as wire:
            process = replication_identity(wire, read_cluster(connector).members[node_id(first)])
    with ReshardJournal(folder / "journal.db") as journal:
        journal.begin("job", plan)
        journal.set_open("job", {SLOT: process})
    return plan, names


def _judge(cluster: LocalCluster, names: list[str], owner: LocalServer, conflicts: Path) -> None:
    assert_clean(cluster, len(MOVING) * 10 - 1)
    assert slots_owned(cluster)[SLOT] is owner
    with connect(owner) as connection:
        assert connection.execute("GET", names[0]) == b"changed since"
        assert connection.execute("EXISTS", names[1]) == 0
    lines = [json.loads(line) for line in conflicts.read_text().splitlines()]
    assert [line["type"] for line in lines] == ["outdated_copy"] * 2
    assert {base64.b64decode(line["key_base64"]).decode() for line in lines} == set(names[:2])


def test_copies_of_an_interrupted_run_are_dropped_by_the_next_one(own: LocalCluster, tmp_path: Path) -> None:
    plan, names = left_over(own, tmp_path)
    conflicts = tmp_path / "conflicts.jsonl"
    report = plan.apply(job="job", journal=tmp_path / "journal.db", conflicts=conflicts)
    assert report.ok, report
    _judge(own, names, slots_owned(own)[SLOT], conflicts)
    with ReshardJournal(tmp_path / "journal.db") as journal:
        assert journal.copied_from() == []
    assert slots_owned(own)[SLOT] is not own.primaries[0]


def test_copies_of_an_interrupted_run_are_dropped_by_fix(own: LocalCluster, tmp_path: Path) -> None:
    _, names = left_over(own, tmp_path)
    conflicts = tmp_path / "conflicts.jsonl"
    fixed = run(
        *("reshard", "fix", own.url, "--apply", "--journal", str(tmp_path / "journal.db")),
        *("--conflicts", str(conflicts)),
    )
    assert fixed.code == 0, fixed.stdout + fixed.stderr
    _judge(own, names, own.primaries[0], conflicts)


def test_what_may_be_the_only_copy_is_not_dropped(own: LocalCluster, tmp_path: Path) -> None:
    """The source is another process by now: its keys may be on the target alone."""
    plan, names = left_over(own, tmp_path, process=f"{node_id(own.primaries[0])}/another")
    report = plan.apply(job="job", journal=tmp_path / "journal.db", conflicts=tmp_path / "conflicts.jsonl")
    assert report.status == "slots_left"
    assert list(report.left) == [SLOT]
    goes = next(move.target for move in plan.moves() if move.slot == SLOT)
    with connect(next(node for node in own.primaries if node_id(node) == goes)) as connection:
        connection.execute("ASKING")
        assert connection.execute("EXISTS", names[1]) == 1
