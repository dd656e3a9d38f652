"""Keys that the target has already: compared, replaced or left, as `on_conflict` says."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.kinds import available

_HOUR_MS = 3_600_000


def test_an_equal_value_is_unchanged_and_a_different_one_a_recorded_conflict(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({"equal": "same", "different": "source", "absent": "new"})
        new.set("equal", "same")
        new.set("different", "target")

        report = migrate(source, cluster)

        assert report.status == "completed_with_failures"
        assert (report.keys.migrated, report.keys.unchanged, report.keys.failed) == (1, 1, 1)
        (failure,) = report.failures
        assert (failure.key, failure.kind) == (b"different", "conflict")
        assert failure.slot == new.cluster_keyslot("different")
        assert new.get("different") == b"target"
        assert new.get("absent") == b"new"


def test_a_conflict_is_settled_by_the_next_run_once_the_target_is_put_right(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({f"key:{i}": i for i in range(100)})
        new.set("key:7", "in the way")
        assert migrate(source, cluster).keys.failed == 1

        new.delete("key:7")
        report = migrate(source, cluster)

        assert report.ok
        assert report.resumed
        assert (report.keys.migrated, report.keys.failed) == (100, 0)
        assert new.get("key:7") == b"7"


def test_another_ttl_is_a_conflict_of_its_own_kind(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        for key, ttl in {"same": _HOUR_MS, "longer": _HOUR_MS, "none there": _HOUR_MS}.items():
            old.set(key, "value", px=ttl)
        old.set("none here", "value")
        at = int(old.execute_command("PEXPIRETIME", "same"))
        new.set("same", "value", pxat=at)
        new.set("longer", "value", px=9 * _HOUR_MS)
        new.set("none there", "value")
        new.set("none here", "value", px=_HOUR_MS)

        report = migrate(source, cluster)

        assert report.keys.unchanged == 1
        assert {(failure.key, failure.kind) for failure in report.failures} == {
            (key, "ttl_conflict") for key in (b"longer", b"none there", b"none here")
        }
        assert new.pttl("none there") == -1


def test_replace_overwrites_value_type_and_ttl(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("value", "source")
        old.set("loses its ttl", "source")
        old.set("gets a ttl", "source", px=_HOUR_MS)
        old.rpush("other type", "a", "b")
        for key in ("value", "gets a ttl", "other type"):
            new.set(key, "target")
        new.set("loses its ttl", "source", px=_HOUR_MS)

        report = migrate(source, cluster, on_conflict="replace")

        assert report.ok
        assert report.keys.migrated == 4
        assert new.get("value") == b"source"
        assert new.pttl("loses its ttl") == -1
        assert abs(new.pttl("gets a ttl") - _HOUR_MS) < 60_000
        assert new.lrange("other type", 0, -1) == [b"a", b"b"]


def test_skip_leaves_the_target_and_says_how_often(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({"different": "source", "absent": "new"})
        new.set("different", "target")

        report = migrate(source, cluster, on_conflict="skip")

        assert report.ok
        assert (report.keys.migrated, report.keys.skipped) == (1, 1)
        assert new.get("different") == b"target"


def test_a_second_migration_finds_everything_unchanged(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({f"key:{i}": i for i in range(5_000)})
    assert migrate(source, cluster).keys.migrated == 5_000

    report = migrate(source, cluster)

    assert report.ok
    assert (report.keys.migrated, report.keys.unchanged) == (0, 5_000)


def _hashtable_set(old: Any, new: Any) -> None:
    old.sadd("key", 1, 2, 3)
    new.sadd("key", 3, 2, 1, "x" * 100)
    new.srem("key", "x" * 100)


def _hashtable_hash(old: Any, new: Any) -> None:
    old.hset("key", mapping={"a": "1", "b": "2"})
    new.hset("key", mapping={"b": "2", "long": "x" * 500, "a": "1"})
    new.hdel("key", "long")


def _skiplist_zset(old: Any, new: Any) -> None:
    old.zadd("key", {"a": 0.1, "b": float("inf")})
    new.zadd("key", {"b": float("inf"), "x" * 500: 1, "a": 0.1})
    new.zrem("key", "x" * 500)


def _list_of_other_nodes(old: Any, new: Any) -> None:
    elements = [f"element {i} " * 50 for i in range(200)]
    old.rpush("key", *elements)
    for element in reversed(elements):
        new.lpush("key", element)
        new.lpush("key", "to be removed")
        new.lpop("key")


def _hashtables_in_another_order(old: Any, new: Any) -> None:
    members = [f"member {i}" for i in range(2_000)]
    old.sadd("key", *members)
    random.Random(1).shuffle(members)
    for start in range(0, len(members), 100):
        new.sadd("key", *members[start : start + 100])


def _stream_with_trimmed_nodes(old: Any, new: Any) -> None:
    for client in (old, new):
        for i in range(1, 301):
            client.xadd("key", {"n": i}, id=f"{i}-0")
    # The same entries go, in one case at once and in the other from the middle outwards.
    doomed = [f"{i}-0" for i in range(1, 150)]
    old.xdel("key", *doomed)
    for entry in sorted(doomed, key=lambda entry: abs(int(entry[:-2]) - 75)):
        new.xdel("key", entry)


def _int_like_string(old: Any, new: Any) -> None:
    old.set("key", 1234567)
    new.set("key", "123")
    new.append("key", "4567")


_DISGUISES: list[Callable[[Any, Any], None]] = [
    _hashtable_set,
    _hashtable_hash,
    _skiplist_zset,
    _list_of_other_nodes,
    _hashtables_in_another_order,
    _stream_with_trimmed_nodes,
    _int_like_string,
]


@pytest.mark.parametrize("disguise", _DISGUISES, ids=lambda disguise: disguise.__name__.strip("_"))
@pytest.mark.parametrize(("source", "cluster"), [(name, name) for name in available()], indirect=True)
def test_an_equal_value_is_unchanged_however_it_is_encoded(
    source: LocalServer, cluster: LocalCluster, disguise: Callable[[Any, Any], None]
) -> None:
    with source.client() as old, cluster.client() as new:
        disguise(old, new)
        before = new.dump("key")

        report = migrate(source, cluster)

        assert report.ok, report.failures
        assert report.keys.unchanged == 1
        assert new.dump("key") == before


@pytest.mark.parametrize("cluster", [name for name in available() if name != "redis-6.2"], indirect=True)
@pytest.mark.parametrize("source", ["redis-6.2"], indirect=True)
def test_an_equal_value_is_unchanged_on_a_newer_server_with_other_encodings(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old, cluster.client() as new:
        for client in (old, new):
            client.hset("hash", mapping={"a": "1", "b": "two"})
            client.zadd("zset", {"a": 1.5, "b": -2})
            client.rpush("list", *range(50))
            client.sadd("set", "a", "b")
            client.xadd("stream", {"f": "v"}, id="5-1")

        report = migrate(source, cluster)

        assert report.ok, report.failures
        assert report.keys.unchanged == 5


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (["SADD", "key", "a", "b"], ["SADD", "key", "a", "c"]),
        (["SADD", "key", 1, 2], ["SADD", "key", 1, 2, 3]),
        (["RPUSH", "key", "a", "b"], ["RPUSH", "key", "b", "a"]),
        (["HSET", "key", "f", "1"], ["HSET", "key", "f", "2"]),
        (["ZADD", "key", "1", "a"], ["ZADD", "key", "1.5", "a"]),
        (["XADD", "key", "1-1", "f", "v"], ["XADD", "key", "1-2", "f", "v"]),
        (["SET", "key", "1"], ["SET", "key", "01"]),
        (["SET", "key", "a"], ["RPUSH", "key", "a"]),
    ],
    ids=lambda command: " ".join(map(str, command)),
)
def test_a_different_value_is_never_called_equal(
    source: LocalServer, cluster: LocalCluster, here: list[str], there: list[str]
) -> None:
    with source.client() as old, cluster.client() as new:
        old.execute_command(*here)
        new.execute_command(*there)

    report = migrate(source, cluster)

    assert [failure.kind for failure in report.failures] == ["conflict"]
