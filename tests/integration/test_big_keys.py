"""Large keys: copied in parts, whole or not at all, and resumed within the key."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from slotferry import Migration, Options
from slotferry.errors import TargetLostError
from slotferry.model.events import EngineNews, Progress
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from slotferry.topology.rdb_versions import KNOWN_VERSIONS
from tests.command import Running, run
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import available
from tests.servers.raw import RawConnection, connect, encode

_LIMIT = 64_000
_PAIRS = [
    pair
    for pair in (
        ("redis-6.2", "redis-6.2"),
        ("redis-6.2", "valkey-9.1"),
        ("redis-8.0", "valkey-9.1"),
        ("redis-8.0", "redis-7.0"),
        ("valkey-9.1", "redis-6.2"),
        ("valkey-9.1", "redis-8.0"),
        ("valkey-9.1", "valkey-9.1"),
    )
    if set(pair) <= available().keys()
]


@pytest.mark.parametrize(("source", "cluster"), _PAIRS, indirect=True)
def test_every_type_arrives_whole_in_parts(
    source: LocalServer, cluster: LocalCluster, request: pytest.FixtureRequest
) -> None:
    names = request.node.callspec.params
    kinds = available()[names["source"]], available()[names["cluster"]]
    with connect(source) as connection:
        _fill_stream(connection, b"stream", 3_000)
        keys = fill(connection, 500, field_ttls=kinds[0].has_field_ttls)

    report = migrate(source, cluster, big_key_bytes=_LIMIT, field_ttl="drop")

    assert report.ok, report.failures
    assert report.keys.migrated == keys
    assert _calls(cluster, "renamenx") >= 6
    assert _calls(cluster, "xadd") >= 2_900
    assert not _temporaries(cluster)
    # Without PEXPIRETIME a TTL is what was left of it when the source answered.
    assert_equal(source, cluster, field_ttls=kinds[1].has_field_ttls, ttl_tolerance_ms=1_000)


def test_no_command_touches_a_whole_value(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        _fill_hash(connection, b"hash", 60_000)
        connection.execute("SET", "string", bytes(20_000_000))
        connection.execute("CONFIG", "RESETSTAT")

    migration = Migration(source.url, cluster.url, Options(big_key_bytes=1_000_000, memory_limit=1 << 20))
    held = [event.buffered_bytes for event in migration.events() if isinstance(event, Progress)]

    report = migration.result()
    assert report.ok, report.failures
    assert max(held, default=0) <= 1 << 20
    with source.client() as client:
        statistics = client.info("commandstats")
    assert "cmdstat_dump" not in statistics
    assert statistics["cmdstat_hscan"]["calls"] >= 60_000 // 1000
    assert statistics["cmdstat_getrange"]["calls"] >= 20_000_000 // 150_000
    assert _calls(cluster, "restore") <= 3 * len(KNOWN_VERSIONS)  # the preflight's questions
    assert_equal(source, cluster)


@pytest.mark.parametrize("size", [_LIMIT, 0])
def test_a_second_pass_finds_large_keys_unchanged(
    source: LocalServer, cluster: LocalCluster, size: int
) -> None:
    with connect(source) as connection:
        keys = fill(connection, 100)
    assert migrate(source, cluster, big_key_bytes=size).ok

    report = migrate(source, cluster, big_key_bytes=_LIMIT)

    assert report.ok, report.failures
    assert report.keys.unchanged == keys
    assert not _temporaries(cluster)


@pytest.mark.parametrize(
    ("policy", "migrated", "skipped", "failed"), [("error", 0, 0, 3), ("skip", 0, 3, 0), ("replace", 3, 0, 0)]
)
def test_conflicts_follow_the_policy(
    source: LocalServer, cluster: LocalCluster, policy: str, migrated: int, skipped: int, failed: int
) -> None:
    with connect(source) as connection:
        _fill_hash(connection, b"hash", 5_000)
        connection.execute("SET", "string", bytes(200_000))
        connection.execute("SET", "ttl", bytes(200_000), "EX", 5000)
    with cluster.client() as client:
        client.hset("hash", "another", "value")
        client.set("string", b"1" * 200_000)
        client.set("ttl", bytes(200_000))

    report = migrate(source, cluster, big_key_bytes=_LIMIT, on_conflict=policy)

    assert (report.keys.migrated, report.keys.skipped, report.keys.failed) == (migrated, skipped, failed)
    if policy == "error":
        kinds = {failure.key: failure.kind for failure in report.failures}
        assert kinds == {b"hash": "conflict", b"string": "conflict", b"ttl": "ttl_conflict"}
    if policy == "replace":
        assert_equal(source, cluster)
    assert not _temporaries(cluster)


@pytest.mark.parametrize("key", ["hash", "string"])
def test_a_change_meanwhile_is_noticed(source: LocalServer, cluster: LocalCluster, key: str) -> None:
    with connect(source) as connection:
        _fill_hash(connection, b"hash", 20_000)
        connection.execute("SET", "string", bytes(2_000_000))
        _fill_hash(connection, b"small", 10)
    options = Options(big_key_bytes=_LIMIT, max_bytes_per_second=2_000_000, match=key)
    migration = Migration(source.url, cluster.url, options)

    def change() -> None:
        with source.client() as client:
            wait_until(lambda: _was_read(source, key), "the copying to begin")
            if key == "hash":
                client.hset("hash", "field 3", "changed")
            else:
                client.setrange("string", 7, "changed")

    changer = threading.Thread(target=change)
    changer.start()
    news = [event.kind for event in migration.events() if isinstance(event, EngineNews)]
    changer.join()

    assert migration.result().ok
    assert "big_key_again" in news
    with source.client() as here, cluster.client() as there:
        assert here.dump(key) is not None
        if key == "hash":
            assert there.hgetall("hash") == here.hgetall("hash")
        else:
            assert there.get("string") == here.get("string")
    assert not _temporaries(cluster)


def kill_halfway(command: tuple[str, ...], rate: str, cluster: LocalCluster, fields: int) -> None:
    """Run it until half of so many fields of a hash are copied, then kill it."""
    with Running(*command, "--max-bytes-per-second", rate) as running:
        wait_until(lambda: running.ended or _built(cluster) >= fields // 2, "half of the hash to be copied")
        running.kill()


def test_killed_within_a_key_it_goes_on_there(source: LocalServer, cluster: LocalCluster) -> None:
    fields = 60_000
    with connect(source) as connection:
        _fill_hash(connection, b"hash", fields)
        if connection.execute("INFO", "server").find(b"redis_version:6.") >= 0:
            pytest.skip("before 7.2 a read can't be told from a write afterwards")
        wait_until(
            lambda: connection.execute("OBJECT", "IDLETIME", "hash") >= 4, "the key to lie still for a while"
        )
    command = ("migrate", source.url, cluster.url, "--json", "--big-key-bytes", "64kB")
    kill_halfway(command, "1MB", cluster, fields)
    assert len(_temporaries(cluster)) == 1
    with source.client() as client:
        client.config_resetstat()

    done = run(*command)

    assert done.code == 0, done.stderr
    assert not _temporaries(cluster)
    assert_equal(source, cluster)
    with source.client() as client:
        if "server_name" in client.info("server") or _version(source) >= (7, 2):
            calls = client.info("commandstats")["cmdstat_hscan"]["calls"]
            assert calls < fields // 500 * 3 // 4  # the first half was not read again


def test_a_key_that_changed_between_two_runs_is_taken_from_its_start(
    source: LocalServer, cluster: LocalCluster
) -> None:
    fields = 20_000
    with connect(source) as connection:
        _fill_hash(connection, b"hash", fields)
    command = ("migrate", source.url, cluster.url, "--json", "--big-key-bytes", "64kB")
    kill_halfway(command, "500kB", cluster, fields)
    with source.client() as client:
        client.hset("hash", mapping={f"field {i}": "changed" for i in range(0, fields, 7)})

    done = run(*command)

    assert done.code == 0, done.stderr
    assert not _temporaries(cluster)
    assert_equal(source, cluster)


def test_a_target_without_memory_for_it_gets_nothing_of_it(
    source: LocalServer, cluster: LocalCluster, restored_memory: None
) -> None:
    with connect(source) as connection:
        _fill_hash(connection, b"hash", 50_000)
    for node in cluster.primaries:
        with node.client() as client:
            used = client.info("memory")["used_memory"]
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", used + 1_000_000)

    with pytest.raises(TargetLostError) as raised:
        migrate(source, cluster, big_key_bytes=_LIMIT, retry_for=1, skip_check=("memory", "eviction"))

    assert raised.value.kind == "target_full"
    assert not _temporaries(cluster)
    with cluster.client() as client:
        assert not client.exists("hash")


@pytest.fixture
def restored_memory(cluster: LocalCluster) -> Iterator[None]:
    yield
    for node in cluster.primaries:
        with node.client() as client:
            client.config_set("maxmemory", 0)


def test_a_source_that_hides_sizes_is_copied_as_ever(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        keys = fill(connection, 100)
        connection.execute(
            *("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+scan", "+dump", "+pttl", "+time", "+info"),
            *("+dbsize", "+ping", "+select", *(["+pexpiretime"] if _version(source) >= (7, 0) else [])),
        )
    try:
        url = source.url.replace("redis://", "redis://reader@")
        migration = Migration(url, cluster.url, Options(big_key_bytes=_LIMIT, source_password="secret"))
        news = [event.kind for event in migration.events() if isinstance(event, EngineNews)]
    finally:
        with source.client() as client:
            client.acl_deluser("reader")

    assert news.count("big_keys_unseen") == 1
    assert migration.result().keys.migrated == keys
    assert_equal(source, cluster)


def _fill_hash(connection: RawConnection, key: bytes, fields: int) -> None:
    step = 1000
    for start in range(0, fields, step):
        pairs = [
            part for i in range(start, min(fields, start + step)) for part in (f"field {i}", f"value {i}")
        ]
        connection.execute("HSET", key, *pairs)


def _fill_stream(connection: RawConnection, key: bytes, entries: int) -> None:
    connection.pipeline_checked(
        [encode("XADD", key, f"{i + 1}-{i % 2}", "number", i, "data", "x" * 60) for i in range(entries)]
    )
    connection.pipeline_checked(
        [
            encode("XGROUP", "CREATE", key, "readers", "0"),
            encode("XGROUP", "CREATE", key, "late", "$"),
            encode("XREADGROUP", "GROUP", "readers", "alice", "COUNT", entries // 2, "STREAMS", key, ">"),
            encode("XREADGROUP", "GROUP", "readers", "bob", "COUNT", 10, "STREAMS", key, ">"),
            encode("XACK", key, "readers", "1-0", "2-1"),
            encode("XDEL", key, "3-0", "10-1", f"{entries // 2 + 1}-0", f"{entries}-1"),
            encode("XCLAIM", key, "readers", "carol", 0, "5-0", "TIME", 1_700_000_000_000, "RETRYCOUNT", 9),
            encode("EXPIRE", key, 100_000),
        ]
    )


def _temporaries(cluster: LocalCluster) -> list[bytes]:
    found: list[bytes] = []
    for node in cluster.primaries:
        with node.client() as client:
            found += client.scan_iter(match="slotferry:*", count=1000)
    return found


def _built(cluster: LocalCluster) -> int:
    with cluster.client() as client:
        return sum(int(client.hlen(name)) for name in _temporaries(cluster))


def _calls(cluster: LocalCluster, command: str) -> int:
    total = 0
    for node in cluster.primaries:
        with node.client() as client:
            total += client.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)
    return total


def _was_read(source: LocalServer, key: str) -> bool:
    with source.client() as client:
        name = "hscan" if key == "hash" else "getrange"
        return int(client.info("commandstats").get(f"cmdstat_{name}", {}).get("calls", 0)) > 3


def _version(server: LocalServer) -> tuple[int, ...]:
    with server.client() as client:
        return tuple(int(part) for part in client.info("server")["redis_version"].split(".")[:2])
