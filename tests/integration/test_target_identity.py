"""Who is written to is known by what a server says of itself: never the source, never another cluster.

Invariant: every server is a real one; what misleads is what misleads in the field (announced addresses, NAT,
an address that another server has taken over, a wrong seed).
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count, islice
from typing import Any

import pytest

from slotferry import Migration, Options, Verification, VerifyOptions, plan_reshard
from slotferry._core import key_slot
from slotferry.errors import SlotferryError, SourceNotReadyError, TargetLostError, TargetNotReadyError
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import run as run_command
from tests.faults.paused import Paused, paused_migration
from tests.faults.test_slots_moving import Reshard
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy, put_behind_proxies
from tests.servers.raw import connect

_KEYS = 20_000
_MOVED = 900  # slots
_READS = {
    *("auth", "client", "dbsize", "dump", "exists", "getrange", "hello", "info", "memory", "pexpiretime"),
    *("ping", "pttl", "scan", "select", "strlen", "time", "type", "unwatch", "watch", "command", "acl"),
    *("function", "config", "psync", "replconf", "replicaof", "slaveof", "cluster", "object"),
    *("multi", "exec"),  # around reads of a large key's parts
}
"""What the source may be sent: reads and questions, and what the test itself and a replica send."""


@pytest.fixture
def own_cluster(kind: ServerKind, stack: ExitStack) -> LocalCluster:
    return stack.enter_context(LocalCluster(kind.binary))


@pytest.fixture
def other_cluster(kind: ServerKind, stack: ExitStack) -> LocalCluster:
    return stack.enter_context(LocalCluster(kind.binary, primaries=1))


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def _commands(server: LocalServer) -> set[str]:
    """Return the commands that reached a server, container commands by their first word."""
    with server.client() as client:
        return {
            name.removeprefix("cmdstat_").partition("|")[0]
            for name, figures in client.info("commandstats").items()
            if figures["calls"] > figures.get("rejected_calls", 0)
        }


def _announce(cluster: LocalCluster, node: LocalServer, as_server: LocalServer) -> None:
    """Let a node announce another server's address, and wait until the others believe it."""
    with node.client() as client:
        client.config_set("cluster-announce-port", as_server.port)

    def believed(other: LocalServer) -> bool:
        with connect(other) as connection:
            slots = connection.execute("CLUSTER", "SLOTS")
        return as_server.port in {primary[1] for _, _, primary, *_ in slots}

    wait_until(lambda: all(map(believed, cluster.primaries)), "the nodes to believe what one announces")


def _ending(paused: Paused) -> SlotferryError:
    paused.proxy.resume()
    with pytest.raises(SlotferryError) as ended:
        paused.migration.result(120)
    return ended.value


@pytest.mark.parametrize(("size", "way"), [("small", "moved"), ("small", "asked"), ("large", "moved")])
def test_nothing_is_written_to_the_source_whatever_a_node_announces(
    source: LocalServer, own_cluster: LocalCluster, way: str, size: str
) -> None:
    with connect(source) as connection:
        if size == "small":
            fill_strings(connection, _KEYS)
        else:
            names = (name for name in map("large:{}".format, count()) if key_slot(name) < _MOVED)
            for name in islice(names, 200):
                connection.execute("SET", name, b"v" * 200_000)
    first, _, third = own_cluster.primaries
    options: dict[str, Any] = {"big_key_bytes": 64_000, "memory_limit": 4 << 20} if size == "large" else {}
    # Long enough for the slots to move meanwhile, however slow the machine is.
    with paused_migration(source, own_cluster, retry_for=100, on_conflict="replace", **options) as paused:
        with source.client() as client:
            keys = client.dbsize()
            client.config_resetstat()
        _announce(own_cluster, third, source)
        for slot in range(_MOVED):
            move = Reshard(own_cluster, slot, first, third)
            if way == "asked":
                move.open()
            else:
                move.do()

        error = _ending(paused)

    assert isinstance(error, TargetNotReadyError), error
    assert error.kind == "target_is_source"
    assert source.address in error.message
    assert "--address-map" in error.hint
    assert _commands(source) <= _READS
    with source.client() as client:
        assert client.dbsize() == keys


