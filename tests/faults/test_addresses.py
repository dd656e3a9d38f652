"""Announced addresses: hostnames, no host at all, and addresses that are reached at others (NAT)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry import Migration, Options, Report
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.faults.paused import Paused, paused_migration
from tests.faults.test_slots_moving import Reshard
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy

KEYS = 50_000
_MOVED_SLOTS = 40


def _redirected(paused: Paused, filled: LocalServer, cluster: LocalCluster) -> Report:
    """Move slots, leave one half open, and let the migration meet both; return its report."""
    first, second, _ = cluster.primaries
    for slot in range(_MOVED_SLOTS):
        Reshard(cluster, slot, first, second).do()
    half = [Reshard(cluster, slot, first, second) for slot in range(_MOVED_SLOTS, _MOVED_SLOTS + 20)]
    for reshard in half:
        reshard.open()
    report = paused.resume()
    for reshard in half:
        reshard.move_keys()
        reshard.close()
    cluster.wait_until_healthy()
    assert report.ok
    assert report.totals.moved > 0
    assert report.totals.ask > 0
    assert_equal(filled, cluster, byte_equal=True)
    return report


def test_every_node_is_reached_through_the_address_map(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    nats = [stack.enter_context(Proxy(node.host, node.port)) for node in cluster.primaries]
    pairs = zip(cluster.primaries, nats, strict=True)
    rules = [f"{node.address}={nat.address}" for node, nat in pairs]
    url = f"redis+cluster://{nats[0].address}"
    with paused_migration(filled, cluster, target=url, address_map=rules) as paused:
        report = _redirected(paused, filled, cluster)

    assert {node for node, _ in report.keys_by_primary} == {nat.address for nat in nats}


@pytest.mark.parametrize("endpoint", ["hostname", pytest.param("unknown-endpoint", marks=pytest.mark.long)])
def test_what_nodes_announce_instead_of_their_ip(
    kind: ServerKind, filled: LocalServer, stack: ExitStack, endpoint: str
) -> None:
    if kind.version < (7, 0):
        pytest.skip("before 7.0 nodes announce their IP alone")
    config = {"cluster-preferred-endpoint-type": endpoint, "cluster-announce-hostname": "localhost"}
    cluster = stack.enter_context(LocalCluster(kind.binary, config=config))
    with paused_migration(filled, cluster) as paused:
        report = _redirected(paused, filled, cluster)

    host = "localhost" if endpoint == "hostname" else "127.0.0.1"
    assert {node.rpartition(":")[0] for node, _ in report.keys_by_primary} == {host}


def test_a_hostname_that_is_known_only_through_the_map(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    if kind.version < (7, 0):
        pytest.skip("before 7.0 nodes announce their IP alone")
    config = {"cluster-preferred-endpoint-type": "hostname", "cluster-announce-hostname": "node.invalid"}
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=2, config=config))

    options = Options(address_map=["NODE.invalid=localhost"])
    report = Migration(filled.url, cluster.primaries[0].url, options).run()

    assert report.keys.migrated == count_keys(cluster) == KEYS
