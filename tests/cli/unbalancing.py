"""A weight that makes a plan of a cluster move slots, whatever the tests before have moved in it."""

from __future__ import annotations

from slotferry.testing.servers import LocalCluster


def unbalancing_weight(cluster: LocalCluster) -> str:
    """Return a value of `--weight` that gives the primary with the fewest slots thrice its share."""
    with cluster.primaries[0].client() as client:
        nodes = client.execute_command("CLUSTER SLOTS")
    slots = dict.fromkeys((node.port for node in cluster.primaries), 0)
    for first, last, (_, port, *_), *_ in nodes:
        slots[int(port)] += int(last) - int(first) + 1
    return f"127.0.0.1:{min(slots, key=lambda port: slots[port])}=3"
