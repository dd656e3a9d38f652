"""What is said of slots that somebody else has moved, too, by the time that a run ends."""

from __future__ import annotations

from pathlib import Path

from slotferry.api.resharding import connect
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.reshard.contested import Contest
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.move.claim import TAKEN
from slotferry.reshard.move.conflicts import ConflictFile
from slotferry.reshard.tally import Tally
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.reshard.client import fill_keys, keys_in, slots_owned
from tests.reshard.moving import plan_away
from tests.servers.raw import connect as raw


def _give(cluster: LocalCluster, slots: list[int], taker: LocalServer) -> None:
    """Make empty slots another node's, as another tool may."""
    with raw(taker) as connection:
        target = connection.execute("CLUSTER", "MYID")
    for node in (taker, *cluster.primaries):
        with raw(node) as connection:
            for slot in slots:
                connection.execute("CLUSTER", "SETSLOT", slot, "NODE", target)
    cluster.wait_until_healthy()


def test_a_slot_whose_keys_nobody_holds_is_called_lost(own: LocalCluster, tmp_path: Path) -> None:
    plan = plan_away(own)
    moves = plan.moves()[:2]
    slots = [move.slot for move in moves]
    (target,) = {plan.node(move.target).address for move in moves}
    taker = next(node for node in own.primaries[1:] if node.address != str(target))
    with raw(own.primaries[0]) as connection:
        connection.execute("FLUSHALL")
    _give(own, slots, taker)
    fill_keys(taker, keys_in([slots[1]], 4))
    tally = Tally(slots=2, moved=set(slots), counted=dict.fromkeys(slots, 4))
    said: list[str] = []
    with ReshardJournal(tmp_path / "journal.sqlite") as journal:
        journal.begin("job", plan)
        Contest(
            *(connect(own.url), plan, journal, "job", ConflictFile(tmp_path / "conflicts.jsonl")),
            *(CancelRequest(), said.append, lambda: None),
        ).settle(tally)

    assert tally.moved == set()
    assert tally.left[slots[0]].startswith("no node holds any of its 4 keys any more")
    assert tally.left[slots[1]] == TAKEN
    assert "are claimed by others too" in said[0]
    owned = slots_owned(own)
    assert {owned[slot] for slot in slots} == {taker}
