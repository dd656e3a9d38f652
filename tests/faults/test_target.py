"""What happens to the cluster's nodes during a run."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry import Migration, Options
from slotferry.errors import TargetLostError
from slotferry.model.events import Progress, RunEnded
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.paused import paused_migration
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill, fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.proxy import put_behind_proxies
from tests.servers.raw import connect

KEYS = 200_000
_DURABLE = {"appendonly": "yes", "cluster-node-timeout": "1500"}


def test_connections_that_break_in_the_middle_of_commands_and_replies(
    source: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    proxies = put_behind_proxies(cluster, stack)
    with connect(source) as connection:
        keys = fill(connection, 30_000)
    proxies[0].cut_after(commands=300_011, times=5)
    proxies[1].cut_after(replies=20_003, times=2)  # the first look at the cluster takes less

    report = migrate(source, cluster)

    assert (proxies[0].to_server.cuts, proxies[1].to_client.cuts) == (5, 2)
    assert report.ok
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned >= keys
    assert report.totals.retries > 0
    assert_equal(source, cluster, byte_equal=True)


@pytest.mark.parametrize("on_conflict", ["replace", "skip"])
def test_a_write_that_is_sent_twice_is_no_conflict(
    source: LocalServer, kind: ServerKind, stack: ExitStack, on_conflict: str
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1))
    (proxy,) = put_behind_proxies(cluster, stack)
    with connect(source) as connection:
        fill_strings(connection, 50_000)
    proxy.cut_after(replies=20_001, times=4)

    report = migrate(source, cluster, on_conflict=on_conflict)

    assert proxy.to_client.cuts == 4
    assert report.ok
    assert_equal(source, cluster, byte_equal=True)


def test_a_node_that_is_silent_for_a_while(filled: LocalServer, kind: ServerKind, stack: ExitStack) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    proxies = put_behind_proxies(cluster, stack)
    with paused_migration(filled, cluster, memory_limit=4 << 20) as paused:
        proxies[2].stall()
        paused.proxy.resume()
        others = [node.client() for node in cluster.primaries[:2]]
        before = sum(client.dbsize() for client in others)
        wait_until(lambda: sum(client.dbsize() for client in others) > before, "the other nodes to be served")
        for client in others:
            client.close()
        proxies[2].resume()
        report = paused.resume()

    assert report.ok
    assert_equal(filled, cluster, byte_equal=True)


def test_a_primary_that_is_killed_and_restarted(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_DURABLE))
    with paused_migration(filled, cluster) as paused:
        cluster.primaries[1].kill()
        paused.proxy.resume()
        wait_until(lambda: _state(cluster.primaries[0]) == "fail", "the others to notice")
        cluster.primaries[1].start()
        report = paused.resume()

    assert report.ok
    assert report.totals.retries > 0
    cluster.wait_until_healthy()
    assert_equal(filled, cluster, byte_equal=True)


def test_a_failover_that_was_asked_for_loses_nothing(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1))
    replica = cluster.replicas[0]
    with paused_migration(filled, cluster) as paused:
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: client.info("replication")["role"] == "master", "the replica to take over")
        report = paused.resume()

    assert report.ok
    assert report.totals.moved > 0
    cluster.wait_until_healthy()
    assert_equal(filled, cluster, byte_equal=True)


def test_a_crash_of_a_primary_with_a_replica(filled: LocalServer, kind: ServerKind, stack: ExitStack) -> None:
    cluster = stack.enter_context(
        LocalCluster(kind.binary, replicas_per_primary=1, config={"cluster-node-timeout": "1500"})
    )
    with paused_migration(filled, cluster) as paused:
        cluster.primaries[0].kill()
        report = paused.resume()
    assert report.ok

    # What the dead primary had acknowledged and not yet replicated is gone: nobody can promise more with
    # asynchronous replication. The same command brings it.
    cluster.wait_until_healthy()
    assert migrate(filled, cluster, restart=True).ok
    assert_equal(filled, cluster, byte_equal=True)


def test_a_primary_that_hangs_and_is_replaced_does_not_hold_the_reading_back(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1))
    proxies = put_behind_proxies(cluster, stack)
    replica = cluster.replicas[0]
    with paused_migration(filled, cluster, pause_above_latency=250) as paused:
        proxies[0].stall()  # and stays so; the nodes still hear each other
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: client.info("replication")["role"] == "master", "the replica to take over")
        report = paused.resume(45)  # the ping that hangs would be waited for longer

    assert report.ok
    cluster.wait_until_healthy()
    assert_equal(filled, cluster, byte_equal=True)


@pytest.mark.long
def test_slots_without_a_primary_keep_their_keys_pending_and_let_the_others_pass(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    config = {**_DURABLE, "cluster-require-full-coverage": "no"}
    cluster = stack.enter_context(LocalCluster(kind.binary, config=config))
    with paused_migration(filled, cluster, retry_for=12.0, job="nightly") as paused:
        cluster.primaries[1].kill()
        report = paused.resume()
        assert report.status == "completed_with_failures"
        assert report.keys.pending > 0
        assert report.keys.add_up
        cluster.primaries[1].start()
        cluster.wait_until_healthy()
        again = paused.again(job="nightly").run()

    assert again.ok
    assert again.resumed
    assert again.keys.pending == 0
    assert_equal(filled, cluster, byte_equal=True)


def test_a_node_that_is_full_ends_the_run_resumably(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    full = cluster.primaries[0]
    with paused_migration(filled, cluster, retry_for=1.0, job="nightly") as paused:
        with full.client() as client:
            client.config_set("maxmemory", 1)
        with pytest.raises(TargetLostError, match=full.address) as raised:
            paused.resume()
        assert raised.value.kind == "target_full"
        assert "the target takes no more keys: OOM" in str(raised.value)
        with full.client() as client:
            client.config_set("maxmemory", 0)
        report = paused.again(job="nightly").run()

    assert report.ok
    assert report.resumed
    assert_equal(filled, cluster, byte_equal=True)


def test_a_full_node_is_probed_and_not_hammered(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    full = cluster.primaries[0]
    with full.client() as client:
        client.config_set("maxmemory", 1)
    seconds = 4.0
    options = Options(retry_for=seconds, job="nightly", skip_check=["memory"])
    done, progress = None, list[Progress]()
    with Migration(filled.url, cluster.url, options) as migration:
        for event in migration.events():
            if isinstance(event, Progress):
                progress.append(event)
            elif isinstance(event, RunEnded):
                done = event.report
    assert done is not None
    assert done.error is not None
    assert done.error.kind == "target_full"
    waiting = [event for event in progress if event.state == "waiting" and "OOM" in event.reason]
    assert waiting
    others = sum(node.client().dbsize() for node in cluster.primaries[1:])
    assert all(event.done_keys <= others for event in waiting)  # what is refused is not shown as done

    with full.client() as client:
        refused = int(client.info("errorstats")["errorstat_OOM"]["count"])
        client.config_set("maxmemory", 0)
    # A batch or a few that were on their way, then a probe at a time: 50 ms and more apart.
    assert refused < 5_000, f"{refused} calls were refused in {seconds} s"
    assert migrate(filled, cluster, job="nightly").ok
    assert_equal(filled, cluster, byte_equal=True)


def test_a_node_that_has_room_again_bit_by_bit_gets_all(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    full = cluster.primaries[0]
    options = Options(skip_check=["memory"])
    with Migration(filled.url, cluster.url, options) as migration, full.client() as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 500_000)
        migration.start()
        for _ in range(4):
            wait_until(lambda: "errorstat_OOM" in client.info("errorstats"), "the node to refuse a write")
            keys = client.dbsize()
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 500_000)
            wait_until(lambda keys=keys: client.dbsize() > keys, "more keys to be taken")  # type: ignore[misc]
        client.config_set("maxmemory", 0)
        report = migration.result(120)
    assert report.ok
    assert report.keys.scanned == report.keys.migrated == KEYS
    assert_equal(filled, cluster, byte_equal=True)


def test_a_node_that_was_full_for_a_moment(filled: LocalServer, kind: ServerKind, stack: ExitStack) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    full = cluster.primaries[0]
    with paused_migration(filled, cluster) as paused, full.client() as client:
        client.config_set("maxmemory", 1)
        paused.proxy.resume()
        wait_until(lambda: "errorstat_OOM" in client.info("errorstats"), "the node to refuse a write")
        client.config_set("maxmemory", 0)
        report = paused.resume()

    assert report.ok
    assert_equal(filled, cluster, byte_equal=True)


def test_a_cluster_that_is_gone_ends_the_run_resumably(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_DURABLE))
    with paused_migration(filled, cluster, retry_for=1.0, job="nightly") as paused:
        for node in cluster.primaries:
            node.kill()
        with pytest.raises(TargetLostError):
            paused.resume()
        for node in cluster.primaries:
            node.start()
        cluster.wait_until_healthy()
        report = paused.again(job="nightly").run()

    assert report.ok
    assert count_keys(cluster) == KEYS
    assert_equal(filled, cluster, byte_equal=True)


def _state(node: LocalServer) -> str:
    with node.client() as client:
        text: bytes = client.execute_command("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in text.decode().split() if ":" in line)["cluster_state"]
