"""A target that takes so much of one command: larger keys go in chunks, what can't be cut fails alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from slotferry import Report
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys, migrate
from tests.integration.test_big_keys import _temporaries
from tests.servers.compare import assert_equal
from tests.servers.raw import connect, encode

_MB = 1 << 20
_DEFAULTS = {"proto-max-bulk-len": 512 << 20, "client-query-buffer-limit": 1 << 30}
_SETTINGS = list(_DEFAULTS)


@contextmanager
def _limited(cluster: LocalCluster, *settings: str, to: int = _MB) -> Iterator[None]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(node.client()) for node in cluster.primaries]
        try:
            for name in settings:
                for node in nodes:
                    node.config_set(name, to)
            yield
        finally:
            for name in settings:
                for node in nodes:
                    node.config_set(name, _DEFAULTS[name])


def _fill(source: LocalServer) -> None:
    """Keys of every type whose payloads are above 1 MB, and whose parts are not; and small ones."""
    rng = random.Random(5)

    def part() -> bytes:
        return rng.randbytes(100_000)

    with connect(source) as connection:
        for i in range(30):
            connection.execute("RPUSH", "list", part())
            connection.execute("SADD", "set", part())
            connection.execute("HSET", "hash", f"field {i}", part())
            connection.execute("ZADD", "zset", i, part())
            connection.execute("XADD", "stream", f"{i + 1}-1", "field", part())
        # Small ones, then large ones: what is read by their number is much more than what fits.
        for i in range(200):
            connection.execute("RPUSH", "grows", *([b"small"] if i < 150 else [rng.randbytes(300_000)]))
        connection.pipeline_checked([encode("SET", f"small:{i}", i) for i in range(500)])


@pytest.mark.parametrize("settings", [_SETTINGS[:1], _SETTINGS[1:], _SETTINGS], ids=["bulk", "query", "both"])
@pytest.mark.timeout(120)
def test_what_is_above_the_limits_goes_in_chunks(
    source: LocalServer, cluster: LocalCluster, settings: list[str]
) -> None:
    _fill(source)
    with _limited(cluster, *settings):
        report = migrate(source, cluster, retry_for=20, big_key_bytes=0)

    assert report.ok, report.failures
    assert report.keys.migrated == 506
    assert_equal(source, cluster)
    assert not _temporaries(cluster)


def test_a_string_above_the_query_buffer_is_built_of_pieces(
    source: LocalServer, cluster: LocalCluster
) -> None:
    rng = random.Random(7)
    with connect(source) as connection:
        connection.execute("SET", "string", rng.randbytes(5_000_000), "PX", "10000000")
        connection.execute("SET", "small", 1)
    with _limited(cluster, "client-query-buffer-limit"):
        report = migrate(source, cluster, retry_for=20)

    assert report.ok, report.failures
    assert_equal(source, cluster)


_TOO_LARGE: dict[str, tuple[tuple[str | bytes, ...], int]] = {
    # In one piece: with its name, and what DUMP adds.
    "string": (("SET", "large", random.Random(1).randbytes(2_000_000)), 2_000_021),
    "list": (("RPUSH", "large", "a", random.Random(2).randbytes(2_000_000), "b"), 2_000_000),
    "set": (("SADD", "large", "a", random.Random(3).randbytes(2_000_000)), 2_000_000),
    "zset": (("ZADD", "large", "1", random.Random(4).randbytes(2_000_000)), 2_000_000),
    "hash": (("HSET", "large", "a", "b", "field", random.Random(5).randbytes(2_000_000)), 2_000_000),
    "stream": (("XADD", "large", "1-1", "field", random.Random(6).randbytes(2_000_000)), 2_000_000),
}


@pytest.mark.parametrize("kind_of_value", _TOO_LARGE)
def test_what_can_t_be_cut_fails_alone(
    source: LocalServer, cluster: LocalCluster, kind_of_value: str
) -> None:
    command, size = _TOO_LARGE[kind_of_value]
    with connect(source) as connection:
        connection.execute(*command)
        connection.pipeline_checked([encode("SET", f"small:{i}", i) for i in range(500)])
    with _limited(cluster, "proto-max-bulk-len"):
        report = migrate(source, cluster, retry_for=20)

    assert (report.keys.migrated, report.keys.failed) == (500, 1)
    assert report.status == "completed_with_failures"
    (failure,) = report.failures
    assert (failure.key, failure.kind) == (b"large", "too_large")
    assert "large" in failure.message
    assert f"proto-max-bulk-len of {_MB} bytes" in failure.message
    assert f"{size} bytes" in failure.message
    assert count_keys(cluster) == 500

    again = migrate(source, cluster, retry_for=20)

    assert again.ok, again.failures
    assert_equal(source, cluster)


@pytest.mark.parametrize("setting", _SETTINGS)
@pytest.mark.timeout(120)
def test_a_limit_that_is_not_told_costs_one_key(
    source: LocalServer, cluster: LocalCluster, setting: str
) -> None:
    """The user may not ask for it: what the target cuts the connection for is found by its doing so."""
    rng = random.Random(9)
    with connect(source) as connection:
        connection.execute("RPUSH", "list", *(rng.randbytes(50_000) for _ in range(60)))
        connection.execute("RPUSH", "large", "a", rng.randbytes(2_500_000))
        connection.pipeline_checked([encode("SET", f"small:{i}", i) for i in range(500)])

    def forbid(right: str) -> None:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "SETUSER", "default", right)

    report = _with_acl(forbid, cluster, setting, lambda: migrate(source, cluster, retry_for=60))

    assert report.error is None
    assert (report.keys.migrated, report.keys.failed) == (501, 1), report.failures
    (failure,) = report.failures
    assert failure.key == b"large"
    assert "large" in failure.message
    with source.client() as here, cluster.client() as there:
        assert here.lrange("list", 0, -1) == there.lrange("list", 0, -1)


def _with_acl(
    change: Callable[[str], None], cluster: LocalCluster, setting: str, work: Callable[[], Report]
) -> Report:
    with _limited(cluster, setting):
        change("-config")
        try:
            return work()
        finally:
            change("+config")
