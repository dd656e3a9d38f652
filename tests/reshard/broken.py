"""Ways to leave a cluster's slots in disorder, as interrupted reshards do it."""

from __future__ import annotations

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.raw import connect


def node_id(node: LocalServer) -> str:
    with connect(node) as connection:
        return str(connection.execute("CLUSTER", "MYID").decode())


def setslot(node: LocalServer, slot: int, *how: str) -> None:
    with connect(node) as connection:
        connection.execute("CLUSTER", "SETSLOT", slot, *how)


def half_moved(source: LocalServer, target: LocalServer, slot: int, keys: int) -> None:
    """Open a slot and move some of its keys, as a reshard that was killed in the middle."""
    setslot(target, slot, "IMPORTING", node_id(source))
    setslot(source, slot, "MIGRATING", node_id(target))
    with connect(source) as connection:
        for key in connection.execute("CLUSTER", "GETKEYSINSLOT", slot, keys):
            connection.execute("MIGRATE", target.host, target.port, key, 0, 5_000)


def put_astray(node: LocalServer, owner: LocalServer, slot: int, *keys: str, value: str = "astray") -> None:
    """Write keys of a slot to a node that does not own it, and close the slot there."""
    setslot(node, slot, "IMPORTING", node_id(owner))
    with connect(node) as connection:
        for key in keys:
            connection.execute("ASKING")
            connection.execute("SET", key, value)
    setslot(node, slot, "STABLE")


def leave_ownerless(cluster: LocalCluster, slot: int) -> None:
    """Let no node own a slot."""
    for node in cluster.nodes:
        with connect(node) as connection:
            connection.execute("CLUSTER", "DELSLOTS", slot)
