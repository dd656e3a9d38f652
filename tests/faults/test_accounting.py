"""What the target loses after it has acknowledged it: noticed, looked at again, sent again, or told of."""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import Migration, Options
from slotferry.migrate.account import target_watch
from slotferry.model.events import Event, Notice
from slotferry.net.node import Node
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from slotferry.topology.discovery import Topology
from slotferry.topology.identity import NodeState, look_at
from tests.faults.paused import Paused, paused_migration
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect

KEYS = 60_000
_QUICK = {"cluster-node-timeout": "1500", "repl-ping-replica-period": "1"}


def _flush(node: LocalServer) -> None:
    with node.client() as client:
        client.flushall()


def _flush_by_script(node: LocalServer) -> None:
    with node.client() as client:
        client.execute_command("MULTI")
        client.execute_command("FLUSHDB")
        client.execute_command("EXEC")
        client.eval("return redis.call('FLUSHALL')", 0)


def _flush_and_forget(node: LocalServer) -> None:
    with node.client() as client:
        client.flushall()
        client.config_resetstat()


def _delete_all(node: LocalServer) -> None:
    with node.client() as client:
        for key in list(client.scan_iter(count=10_000)):
            client.delete(key)


def _restart(node: LocalServer) -> None:
    node.kill()
    node.start()


_LOSSES: list[Callable[[LocalServer], None]] = [
    _flush,
    _flush_by_script,
    _flush_and_forget,
    _delete_all,
    _restart,
]


def _interrupt(paused: Paused) -> None:
    """End the run in the middle."""
    paused.migration.cancel(immediately=True)
    assert paused.resume().status == "interrupted"


def _notices(events: Iterator[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize("on_conflict", ["error", "skip"])
def test_a_resume_after_flushall_on_every_primary(
    filled: LocalServer, cluster: LocalCluster, on_conflict: str
) -> None:
    with paused_migration(filled, cluster, on_conflict=on_conflict) as paused:
        _interrupt(paused)
        for node in cluster.primaries:
            _flush(node)
        with paused.again(on_conflict=on_conflict) as again:
            notices = _notices(again.events())
            report = again.result(120)
    assert report.ok
    assert report.keys.migrated == report.keys.scanned == KEYS
    assert any("the target has lost every key" in notice for notice in notices), notices
    assert_equal(filled, cluster, byte_equal=True)


@pytest.mark.parametrize("lose", _LOSSES)
def test_a_resume_after_one_primary_has_lost_its_keys(
    filled: LocalServer, kind: ServerKind, stack: ExitStack, lose: Callable[[LocalServer], None]
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_QUICK))
    with paused_migration(filled, cluster) as paused:
        _interrupt(paused)
        lose(cluster.primaries[1])
        cluster.wait_until_healthy()
        with paused.again() as again:
            notices = _notices(again.events())
            report = again.result(120)
    assert report.ok
    assert report.resumed
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned == KEYS
    assert any("is looked at again" in notice for notice in notices), notices
    assert any("are missing or older" in notice for notice in notices), notices
    assert_equal(filled, cluster, byte_equal=True)


def test_a_resume_into_a_new_cluster_at_the_same_addresses(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_QUICK))
    with paused_migration(filled, cluster) as paused:
        _interrupt(paused)
        for node in cluster.nodes:
            node.kill()
            (node.directory / "nodes.conf").unlink()
        cluster.start()
        with cluster.client() as client:  # it is nobody's word that all of it is ours
            client.set("key:0000000001", "another cluster's")
        with paused.again(on_conflict="error") as again:
            notices = _notices(again.events())
            report = again.result(120)
    assert any("is another cluster" in notice for notice in notices), notices
    assert count_keys(cluster) >= KEYS
    assert report.keys.scanned == KEYS


