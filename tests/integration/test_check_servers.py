"""What the check finds on real servers that are not as they should be."""

from __future__ import annotations

import re
from contextlib import ExitStack

import pytest

import slotferry
from slotferry import CheckOptions, CheckReport, key_slot
from slotferry.errors import TargetNotReadyError
from slotferry.preflight.rows import Row
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.migrating import count_keys, migrate
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect, encode

_SECRET = "hunter2-very-secret"


def _row(report: CheckReport, name: str) -> Row:
    row = report.row(name)
    assert row is not None, report.rows
    return row


def test_slots_on_the_move(source: LocalServer, cluster: LocalCluster) -> None:
    mover, taker = cluster.primaries[:2]
    with connect(mover) as old, connect(taker) as new:
        old_id, new_id = old.execute("CLUSTER", "MYID"), new.execute("CLUSTER", "MYID")
        new.execute("CLUSTER", "SETSLOT", 0, "IMPORTING", old_id)
        old.execute("CLUSTER", "SETSLOT", 0, "MIGRATING", new_id)
        try:
            report = slotferry.check(source.url, cluster.url)
        finally:
            for connection in (old, new):
                connection.execute("CLUSTER", "SETSLOT", 0, "STABLE")

    row = _row(report, "open-slots")
    assert row.status == "warning"
    assert f"0->-{new_id.decode()} at {mover.address}" in row.message
    assert f"0-<-{old_id.decode()} at {taker.address}" in row.message


def test_the_primary_that_a_hash_tag_would_overflow(
    kind: ServerKind, source: LocalServer, stack: ExitStack
) -> None:
    # By its share of the slots each of three has room enough.
    cluster = stack.enter_context(LocalCluster(kind.binary, config={"maxmemory": "6mb"}))
    with connect(source) as client:
        client.pipeline_checked([encode("SET", f"{{shop}}:order:{i}", "x" * 20_000) for i in range(300)])
        client.pipeline_checked([encode("SET", f"user:{i}", i) for i in range(300)])
    (owner,) = (node for node in cluster.primaries if _owns(node, key_slot("{shop}")))

    report = slotferry.check(source.url, cluster.url)

    memory = _row(report, "memory")
    assert memory.status == "error"
    assert "by sample" in memory.message
    assert owner.address in memory.message
    assert sum(node.address in memory.message for node in cluster.primaries) == 1
    assert "{shop}" in _row(report, "hash-tags").message
    assert owner.address in _row(report, "balance").message
    # A migration looks at a few keys as well, where there is not room for all of them at each primary.
    with pytest.raises(
        TargetNotReadyError, match=rf"would overflow \(by sample\): {re.escape(owner.address)}"
    ):
        migrate(source, cluster)
    assert count_keys(cluster) == 0


def _owns(node: LocalServer, slot: int) -> bool:
    with connect(node) as client:
        entries = client.execute("CLUSTER", "SLOTS")
    return any(first <= slot <= last and primary[1] == node.port for first, last, primary, *_ in entries)


def test_a_replica_that_is_gone(kind: ServerKind, source: LocalServer, stack: ExitStack) -> None:
    patient = {"cluster-node-timeout": "600000"}  # so that it stays announced
    cluster = stack.enter_context(
        LocalCluster(kind.binary, primaries=1, replicas_per_primary=1, config=patient)
    )
    with cluster.client() as client, connect(cluster.primaries[0]) as primary:
        client.set("a", "key")  # a replica that has replicated nothing is not announced
        wait_until(
            lambda: any(len(entry) > 3 for entry in primary.execute("CLUSTER", "SLOTS")), "the announcement"
        )
    assert _row(slotferry.check(source.url, cluster.url), "replicas").status == "ok"
    cluster.replicas[0].kill()

    row = _row(slotferry.check(source.url, cluster.url), "announced-addresses")

    assert row.status == "warning"
    assert cluster.replicas[0].address in row.message


def test_a_primary_that_wants_replicas_before_it_writes(
    kind: ServerKind, source: LocalServer, stack: ExitStack
) -> None:
    strict = {"min-replicas-to-write": "1"}
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1, config=strict))

    row = _row(slotferry.check(source.url, cluster.url), "replicas")

    assert row.status == "error"
    assert "NOREPLICAS" in row.message


