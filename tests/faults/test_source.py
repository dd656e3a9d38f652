"""What happens to the source during a run."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest

from slotferry import Migration
from slotferry.errors import SourceLostError
from slotferry.model.events import Notice
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.paused import paused_migration
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill, fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy
from tests.servers.raw import connect, encode

KEYS = 200_000


@pytest.fixture
def durable(kind: ServerKind, stack: ExitStack) -> LocalServer:
    """Return a filled source of its own that keeps its keys over `kill -9`."""
    source = stack.enter_context(LocalServer(kind.binary, config={"appendonly": "yes"}))
    with connect(source) as connection:
        fill_strings(connection, KEYS)
    return source


def test_connections_that_break_in_the_middle_of_replies(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        keys = fill(connection, 30_000)
    with Proxy(source.host, source.port) as proxy:
        proxy.cut_after(replies=500_003, times=8)

        report = Migration(f"redis://{proxy.address}", cluster.url).run()

        assert proxy.to_client.cuts == 8
    assert report.ok
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned >= keys
    assert_equal(source, cluster, byte_equal=True)


def test_a_source_that_is_silent_for_a_while(filled: LocalServer, cluster: LocalCluster) -> None:
    with paused_migration(filled, cluster) as paused:
        report = paused.resume()

    assert report.ok
    assert report.keys.migrated == count_keys(cluster) == KEYS


def test_a_source_that_comes_back(filled: LocalServer, cluster: LocalCluster) -> None:
    with paused_migration(filled, cluster) as paused:
        paused.proxy.refuse()
        paused.proxy.resume()
        wait_until(lambda: "source" in _reason(paused.migration), "the engine to miss its source")
        paused.proxy.listen()
        report = paused.resume()

    assert report.ok
    assert_equal(filled, cluster, byte_equal=True)


def _reason(migration: Migration) -> str:
    event = next(event for event in migration.events() if event.type == "progress")
    return str(event.to_dict()["reason"])


def test_a_source_that_stays_away_ends_the_run_resumably(filled: LocalServer, cluster: LocalCluster) -> None:
    with paused_migration(filled, cluster, retry_for=1.0, job="nightly") as paused:
        paused.proxy.refuse()
        with pytest.raises(SourceLostError, match=paused.proxy.address):
            paused.resume()
        assert paused.migration.report is not None
        assert paused.migration.report.status == "failed"
        paused.proxy.listen()
        report = paused.again(job="nightly").run()

    assert report.ok
    assert report.resumed
    assert_equal(filled, cluster, byte_equal=True)


def test_a_source_that_restarts_during_the_run(durable: LocalServer, cluster: LocalCluster) -> None:
    with paused_migration(durable, cluster) as paused:
        durable.kill()
        durable.start()
        report = paused.resume()

    assert report.ok
    assert_equal(durable, cluster, byte_equal=True)


def test_a_source_that_restarted_between_two_runs(durable: LocalServer, cluster: LocalCluster) -> None:
    with paused_migration(durable, cluster, job="nightly") as paused:
        paused.migration.cancel()
        assert paused.resume().status == "interrupted"
        durable.kill()
        durable.start()
        again = paused.again(job="nightly")
        notices = [event.message for event in again.events() if isinstance(event, Notice)]
        report = again.result()

    assert any("run_id" in notice for notice in notices)
    assert report.ok
    assert not report.resumed
    assert_equal(durable, cluster, byte_equal=True)


def test_a_failover_behind_the_source_s_name(
    durable: LocalServer, cluster: LocalCluster, kind: ServerKind, stack: ExitStack
) -> None:
    replica = stack.enter_context(LocalServer(kind.binary))
    with replica.client() as client:
        client.replicaof(durable.host, durable.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to follow")
    with paused_migration(durable, cluster) as paused:
        with replica.client() as client:
            client.replicaof("NO", "ONE")
        durable.kill()
        paused.proxy.forward_to(replica.host, replica.port)
        report = paused.resume()

    assert report.ok
    assert_equal(replica, cluster, byte_equal=True)


def test_keys_deleted_during_the_run_are_counted_as_vanished_or_migrated(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    with paused_migration(filled, cluster) as paused:
        with filled.client() as client:
            client.flushall()
        report = paused.resume()

    assert report.ok
    assert report.keys.migrated == count_keys(cluster)
    assert report.keys.scanned == report.keys.migrated + report.keys.vanished


def test_a_ttl_that_runs_out_on_the_way_stores_nothing(source: LocalServer, cluster: LocalCluster) -> None:
    soon = int(time.time() * 1000) + 4_000
    with connect(source) as connection:
        fill_strings(connection, KEYS)
        expiring = [encode("SET", f"soon:{i}", i, "PX", 3_600_000) for i in range(20_000)]
        connection.pipeline_checked(expiring)
        connection.pipeline_checked([encode("PEXPIREAT", f"soon:{i}", soon) for i in range(20_000)])

    with paused_migration(source, cluster) as paused:
        with source.client() as client:
            wait_until(lambda: not client.exists("soon:1") and client.dbsize() <= KEYS, "the keys to expire")
        report = paused.resume()

    assert report.ok
    keys = report.keys
    # The table shrinks while keys expire, and SCAN may then return a key twice: the second time unchanged.
    assert keys.scanned == keys.migrated + keys.unchanged + keys.expired + keys.vanished
    assert keys.expired + keys.vanished > 0
    wait_until(lambda: count_keys(cluster) == KEYS, "what was copied in time to expire as well")
    assert migrate(source, cluster).keys.unchanged == KEYS
