"""Slots that move between primaries during a run, as an operator's own reshard makes them."""

from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from redis.crc import key_slot

from slotferry import Report
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.paused import paused_migration
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.raw import connect

KEYS = 200_000


class Reshard:
    """Moves one slot by hand, step by step: SETSLOT, MIGRATE, SETSLOT (Redis Cluster specification)."""

    def __init__(self, cluster: LocalCluster, slot: int, old: LocalServer, new: LocalServer) -> None:
        self._nodes = [old, new, *(node for node in cluster.primaries if node not in (old, new))]
        self._slot = slot
        self._old, self._new = old, new
        self._old_id, self._new_id = _id(old), _id(new)

    def open(self) -> None:
        _cluster(self._new, "SETSLOT", self._slot, "IMPORTING", self._old_id)
        _cluster(self._old, "SETSLOT", self._slot, "MIGRATING", self._new_id)

    def move_keys(self) -> None:
        with connect(self._old) as old:
            while keys := old.execute("CLUSTER", "GETKEYSINSLOT", self._slot, 100):
                old.execute("MIGRATE", self._new.host, self._new.port, "", 0, 10_000, "KEYS", *keys)

    def close(self) -> None:
        # The target first, so that the slot is never nobody's.
        for node in (self._new, self._old, *self._nodes[2:]):
            _cluster(node, "SETSLOT", self._slot, "NODE", self._new_id)

    def do(self) -> None:
        self.open()
        self.move_keys()
        self.close()


def _id(node: LocalServer) -> str:
    with connect(node) as connection:
        return str(connection.execute("CLUSTER", "MYID").decode())


def _cluster(node: LocalServer, *parts: str | int) -> None:
    with connect(node) as connection:
        connection.execute("CLUSTER", *parts)


def test_slots_that_moved_since_the_topology_was_read(filled: LocalServer, own_cluster: LocalCluster) -> None:
    first, second, _ = own_cluster.primaries
    with paused_migration(filled, own_cluster) as paused:
        for slot in range(200):
            Reshard(own_cluster, slot, first, second).do()
        report = paused.resume()

    assert report.ok
    assert report.totals.moved > 0
    assert report.keys.migrated == count_keys(own_cluster) == KEYS
    own_cluster.wait_until_healthy()
    assert_equal(filled, own_cluster, byte_equal=True)


def test_slots_that_move_while_keys_flow(filled: LocalServer, own_cluster: LocalCluster) -> None:
    first, second, _ = own_cluster.primaries
    with paused_migration(filled, own_cluster) as paused:
        paused.proxy.resume()
        # One way only: two nodes that take slots at once may choose the same epoch, and what the cluster's
        # own gossip then makes of a slot is nothing that a client can be held to.
        for slot in range(200):
            Reshard(own_cluster, slot, first, second).do()
        report = paused.resume()

    assert report.ok
    own_cluster.wait_until_healthy()
    assert_equal(filled, own_cluster, byte_equal=True)


def test_a_slot_that_stays_open_is_written_by_ask(source: LocalServer, own_cluster: LocalCluster) -> None:
    slot = key_slot(b"{tag}")
    old = _owner(own_cluster, slot)
    new = next(node for node in own_cluster.primaries if node is not old)
    with source.client() as client:
        client.mset({f"{{tag}}{i}": i for i in range(3_000)})
        client.mset({f"key:{i}": i for i in range(3_000)})
    with connect(old) as connection:
        for i in range(10):  # these live on the old owner still, and must stay alone there
            connection.execute("SET", f"{{tag}}{i}", i)
    reshard = Reshard(own_cluster, slot, old, new)
    reshard.open()

    report = migrate(source, own_cluster)

    assert report.ok
    assert report.keys.unchanged == 10
    assert report.totals.ask >= 2_990
    assert report.totals.moved == 0
    with connect(old) as here, connect(new) as there:
        assert here.execute("CLUSTER", "COUNTKEYSINSLOT", slot) == 10
        assert there.execute("CLUSTER", "COUNTKEYSINSLOT", slot) == 2_990
    reshard.move_keys()  # would stop on BUSYKEY if a key were on both
    reshard.close()
    own_cluster.wait_until_healthy()
    assert_equal(source, own_cluster, byte_equal=True)