def test_nothing_is_written_to_the_primary_of_a_source_that_is_a_replica(
    kind: ServerKind, filled: LocalServer, own_cluster: LocalCluster, stack: ExitStack
) -> None:
    replica = stack.enter_context(LocalServer(kind.binary))
    with replica.client() as client:
        client.replicaof(filled.host, filled.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")
    first, _, third = own_cluster.primaries
    with paused_migration(replica, own_cluster, retry_for=5, on_conflict="replace") as paused:
        with filled.client() as client:
            client.config_resetstat()
        _announce(own_cluster, third, filled)
        for slot in range(_MOVED):
            Reshard(own_cluster, slot, first, third).do()

        error = _ending(paused)

    assert error.kind == "target_is_source", error
    assert filled.address in error.message
    assert _commands(filled) <= _READS


def test_a_target_that_shares_its_data_with_the_source_is_refused(
    kind: ServerKind, own_cluster: LocalCluster, stack: ExitStack
) -> None:
    replica = stack.enter_context(LocalServer(kind.binary))
    first = own_cluster.primaries[0]
    with own_cluster.client() as client:
        client.set("key", 1)
    with replica.client() as client:
        client.replicaof(first.host, first.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")

    for run in (
        Migration(replica.url, own_cluster.url),
        Migration(replica.url, own_cluster.url, Options(dry_run=True)),
        Verification(replica.url, own_cluster.url, VerifyOptions(repair=True)),
    ):
        with pytest.raises(SourceNotReadyError, match="replica") as refused:
            run.run()
        assert replica.address in refused.value.message
        assert first.address in refused.value.message


def test_seeds_of_two_clusters_are_refused(
    filled: LocalServer, cluster: LocalCluster, other_cluster: LocalCluster
) -> None:
    for seeds in (
        (cluster.primaries[0], other_cluster.primaries[0]),
        (other_cluster.primaries[0], *cluster.primaries),
    ):
        url = "redis+cluster://" + ",".join(seed.address for seed in seeds)
        with pytest.raises(TargetNotReadyError, match="two clusters") as refused:
            Migration(filled.url, url).run()
        assert other_cluster.primaries[0].address in refused.value.message
        assert cluster.primaries[0].address in refused.value.message
        with pytest.raises(TargetNotReadyError, match="two clusters"):
            Verification(filled.url, url).run()
        with pytest.raises(TargetNotReadyError, match="two clusters"):
            plan_reshard(url)
        assert "two clusters" in run_command("reshard", "status", url).stderr
    assert count_keys(cluster) == count_keys(other_cluster) == 0


def test_a_seed_that_turns_to_another_cluster_in_mid_run_is_refused(
    filled: LocalServer, own_cluster: LocalCluster, other_cluster: LocalCluster, stack: ExitStack
) -> None:
    first, second, _ = own_cluster.primaries
    seed = stack.enter_context(Proxy(second.host, second.port))
    url = f"redis+cluster://{first.address},{seed.address}"
    with paused_migration(filled, own_cluster, target=url) as paused:
        seed.forward_to(other_cluster.primaries[0].host, other_cluster.primaries[0].port)
        for slot in range(200):
            Reshard(own_cluster, slot, first, second).do()

        error = _ending(paused)

    assert isinstance(error, TargetNotReadyError), error
    assert "two clusters" in error.message
    assert seed.address in error.message
    assert count_keys(other_cluster) == 0


def test_another_cluster_at_the_address_of_a_node_gets_nothing(
    filled: LocalServer, own_cluster: LocalCluster, other_cluster: LocalCluster, stack: ExitStack
) -> None:
    proxies = put_behind_proxies(own_cluster, stack)
    other, url = other_cluster.primaries[0], f"redis+cluster://{own_cluster.primaries[0].address}"
    with paused_migration(filled, own_cluster, target=url, retry_for=2) as paused:
        proxies[2].forward_to(other.host, other.port)

        error = _ending(paused)
        assert isinstance(error, TargetLostError), error
        assert "another cluster" in error.message
        assert proxies[2].address in error.message
        assert count_keys(other_cluster) == 0
        proxies[2].forward_to(own_cluster.primaries[2].host, own_cluster.primaries[2].port)
        report = paused.again().run()
    assert report.ok
    assert report.resumed
    assert count_keys(own_cluster) == _KEYS