@pytest.mark.parametrize("source", ["redis-7.0", "valkey-9.1"], indirect=True)
def test_functions_scripts_and_other_databases(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as client:
        library = "#!lua name=shop\nredis.register_function('total', function() return 1 end)"
        client.execute("FUNCTION", "LOAD", library)
        client.execute("SCRIPT", "LOAD", "return 1")
        client.execute("SELECT", 3)
        client.execute("SET", "key", "of another database")
        try:
            report = slotferry.check(source.url, cluster.url)
        finally:
            client.execute("FUNCTION", "FLUSH")

    assert _row(report, "functions").status == "ok"
    assert "'slotferry migrate' copies the source's 1 function library" in _row(report, "functions").message
    assert "cached scripts" in _row(report, "functions").message
    assert "3 (1 key)" in _row(report, "databases").message


def test_a_big_key_that_the_sample_misses_is_found_or_missed_aloud(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as client:
        client.pipeline_checked([encode("SET", f"small:{i}", "x" * 100) for i in range(20_000)])
        client.execute("SET", "big", "x" * 60_000_000)
    told: list[str] = []

    found = slotferry.check(source.url, cluster.url, CheckOptions(sample=5_000, scan_rate=1e6), told.append)
    missed = slotferry.check(source.url, cluster.url, CheckOptions(sample=100, scan_rate=1e6))
    seen = slotferry.check(source.url, cluster.url, CheckOptions(full=True, scan_rate=1e6))

    for report in (seen, found):
        assert report.keyspace is not None
        assert report.keyspace.biggest[0].key == b"big"
        assert "big (string, 6" in _row(report, "biggest-keys").message
    assert found.keyspace is not None
    assert any("explains" in text for text in told) or found.keyspace.sought == 0
    assert missed.keyspace is not None
    if missed.keyspace.biggest[0].key != b"big":  # 100 of 20,001 keys, or 500 after the second look
        row = _row(missed, "biggest-keys")
        assert (row.status, "of the memory that the data takes" in row.message) == ("warning", True)


def test_a_big_key_is_looked_for_though_another_database_holds_keys(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as client:
        client.pipeline_checked([encode("SET", f"small:{i}", "x" * 100) for i in range(20_000)])
        client.execute("SET", "big", "x" * 60_000_000)
        client.execute("SELECT", 3)
        client.execute("SET", "elsewhere", "x")
    told: list[str] = []

    found = slotferry.check(source.url, cluster.url, CheckOptions(sample=5_000, scan_rate=1e6), told.append)

    assert found.keyspace is not None
    assert found.keyspace.biggest[0].key == b"big"
    assert any("in which other databases have a part" in text for text in told) or not found.keyspace.sought
    assert found.keyspace.explained is None


def test_keys_of_the_target_and_an_eviction_policy(
    kind: ServerKind, source: LocalServer, stack: ExitStack
) -> None:
    evicting = {"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1, config=evicting))
    with cluster.client() as client:
        client.set("in the way", 1)

    report = slotferry.check(source.url, cluster.url)

    assert "allkeys-lru" in _row(report, "eviction").message
    assert f"1 at {cluster.primaries[0].address}" in _row(report, "existing-keys").message


@pytest.mark.parametrize("asking", ["+acl", "-acl"], ids=["by ACL DRYRUN", "by probes"])
@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_rights_of_both_sides(source: LocalServer, cluster: LocalCluster, asking: str) -> None:
    with source.client() as client:
        client.set("key", "value")
        client.execute_command(
            "ACL", "SETUSER", "reader", "on", f">{_SECRET}", "~*", "+@all", "-dump", "-scan", asking
        )
    try:
        options = CheckOptions(source_password=_SECRET)
        report = slotferry.check(source.url.replace("://", "://reader@"), cluster.url, options)
    finally:
        with source.client() as client:
            client.acl_deluser("reader")

    row = _row(report, "source-rights")
    assert (row.status, row.side) == ("error", "source")
    assert "SCAN, DUMP" in row.message
    assert "+scan +dump" in row.advice
    assert "SCAN is refused" in _row(report, "sample").message
    assert _row(report, "target-rights").status == "ok"
    assert count_keys(cluster) == 0
