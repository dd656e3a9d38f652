"""What the tests of moving slots share: which slots move, by which plan, and how the cluster is judged."""

from __future__ import annotations

from slotferry import plan_reshard
from slotferry.api.resharding import Plan
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.reshard.broken import node_id, setslot
from tests.reshard.client import open_slots, slots_owned
from tests.servers.raw import connect as raw

MOVING = list(range(5_061, 5_461))


def plan_away(cluster: LocalCluster, slots: int = 400) -> Plan:
    """Plan to move so many of `MOVING` from the first primary to the two others."""
    counts = [5_461 - slots, 5_461 + slots // 2, 5_462 + slots // 2]
    weights = {node.address: n for node, n in zip(cluster.primaries, counts, strict=True)}
    plan = plan_reshard(cluster.url, weights=weights, threshold=0.0001)
    assert plan.slots == slots
    return plan


def assert_clean(cluster: LocalCluster, keys: int = len(MOVING) * 10) -> None:
    """Check that nothing is open, every slot served, and every key on the node that owns its slot."""
    cluster.wait_until_healthy()
    assert open_slots(cluster) == []
    owned = slots_owned(cluster)
    assert [slot for slot in range(16_384) if slot not in owned] == []
    held = 0
    for node in cluster.nodes:
        if not node.running:
            continue
        with raw(node) as connection:
            if connection.execute("ROLE")[0] != b"master":
                continue  # a drained node may have become a replica
            own = [slot for slot, owner in owned.items() if owner is node]
            at_home = sum(connection.execute("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in own)
            assert connection.execute("DBSIZE") == at_home
            held += at_home
    assert held == keys


def importing(cluster: LocalCluster, *slots: int, at: LocalServer | None = None) -> None:
    for slot in slots:
        setslot(at or cluster.primaries[1], slot, "IMPORTING", node_id(cluster.primaries[0]))


def connector_of(cluster: LocalCluster) -> Connector:
    return Connector(Endpoint.parse(cluster.url, "cluster"), "cluster")
