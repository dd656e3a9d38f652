"""Large values of RDB files: handed on part by part, whole at the target or not there at all."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.errors import RefusedError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND
from tests.integration.migrating import count_keys
from tests.integration.test_rdb_file import copy, save
from tests.integration.test_rdb_file_verify import verify
from tests.servers.compare import assert_equal
from tests.servers.kinds import ServerKind, available
from tests.servers.proxy import put_behind_proxies

_KINDS = list(available())
_PAIRS = [(source, _KINDS[(place + 1) % len(_KINDS)]) for place, source in enumerate(_KINDS)]
_MEMORY = 4_000_000
_LARGE: dict[str, Any] = {"memory_limit": _MEMORY, "big_key_bytes": 65_536}
_BUSY_MS = 2_000


def fill_large(source: LocalServer, *, field_ttls: bool) -> int:
    """Write one large value of each type, and small ones; return how many keys there are."""
    with source.client() as client:
        client.set("string", bytes(range(256)) * 12_000)
        client.set("compressible", b"the same again " * 200_000)
        client.pexpire("string", 3_600_000)
        for start in range(0, 40_000, 4_000):
            numbers = range(start, start + 4_000)
            client.rpush("list", *(f"element:{n}" for n in numbers))
            client.sadd("set", *(f"member:{n}" for n in numbers))
            client.zadd("zset", {f"member:{n}": n / 7 for n in numbers})
            client.hset("hash", mapping={f"field:{n}": "v" * 40 for n in numbers})
        client.zadd("zset", {"above": float("inf"), "below": float("-inf")})
        client.rpush("list", b"x" * 300_000, "last")
        client.pexpire("hash", 3_600_000)
        if field_ttls:
            client.hset("expiring", mapping={f"field:{n}": "v" * 40 for n in range(5_000)})
            client.execute_command(
                "HPEXPIRE", "expiring", 3_600_000, "FIELDS", 1_000, *(f"field:{n}" for n in range(1_000))
            )
        for n in range(200):
            client.set(f"small:{n}", n)
        fill_stream(source, "stream", lost=False)
        fill_stream(source, "lossy", lost=True)
        return int(client.dbsize())


def fill_stream(source: LocalServer, name: str, *, lost: bool) -> None:
    """Write a stream with groups and pending entries, some of which are deleted (`lost`)."""
    with source.client() as client:
        pipeline = client.pipeline(transaction=False)
        for n in range(6_000):
            pipeline.xadd(name, {"field": f"value:{n}", "other": "v" * 20}, id=f"{n + 1}-1")
        pipeline.execute()
        client.xgroup_create(name, "idle", id="17-1")
        client.xgroup_create(name, "busy", id="0")
        client.xreadgroup("busy", "one", {name: ">"}, count=700)
        client.xreadgroup("busy", "two", {name: ">"}, count=900)
        client.execute_command("XGROUP", "CREATECONSUMER", name, "busy", "nobody")
        client.xdel(name, "5500-1")
        if lost:
            client.xdel(name, *(f"{n}-1" for n in range(100, 140)))


@pytest.mark.parametrize(("source", "cluster"), _PAIRS, indirect=True)
def test_large_values_of_every_server_arrive_whole(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = request.node.callspec.params
    has_ttls = [available()[names[side]].has_field_ttls for side in ("source", "cluster")]
    keys = fill_large(source, field_ttls=has_ttls[0])
    file = save(source, tmp_path)

    report, _ = copy(file, cluster, tmp_path, field_ttl="drop", **_LARGE)

    assert report.ok, (report.error, report.failures)
    assert report.keys.migrated == report.keys.scanned == keys
    assert count_keys(cluster) == keys, "temporary keys are left"
    compared = assert_equal(
        source,
        cluster,
        byte_equal=False,
        field_ttls=all(has_ttls) or not has_ttls[0],
        ttl_tolerance_ms=_BUSY_MS,
    )
    assert compared.keys == keys

    verified, _ = verify(
        file, cluster, tmp_path, memory_limit=_MEMORY, field_ttl="drop", ttl_tolerance=_BUSY_MS / 1000
    )
    lost = {"different": 1} if has_ttls == [True, False] else {}
    assert (verified.keys.scanned, verified.differences) == (keys, lost), verified.examples


@pytest.fixture
def large(source: LocalServer, tmp_path: Path, kind: ServerKind) -> Path:
    """A file of large values."""
    fill_large(source, field_ttls=kind.has_field_ttls)
    return save(source, tmp_path)


def test_what_differs_of_large_values_is_found_and_sent_again(
    large: Path, source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    report, _ = copy(large, cluster, tmp_path, **_LARGE)
    assert report.ok, (report.error, report.failures)
    with cluster.client() as client:
        client.setrange("string", 2_000_000, "another")
        client.lset("list", 30_000, "another")
        client.sadd("set", "one more")
        client.zadd("zset", {"member:9": 1})
        client.hdel("hash", "field:77")
        client.xack("stream", "busy", "3-1")
        client.xdel("lossy", "4000-1")
        client.delete("compressible")
        client.persist("small:1")
    expected = {"different": 7, "missing": 1}
    options: dict[str, Any] = {"memory_limit": _MEMORY, "ttl_tolerance": _BUSY_MS / 1000}
    found, _ = verify(large, cluster, tmp_path, **options)
    assert found.differences == expected, found.examples

    repaired, _ = verify(large, cluster, tmp_path, repair=True, **options)
    assert repaired.repaired == sum(expected.values()), (repaired.error, repaired.differences)
    assert_equal(source, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)


def test_large_values_that_are_there_are_met_by_the_conflict_policy(
    large: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    first, _ = copy(large, cluster, tmp_path, **_LARGE)
    assert first.ok, first.failures
    again, _ = copy(large, cluster, tmp_path, job="again", **_LARGE)
    assert again.ok, again.failures
    assert (again.keys.migrated, again.keys.unchanged) == (0, first.keys.migrated)
    with cluster.client() as client:
        client.hset("hash", "field:5", "another")
        client.persist("string")
    other, _ = copy(large, cluster, tmp_path, job="other", **_LARGE)
    assert {failure.key: failure.kind for failure in other.failures} == {
        b"hash": "conflict",
        b"string": "ttl_conflict",
    }
    skipped, _ = copy(large, cluster, tmp_path, job="skip", on_conflict="skip", **_LARGE)
    assert skipped.keys.skipped == first.keys.migrated
    replaced, _ = copy(large, cluster, tmp_path, job="replace", on_conflict="replace", **_LARGE)
    assert replaced.keys.migrated == first.keys.migrated
    with cluster.client() as client:
        assert client.hget("hash", "field:5") == b"v" * 40
        assert client.pttl("string") > 0
    assert count_keys(cluster) == first.keys.migrated


def test_connections_that_are_cut_while_a_large_value_is_written(
    large: Path, source: LocalServer, stack: ExitStack, kind: ServerKind, tmp_path: Path
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    proxies = put_behind_proxies(cluster, stack)
    for proxy in proxies:
        proxy.cut_after(commands=700_000, replies=30_000, times=6)
    for _ in range(8):  # a string whose beginning is lost is left for the next run
        report, _ = copy(large, cluster, tmp_path, **_LARGE)
        if report.ok:
            break
        assert not report.failures, report.failures
    assert report.ok, (report.error, report.keys)
    for proxy in proxies:
        proxy.cut_after()
    compared = assert_equal(source, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)
    assert count_keys(cluster) == compared.keys


def test_an_interrupted_run_builds_a_large_value_again(
    large: Path, source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    slow = Options(journal=tmp_path / "journal.db", max_bytes_per_second=500_000, **_LARGE)
    with Migration(str(large), cluster.url, slow) as migration:
        for _ in migration.events():
            with cluster.client() as client:
                if any(key.startswith(b"slotferry:part:") for key in client.scan_iter(count=1000)):
                    migration.cancel()
                    break
        for _ in migration.events():
            pass
        assert migration.report is not None
        assert migration.report.status == "interrupted"

    report, _ = copy(large, cluster, tmp_path, **_LARGE)
    assert report.ok, (report.error, report.failures)
    compared = assert_equal(source, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)
    assert report.keys.scanned == report.keys.migrated == count_keys(cluster) == compared.keys


def test_a_file_that_ends_within_a_large_value_leaves_nothing_of_it(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with source.client() as client:
        client.rpush("list", *(f"element:{n:040}" for n in range(20_000)))
    file = save(source, tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - 1_000])
    report, _ = copy(file, cluster, tmp_path, **_LARGE)
    assert isinstance(report.error, RefusedError)
    assert "it ends early" in str(report.error)
    assert report.keys.scanned == count_keys(cluster) == 0
    file.write_bytes(content)
    report, _ = copy(file, cluster, tmp_path, **_LARGE)
    assert report.ok, report.error
    assert_equal(source, cluster, byte_equal=False)


def test_large_values_from_stdin(
    large: Path, source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    command = [COMMAND, "migrate", "-", cluster.url, "--journal", str(tmp_path / "j.db")]
    with large.open("rb") as file:
        done = subprocess.run(
            [*command, "--big-key-bytes", "64kB"], stdin=file, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert_equal(source, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)


def test_an_element_beyond_the_budget_fails_alone(cluster: LocalCluster, tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:
        return b"\x80" + len(value).to_bytes(4, "big") + value

    members = [text(b"a"), text(b"x" * 2_000_000), text(b"c")]
    file = tmp_path / "own.rdb"
    file.write_bytes(
        b"REDIS0009\xfe\x00\x02"
        + text(b"large")
        + bytes([len(members)])
        + b"".join(members)
        + b"\x00\x05small\x01v\xff"
        + bytes(8)
    )
    report, _ = copy(file, cluster, tmp_path, memory_limit=_MEMORY)
    assert (report.keys.migrated, report.keys.failed) == (1, 1)
    assert report.failures[0].kind == "too_large"
    assert "which can't be cut: raise --memory-limit" in report.failures[0].message
    assert count_keys(cluster) == 1
    found, _ = verify(file, cluster, tmp_path, memory_limit=_MEMORY)
    assert found.differences["missing"] == 1, found.differences
