"""Expiry times: absolute, so that neither the wire nor the queue adds to a key's life."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry import Migration
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.proxy import Proxy
from tests.servers.raw import RawConnection, connect, encode

_HOUR_MS = 3_600_000
_KEYS = [b"key:%d" % i for i in range(5_000)]
_MODERN = [name for name in available() if name != "redis-6.2"]


def _fill(source: LocalServer) -> None:
    with connect(source) as connection:
        connection.pipeline_checked(
            [encode("SET", key, i, "PX", _HOUR_MS + i) for i, key in enumerate(_KEYS)]
        )
        connection.pipeline_checked([encode("SET", b"forever:" + key, 1) for key in _KEYS])


def _expiry_times(connection: RawConnection, keys: list[bytes]) -> list[int]:
    times: list[int] = connection.pipeline_checked([encode("PEXPIRETIME", key) for key in keys])
    return times


@pytest.mark.parametrize("cluster", _MODERN, indirect=True)
@pytest.mark.parametrize("source", _MODERN, indirect=True)
def test_keys_expire_at_the_same_millisecond(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source)

    assert migrate(source, cluster).ok

    with connect(source) as old:
        for node in cluster.primaries:
            with connect(node) as new:
                keys = new.execute("KEYS", "*")
                assert _expiry_times(new, keys) == _expiry_times(old, keys)


@pytest.mark.parametrize("source", ["redis-6.2"], indirect=True)
def test_a_source_that_knows_only_relative_ttls_over_a_slow_wire(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack
) -> None:
    _fill(source)
    proxy = stack.enter_context(Proxy(source.host, source.port, delay=0.3))

    report = Migration(f"redis://{proxy.address}", cluster.url).run()

    assert report.ok
    assert_equal(source, cluster, ttl_tolerance_ms=150)  # half of what a reply is late
