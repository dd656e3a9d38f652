"""Large keys where something is in the way: a save that hides a change, a pace, elements of any size."""

from __future__ import annotations

import pytest

from slotferry.local import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import migrate
from tests.integration.test_big_keys import _built, _fill_hash, _temporaries
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.raw import connect, encode

_LIMIT = 64_000


def test_pages_of_large_keys_alone_behind_a_rate(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        connection.pipeline_checked([encode("SET", f"other {i}", 1) for i in range(40_000)])
        connection.pipeline_checked([encode("SET", f"small {i}", 1) for i in range(40)])
        connection.pipeline_checked([encode("SET", f"large {i}", bytes(_LIMIT)) for i in range(80)])

    report = migrate(
        source, cluster, big_key_bytes=_LIMIT, exclude=["other *"], parallel_scans=1, max_keys_per_second=20
    )

    assert report.ok
    assert report.keys.migrated == 120


@pytest.mark.parametrize(
    "source", [name for name in ("redis-8.0", "valkey-9.1") if name in available()], indirect=True
)
def test_a_change_during_a_save_is_noticed_by_the_next_run(
    source: LocalServer, cluster: LocalCluster
) -> None:
    fields = 20_000
    with connect(source) as connection:
        _fill_hash(connection, b"hash", fields)
        wait_until(lambda: connection.execute("OBJECT", "IDLETIME", "hash") >= 4, "the key to lie still")
    command = ("migrate", source.url, cluster.url, "--json", "--big-key-bytes", "64kB")
    with Running(*command, "--max-bytes-per-second", "500kB") as running:
        wait_until(lambda: running.ended or _built(cluster) >= fields // 2, "half of the hash to be copied")
        running.kill()
    with source.client() as client:
        # With a child at work the server leaves the ages of keys alone.
        client.config_set("rdb-key-save-delay", 3_000_000)
        client.bgsave()
        client.hset("hash", mapping={f"field {i}": "changed" for i in range(fields)})
        client.config_set("rdb-key-save-delay", 0)
        wait_until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the save to end")

    done = run(*command)

    assert done.code == 0, done.stderr
    assert_equal(source, cluster)
    assert not _temporaries(cluster)


def test_a_key_that_is_given_up_leaves_nothing_of_it(source: LocalServer, cluster: LocalCluster) -> None:
    fields = 20_000
    with connect(source) as connection:
        _fill_hash(connection, b"hash", fields)
    command = ("migrate", source.url, cluster.url, "--json", "--big-key-bytes", "64kB")
    with Running(*command, "--max-bytes-per-second", "500kB") as running:
        wait_until(lambda: running.ended or _built(cluster) >= fields // 2, "half of the hash to be copied")
        running.kill()
    assert _temporaries(cluster)
    with cluster.client() as client:
        client.set("hash", "another value")

    done = run(*command)

    assert done.code == 3, done.stderr
    assert not _temporaries(cluster)


def test_a_string_beyond_what_the_target_takes_fails_alone(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as connection:
        connection.execute("SET", "string", bytes(4_000_000))
        connection.execute("SET", "small", 1)
    nodes = [node.client() for node in cluster.primaries]
    for client in nodes:
        client.config_set("proto-max-bulk-len", 1 << 20)
    try:
        report = migrate(source, cluster, big_key_bytes=_LIMIT, retry_for=3)
    finally:
        for client in nodes:
            client.config_set("proto-max-bulk-len", 512 << 20)
            client.close()

    assert (report.keys.migrated, report.keys.failed) == (1, 1)
    assert "invalid bulk length" in report.failures[0].message


def test_large_elements_are_read_few_at_a_time(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        for i in range(100):
            connection.execute("HSET", "hash", f"field {i}", bytes(500_000))
        connection.execute("CONFIG", "RESETSTAT")

    report = migrate(source, cluster, big_key_bytes=_LIMIT, memory_limit=4 << 20)

    assert report.ok, report.failures
    with source.client() as client:
        assert client.info("commandstats")["cmdstat_hscan"]["calls"] > 60
    assert_equal(source, cluster)
