"""Large keys where something is in the way: a save that hides a change, a pace, elements of any size."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import migrate
from tests.integration.test_big_keys import _built, _fill_hash, _temporaries, kill_halfway
from tests.servers.compare import assert_equal
from tests.servers.kinds import ServerKind, available
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
    kill_halfway(command, "500kB", cluster, fields)
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
    kill_halfway(command, "500kB", cluster, fields)
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
    assert report.failures[0].kind == "too_large"
    assert "a string has 4000000 bytes, above the target's proto-max-bulk-len" in report.failures[0].message


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


def test_two_jobs_share_nothing_of_a_large_key(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack, kind: ServerKind
) -> None:
    """Two sources have a hash of one name: the one copied last is there, without fields of the other."""
    other = stack.enter_context(LocalServer(kind.binary))
    fields = 12_000
    with connect(source) as connection, connect(other) as another:
        _fill_hash(connection, b"hash", fields)
        another.pipeline_checked([encode("HSET", "hash", f"other {i}", i) for i in range(fields)])
    options = ("--json", "--big-key-bytes", "64kB", "--on-conflict", "replace")
    slowly = ("--max-bytes-per-second", "200kB")
    with Running("migrate", other.url, cluster.url, *options, *slowly) as killed:
        wait_until(lambda: killed.ended or _built(cluster) >= 1_000, "a part of the other hash to be there")

        done = run("migrate", source.url, cluster.url, *options)

        assert not killed.ended
        killed.kill()
    assert done.code == 0, done.stderr
    assert len(_temporaries(cluster)) == 1  # the killed job's, to be gone on with
    with source.client() as here, cluster.client() as there:
        assert there.hgetall("hash") == here.hgetall("hash")

    done = run("migrate", other.url, cluster.url, *options)

    assert done.code == 0, done.stderr
    assert not _temporaries(cluster)
    with other.client() as here, cluster.client() as there:
        assert there.hgetall("hash") == here.hgetall("hash")


@pytest.mark.parametrize(("age_ms", "left"), [(0, 1), (3_600_000, 0)])
def test_what_an_older_version_left_is_swept(
    source: LocalServer, cluster: LocalCluster, age_ms: int, left: int
) -> None:
    """All its jobs shared a name; what one of them may be writing right now is not touched."""
    with connect(source) as connection:
        _fill_hash(connection, b"hash", 20_000)
    with Running(
        "migrate", source.url, cluster.url, "--big-key-bytes", "64kB", "--max-bytes-per-second", "200kB"
    ) as one:
        wait_until(lambda: one.ended or bool(_temporaries(cluster)), "its name to be known")
        one.kill()
    (name,) = _temporaries(cluster)
    shared = name.rpartition(b":")[0]
    with cluster.client() as client:
        client.hset(shared, "left", "behind")
        client.pexpire(shared, 86_400_000 - age_ms)

    report = migrate(source, cluster, big_key_bytes=_LIMIT)

    assert report.ok, report.failures
    assert _temporaries(cluster).count(shared) == left