def test_replacing_a_key_in_an_open_slot_never_doubles_it(
    source: LocalServer, own_cluster: LocalCluster
) -> None:
    slot = key_slot(b"{tag}")
    old = _owner(own_cluster, slot)
    new = next(node for node in own_cluster.primaries if node is not old)
    with source.client() as client:
        client.mset({f"{{tag}}{i}": "source" for i in range(200)})
    with connect(old) as connection:
        for i in range(200):
            connection.execute("SET", f"{{tag}}{i}", "target")
    reshard = Reshard(own_cluster, slot, old, new)
    reshard.open()
    with connect(old) as connection:  # half of them have moved already
        keys = [f"{{tag}}{i}" for i in range(100)]
        connection.execute("MIGRATE", new.host, new.port, "", 0, 10_000, "KEYS", *keys)

    report = migrate(source, own_cluster, on_conflict="replace")

    assert report.ok
    reshard.move_keys()
    reshard.close()
    own_cluster.wait_until_healthy()
    assert_equal(source, own_cluster, byte_equal=True)


@pytest.mark.parametrize("name", ["redis-7.0", "redis-8.0", "valkey-9.1"])
def test_a_large_key_waits_for_its_open_slot(source: LocalServer, name: str, stack: ExitStack) -> None:
    """It is written under a temporary name there, and named when both names are on one node for good."""
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    cluster = stack.enter_context(LocalCluster(available()[name].binary))
    slot = key_slot(b"{tag}")
    old = _owner(cluster, slot)
    new = next(node for node in cluster.primaries if node is not old)
    with connect(source) as connection:
        for i in range(0, 4_000, 100):
            pairs = [str(part) for j in range(i, i + 100) for part in (j, "value")]
            connection.execute("HSET", "{tag}", *pairs)
    reshard = Reshard(cluster, slot, old, new)
    reports: list[Report] = []
    options = {"big_key_bytes": 64_000, "max_bytes_per_second": 200_000}
    thread = threading.Thread(target=lambda: reports.append(migrate(source, cluster, **options)))
    thread.start()
    wait_until(lambda: _holds_keys(old, slot), "the first parts of the key")
    reshard.open()
    wait_until(lambda: _refused(old, "TRYAGAIN"), "the key to be named in vain", timeout=60)
    reshard.move_keys()
    reshard.close()
    thread.join(120)
    assert [report.ok for report in reports] == [True]
    cluster.wait_until_healthy()
    assert_equal(source, cluster)


def _holds_keys(node: LocalServer, slot: int) -> bool:
    with connect(node) as connection:
        return bool(connection.execute("CLUSTER", "COUNTKEYSINSLOT", slot))


def _refused(node: LocalServer, error: str) -> bool:
    with node.client() as client:
        return f"errorstat_{error}" in client.info("errorstats")


def test_an_atomic_slot_migration_of_valkey_9(filled: LocalServer, stack: ExitStack) -> None:
    kind = available().get("valkey-9.1")
    if kind is None:
        pytest.skip("this machine has no valkey-9.1")
    cluster = stack.enter_context(LocalCluster(kind.binary))
    first, second, _ = cluster.primaries
    with paused_migration(filled, cluster) as paused:
        paused.proxy.resume()
        _cluster(first, "MIGRATESLOTS", "SLOTSRANGE", 0, 2_000, "NODE", _id(second))
        wait_until(lambda: _owner(cluster, 0) is second, "the slots to be handed over")
        report = paused.resume()

    assert report.ok
    cluster.wait_until_healthy()
    assert_equal(filled, cluster)


def _owner(cluster: LocalCluster, slot: int) -> LocalServer:
    with connect(cluster.primaries[2]) as connection:
        rows = connection.execute("CLUSTER", "SLOTS")
    port = next(row[2][1] for row in rows if row[0] <= slot <= row[1])
    return next(node for node in cluster.nodes if node.port == port)