@pytest.mark.parametrize("lose", _LOSSES)
def test_a_primary_that_loses_its_keys_in_mid_run(
    filled: LocalServer, kind: ServerKind, stack: ExitStack, lose: Callable[[LocalServer], None]
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_QUICK))
    with paused_migration(filled, cluster) as paused:
        events = paused.migration.events()
        lose(cluster.primaries[0])
        report = paused.resume()
    assert report.ok
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned == KEYS
    notices = _notices(events)
    assert any("are missing or older" in notice for notice in notices), notices
    assert any(entry.kind == "notice" for entry in report.history)
    assert_equal(filled, cluster, byte_equal=True)


@pytest.mark.parametrize("way", ["FORCE", "TAKEOVER"])
@pytest.mark.parametrize("on_conflict", ["error", "replace"])
def test_a_stale_replica_that_takes_over_by_force(
    filled: LocalServer, replicated: LocalCluster, way: str, on_conflict: str
) -> None:
    if on_conflict == "replace":  # older values come back where these were replaced
        with replicated.client() as client:
            for i in range(KEYS):
                client.set(f"key:{i}", "older") if i % 20 == 0 else None
    primary, replica = replicated.primaries[0], replicated.replicas[0]
    with paused_migration(
        filled, replicated, on_conflict=on_conflict, skip_check=("existing-keys",)
    ) as paused:
        with primary.client() as client:
            wait_until(lambda: client.wait(1, 100) == 1, "the replica to have what came before")
            # From here on the replica gets nothing more: it may not ask for the stream again.
            client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync", "-replconf")
            client.client_kill_filter(_type="replica")
            had = client.info("stats")["total_commands_processed"]
            paused.proxy.resume()
            wait_until(
                lambda: client.info("stats")["total_commands_processed"] > had + 2000, "more to be written"
            )
            paused.proxy.stall()
            client.execute_command("ACL", "SETUSER", "default", "+psync", "+sync", "+replconf")
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER", way)
            wait_until(lambda: client.info("replication")["role"] == "master", "the replica to take over")
        report = paused.resume()
    assert report.ok
    replicated.wait_until_healthy()
    assert_equal(filled, replicated, byte_equal=True)


