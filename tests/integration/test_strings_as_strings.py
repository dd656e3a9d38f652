"""Plain strings are written by SET: what the target holds is what RESTORE would have brought."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from slotferry import Migration, Options
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.raw import connect, encode

_HOUR_MS = 3_600_000
_COMPRESSIBLE = 50


def _values() -> Iterator[bytes]:
    """Strings about every border of the encodings, those that look like integers among them."""
    rng = random.Random(14)
    for length in (0, 1, 11, 12, 20, 21, 43, 44, 45, 63, 64, 65, 16_383, 16_384, 16_385, 70_000):
        yield rng.randbytes(length)
    for border in (0, 7, 8, 15, 16, 31, 32, 63, 64):
        for number in (2**border - 1, 2**border, -(2**border), -(2**border) - 1):
            yield b"%d" % number
    yield from (b"-0", b"007", b"+5", b" 5", b"5 ", b"1e3", b"3.0", b"\x00\r\n", b"$-1\r\n")


def _fill(source: LocalServer) -> int:
    """Every value with and without an expiry, others that are compressed, and another type."""
    commands = []
    for number, value in enumerate(_values()):
        commands.append(encode("SET", b"string:%d" % number, value))
        commands.append(encode("SET", b"expires:%d" % number, value, "PX", _HOUR_MS + number))
    commands += [encode("SET", b"compressed:%d" % number, b"x" * 5_000) for number in range(_COMPRESSIBLE)]
    commands.append(encode("RPUSH", "list", "a", "b"))
    with connect(source) as connection:
        connection.pipeline_checked(commands)
    return len(commands)


def _calls(cluster: LocalCluster, command: str) -> int:
    count = 0
    for server in cluster.primaries:
        with server.client() as client:
            statistics = client.info("commandstats")
        count += int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))
    return count


@pytest.mark.parametrize(("source", "cluster"), [(kind, kind) for kind in available()], indirect=True)
def test_the_target_holds_what_restore_would_have_brought(source: LocalServer, cluster: LocalCluster) -> None:
    keys = _fill(source)
    before = _calls(cluster, "set")

    report = migrate(source, cluster)

    assert report.ok
    assert report.keys.migrated == keys
    assert_equal(source, cluster, byte_equal=True)
    # All but the list, and those of the compressed values that were read with DUMP.
    assert keys - 1 - _COMPRESSIBLE <= _calls(cluster, "set") - before <= keys - 1
    assert migrate(source, cluster).keys.unchanged == keys


@pytest.mark.parametrize(
    ("source", "cluster"), [("redis-8.0", "redis-6.2"), ("redis-6.2", "valkey-9.1")], indirect=True
)
def test_a_target_of_another_version_holds_the_same(source: LocalServer, cluster: LocalCluster) -> None:
    keys = _fill(source)

    report = migrate(source, cluster)

    assert report.ok
    assert report.keys.migrated == keys
    assert_equal(source, cluster)


@pytest.mark.parametrize("policy", ["error", "skip", "replace"])
def test_what_the_target_has_already_is_judged_as_with_restore(
    source: LocalServer, cluster: LocalCluster, policy: str
) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({"equal": "same", "number": 5, "different": "source", "absent": "new", "other type": "text"})
        new.set("equal", "same")
        new.set("number", 5)
        new.set("different", "target")
        new.rpush("other type", "a")

        report = migrate(source, cluster, on_conflict=policy)

        counts = report.keys
        if policy == "replace":
            assert (counts.migrated, counts.unchanged, counts.failed) == (5, 0, 0)
            assert_equal(source, cluster, byte_equal=True)
        elif policy == "skip":
            assert (counts.migrated, counts.skipped, counts.failed) == (1, 4, 0)
        else:
            assert (counts.migrated, counts.unchanged, counts.failed) == (1, 2, 2)
            assert {failure.key for failure in report.failures} == {b"different", b"other type"}
        assert new.get("different") == (b"source" if policy == "replace" else b"target")


@pytest.mark.parametrize("cluster", ["redis-7.0"], indirect=True)
def test_a_user_without_set_writes_with_restore(source: LocalServer, cluster: LocalCluster) -> None:
    keys = _fill(source)
    for server in cluster.primaries:
        with connect(server) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", "-set")
    before = _calls(cluster, "restore")
    written = _calls(cluster, "set")
    try:
        url = cluster.url.replace("://", "://mover:secret@")
        report = Migration(source.url, url, Options()).run()
    finally:
        for server in cluster.primaries:
            with connect(server) as connection:
                connection.execute("ACL", "DELUSER", "mover")

    assert report.ok
    assert report.keys.migrated == keys
    assert _calls(cluster, "restore") - before >= keys
    assert _calls(cluster, "set") == written
    assert_equal(source, cluster, byte_equal=True)


@pytest.mark.parametrize("cluster", ["redis-7.0"], indirect=True)
def test_a_key_that_may_not_be_written_is_a_recorded_failure(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old:
        old.mset({f"ours:{n}": n for n in range(20)} | {"theirs": "x"})
    for server in cluster.primaries:
        with connect(server) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~ours:*", "+@all")
    try:
        url = cluster.url.replace("://", "://mover:secret@")
        report = Migration(source.url, url, Options()).run()
    finally:
        for server in cluster.primaries:
            with connect(server) as connection:
                connection.execute("ACL", "DELUSER", "mover")

    (failure,) = report.failures
    assert (failure.key, failure.kind) == (b"theirs", "denied")
    assert "RESTORE theirs" in failure.message
    assert report.keys.migrated == 20
