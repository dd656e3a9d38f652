"""Large streams whose groups are used while they are copied: WATCH does not see that, a second look does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.model.events import EngineNews
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.test_big_keys import _temporaries
from tests.servers.compare import meanings
from tests.servers.kinds import available
from tests.servers.proxy import Proxy
from tests.servers.raw import RawConnection, connect, encode

_LIMIT = 64_000
_ENTRIES = 3_000
_GROUPS_READ = b"CONSUMERS"  # last ids are known by then, pending entries are not
_CONFIRMED = b"MULTI"  # all is copied by then
_KINDS = [name for name in ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1") if name in available()]
_READ = encode("XREADGROUP", "GROUP", "readers", "bob", "COUNT", 700, "STREAMS", "stream", ">")
_CHANGES = {
    "read": [_READ],
    "acknowledged": [encode("XACK", "stream", "readers", "1-1", "2-1", "900-1")],
    "claimed": [encode("XCLAIM", "stream", "readers", "carol", 0, "3-1", "4-1", "JUSTID")],
    "consumer gone": [encode("XGROUP", "DELCONSUMER", "stream", "readers", "alice")],
    "consumer made": [encode("XGROUP", "CREATECONSUMER", "stream", "late", "dora")],
    "set": [encode("XGROUP", "SETID", "stream", "readers", "20-1")],
    "group made": [encode("XGROUP", "CREATE", "stream", "new", "7-1")],
    "group gone": [encode("XGROUP", "DESTROY", "stream", "late")],
    "last id": [encode("XSETID", "stream", "9999-9")],
}


def _fill(connection: RawConnection, read: int) -> None:
    connection.pipeline_checked(
        [encode("XADD", "stream", f"{i}-1", "data", "x" * 60) for i in range(1, max(_ENTRIES, read + 800))]
    )
    connection.pipeline_checked(
        [
            encode("XGROUP", "CREATE", "stream", "readers", "0"),
            encode("XGROUP", "CREATE", "stream", "late", "5-1"),
            encode("XREADGROUP", "GROUP", "readers", "alice", "COUNT", read, "STREAMS", "stream", ">"),
        ]
    )


def _migrate(source: LocalServer, cluster: LocalCluster, marker: bytes, changes: list[bytes]) -> list[str]:
    """Copy the stream with those changes at the moment that `marker` goes to the source; return the news."""
    news: list[str] = []
    with Proxy(source.host, source.port) as proxy, connect(source) as connection:
        proxy.hold_at(marker)

        def change() -> None:
            assert proxy.held.wait(30)
            try:
                connection.pipeline_checked(changes)
            finally:
                proxy.resume()

        changer = threading.Thread(target=change)
        changer.start()
        migration = Migration(f"redis://{proxy.address}", cluster.url, Options(big_key_bytes=_LIMIT))
        news += [event.kind for event in migration.events() if isinstance(event, EngineNews)]
        changer.join()
    assert migration.result().ok, migration.result().failures
    assert migration.result().keys.migrated == 1
    return news


def _assert_same(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as here, cluster.client() as client:
        node = client.get_node_from_key("stream")
        with RawConnection(node.host, node.port) as there:
            (_, ours), (_, theirs) = (meanings(side, [b"stream"])[b"stream"] for side in (here, there))
    for name in ours:
        if None not in (ours[name], theirs[name]):  # what one version does not know
            assert _alike(ours[name], theirs[name]), name
    assert not _temporaries(cluster)


def _alike(one: Any, other: Any) -> bool:
    """Whether both are equal, but for milliseconds of a time: that of a delivery is told by its age."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_alike(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, int) and isinstance(other, int) and one > 10**12:
        return abs(one - other) <= 5
    return bool(one == other)


@pytest.mark.parametrize("source", _KINDS, indirect=True)
@pytest.mark.parametrize("marker", [_GROUPS_READ, _CONFIRMED], ids=["groups read", "confirmed"])
def test_what_is_done_to_groups_while_a_large_stream_is_copied_is_copied(
    source: LocalServer, cluster: LocalCluster, marker: bytes
) -> None:
    for name, changes in _CHANGES.items():
        with connect(source) as connection, cluster.client() as client:
            connection.execute("FLUSHALL")
            client.flushall()
            _fill(connection, 1_200)
        _migrate(source, cluster, marker, changes)
        try:
            _assert_same(source, cluster)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error


def test_groups_that_are_used_are_not_copied_again_with_all_entries(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as connection:
        _fill(connection, 1_200)
    news = _migrate(
        source, cluster, _CONFIRMED, [change for name in ("read", "claimed") for change in _CHANGES[name]]
    )
    assert "big_key_again" not in news
    _assert_same(source, cluster)


def test_where_much_is_pending_a_change_is_noticed(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        _fill(connection, 11_000)
    news = _migrate(source, cluster, _GROUPS_READ, [_READ])
    assert "big_key_again" in news
    _assert_same(source, cluster)