def test_a_target_that_evicts_is_never_called_complete(
    filled: LocalServer, kind: ServerKind, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    for node in cluster.primaries:
        with node.client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
            client.config_set("maxmemory", str(int(client.info("memory")["used_memory"]) + 2_000_000))
    options = Options(job="small", skip_check=("memory", "eviction"))
    with Migration(filled.url, cluster.url, options) as migration:
        notices = _notices(migration.events())
        report = migration.result(120)
    assert not report.ok
    assert report.exit_code == 3
    assert report.keys.add_up
    assert report.keys.pending > 0
    assert any("evicts keys" in notice for notice in notices), notices
    assert any("raise maxmemory" in notice for notice in notices), notices
    for node in cluster.primaries:
        with node.client() as client:
            client.config_set("maxmemory", "0")
    again = migrate(filled, cluster, job="small")
    assert again.ok
    assert again.keys.scanned == KEYS
    assert_equal(filled, cluster, byte_equal=True)


def test_a_journal_of_an_earlier_version_is_not_taken_at_its_word(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with paused_migration(filled, cluster, journal=journal) as paused:
        _interrupt(paused)
        with sqlite3.connect(journal) as database:
            for table in ("target_nodes", "target_counts", "doubts", "row_counts"):
                database.execute(f"DROP TABLE {table}")
            database.execute("PRAGMA user_version = 4")
        database.close()
        _flush(cluster.primaries[2])
        report = paused.again(journal=journal).run()
    assert report.ok
    assert report.resumed
    assert_equal(filled, cluster, byte_equal=True)


def test_listed_keys_are_accounted_for_as_well(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with filled.client() as client:
        names = sorted(client.scan_iter(count=10_000))[::2]
    (tmp_path / "keys").write_bytes(b"\n".join(names))
    with paused_migration(filled, cluster, keys_from=tmp_path / "keys") as paused:
        _flush(cluster.primaries[0])
        report = paused.resume()
    assert report.ok
    assert count_keys(cluster) == len(names) == report.keys.scanned


def test_a_kill_between_the_loss_and_the_look_forgets_nothing(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with paused_migration(filled, cluster, journal=journal) as paused:
        events = paused.migration.events()
        _flush(cluster.primaries[0])
        assert any("was emptied" in event.message for event in events if isinstance(event, Notice))
        _interrupt(paused)
        report = paused.again(journal=journal).run()
    assert report.ok
    assert_equal(filled, cluster, byte_equal=True)


def test_functions_that_a_node_lost_with_its_keys_are_loaded_again(
    filled: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    if kind.version < (7, 0):
        pytest.skip(f"{kind.name} has no functions")
    cluster = stack.enter_context(LocalCluster(kind.binary, config=_QUICK))
    code = "#!lua name=ours\nredis.register_function('one', function() return 1 end)"
    with filled.client() as client:
        client.function_load(code, replace=True)
    try:
        with paused_migration(filled, cluster) as paused:
            _restart(cluster.primaries[0])
            assert paused.resume().ok
        with cluster.primaries[0].client() as client:
            assert client.function_list("ours")
    finally:
        with filled.client() as client:
            client.function_flush()


def test_an_application_that_writes_deletes_and_expires_is_no_failure(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as connection:
        fill_strings(connection, KEYS)
    with cluster.client() as new:
        for i in range(2_000):
            new.set(f"app:{i}", i, px=100 if i % 2 else None)
        with paused_migration(source, cluster) as paused:
            for i in range(0, 2_000, 2):
                new.delete(f"app:{i}")
            new.set("app:new", 1)
            report = paused.resume()
        assert report.ok
        assert report.keys.migrated + report.keys.unchanged == report.keys.scanned == KEYS
        new.delete("app:new")
    assert_equal(source, cluster, byte_equal=True)


def test_where_nothing_happened_nothing_is_looked_at_again(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    with filled.client() as client:
        pipe = client.pipeline(transaction=False)
        for i in range(500):
            pipe.set(f"short:{i}", i, px=1_500)
        pipe.execute()
    with paused_migration(filled, cluster) as paused:
        events = paused.migration.events()
        wait_until(lambda: not _has_expiring(filled), "the keys with a TTL to expire")
        report = paused.resume()
    assert report.ok
    assert not [notice for notice in _notices(events) if "looked at" in notice]


def test_a_look_of_the_watch_that_is_heard_late_is_no_news(
    filled: LocalServer, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken before the run's own last look: its smaller counters are of no server that began anew."""
    for node in cluster.primaries:
        _flush(node)
    looks: Counter[str] = Counter()
    begun, heard, examined = (threading.Event() for _ in range(3))

    def look(node: Node, topology: Topology) -> NodeState:
        name = threading.current_thread().name
        looks[name] += 1
        if name == "slotferry-accounting":
            state = look_at(node, topology)
            if looks[name] == 1:
                begun.set()
                assert examined.wait(60)
            if looks[name] == 4:
                heard.set()
            return state
        if looks[name] == 4:  # the first one after the last write: some keys are gone by then
            assert begun.wait(60)
            _delete_all(cluster.primaries[1])
        state = look_at(node, topology)
        if looks[name] == 6:
            examined.set()
            assert heard.wait(60)
        return state

    monkeypatch.setattr(target_watch, "look_at", look)
    notices = _notices(Migration(filled.url, cluster.url, Options()).events())

    assert heard.is_set()
    assert any("fewer than" in notice for notice in notices)
    assert not [notice for notice in notices if "was emptied" in notice]
    assert_equal(filled, cluster)


def _has_expiring(server: LocalServer) -> bool:
    with server.client() as client:
        return bool(client.info("keyspace")["db0"]["expires"])
