"""One change of one part of a value is found, whether values are compared whole or in chunks.

Invariant: both sides are written by the same commands, and then one side of some keys is changed in one
place. A verification finds exactly these keys, with either way of reading, whichever side was changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotferry import Verification, VerifyOptions
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.migrating import migrate
from tests.integration.test_verify_values import Command, _at_owner, _open
from tests.servers.kinds import available
from tests.servers.raw import connect, encode

_PAIRS = [
    pair
    for pair in (("redis-6.2", "redis-7.0"), ("redis-7.0", "valkey-9.1"), ("redis-8.0", "valkey-9.1"))
    if set(pair) <= available().keys()
]
_BALLAST = random.Random(11).randbytes(300_000)
"""Makes a value too large to be decoded under a budget of 1 MB, and does not shrink when it is packed."""
_CHUNKED = {"memory_limit": 1 << 20}
_WHOLE: dict[str, int] = {}
_LATER = 4_000_000_000_000  # in the year 2096, in ms
_DELIVERED = 1_700_000_000_000

Changes = dict[str, list[Command]]


def _string(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    value = _BALLAST[:-size]
    return [("SET", key, value)], {
        "byte": [
            ("SETRANGE", key, at * 997 % len(value), b"\x00" if value[at * 997 % len(value)] else b"\x01")
        ],
        "length": [("APPEND", key, "x")],
        "ttl": [("PEXPIREAT", key, _LATER)],
    }


def _list(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    return [("RPUSH", key, *range(size), _BALLAST, *range(size))], {
        "element": [("LSET", key, at, "other")],
        "order": [("LSET", key, at, (at + 1) % size), ("LSET", key, (at + 1) % size, at)],
        "length": [("RPUSH", key, "x")],
    }


def _set(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    return [("SADD", key, _BALLAST, *(f"member {i}" for i in range(size)))], {
        "member": [("SREM", key, f"member {at}"), ("SADD", key, "other")],
        "fewer": [("SREM", key, f"member {at}")],
    }


def _sorted_set(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    return [
        ("ZADD", key, 1, _BALLAST, *(part for i in range(size) for part in (repr(i / 3), f"member {i}")))
    ], {
        "score": [("ZADD", key, repr(at / 3 + 2**-40), f"member {at}")],
        "member": [("ZREM", key, f"member {at}"), ("ZADD", key, repr(at / 3), "other")],
        "more": [("ZADD", key, 1, "other")],
    }


def _hash(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    return [("HSET", key, "ballast", _BALLAST, *(part for i in range(size) for part in (f"field {i}", i)))], {
        "value": [("HSET", key, f"field {at}", "other")],
        "name": [("HDEL", key, f"field {at}"), ("HSET", key, "other", at)],
        "fewer": [("HDEL", key, f"field {at}")],
        "more": [("HSET", key, "other", at)],
        "expiry gained": [("HPEXPIREAT", key, _LATER, "FIELDS", 1, f"field {at}")],
    }


def _expiring_hash(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    commands, changes = _hash(key, size, at)
    commands += [("HPEXPIREAT", key, _LATER + i, "FIELDS", 1, f"field {i}") for i in range(0, size, 2)]
    return commands, {
        **changes,
        "expiry gained": [("HPEXPIREAT", key, _LATER, "FIELDS", 1, "ballast")],
        "expiry earlier": [("HPEXPIREAT", key, _LATER - 1, "FIELDS", 1, f"field {at}")],
        "expiry lost": [("HPERSIST", key, "FIELDS", 1, f"field {at - at % 2}")],
    }


def _stream(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    at += 1

    def entries(value: str) -> list[Command]:
        return [("XADD", key, f"{i}-1", "n", value if i == at else "v", "m", i) for i in range(1, size + 1)]

    def claim(i: int, consumer: str, count: int, delivered: int) -> Command:
        return (
            *("XCLAIM", key, "readers", consumer, 0, f"{i}-1", "TIME", delivered, "RETRYCOUNT", count),
            *("FORCE", "JUSTID"),
        )

    groups: list[Command] = [
        ("XADD", key, f"{size + 1}-1", "ballast", _BALLAST),
        ("XDEL", key, f"{size}-1"),
        ("XGROUP", "CREATE", key, "readers", f"{size}-1"),
        ("XGROUP", "CREATE", key, "late", "0"),
        ("XGROUP", "CREATECONSUMER", key, "late", "nobody"),
        *(claim(i, f"c{i % 2}", i, _DELIVERED + i) for i in range(1, size)),
    ]
    pending = min(at, size - 1)
    return [*entries("v"), *groups], {
        "entry": [("DEL", key), *entries("other"), *groups],
        "fewer": [("XDEL", key, f"{pending}-1")],
        "last id": [("XSETID", key, "9999-1")],
        "group": [("XGROUP", "CREATE", key, "another", "0")],
        "group lost": [("XGROUP", "DESTROY", key, "late")],
        "group's name": [("XGROUP", "DESTROY", key, "late"), ("XGROUP", "CREATE", key, "lute", "0"),
                         ("XGROUP", "CREATECONSUMER", key, "lute", "nobody")],
        "delivered up to": [("XGROUP", "SETID", key, "late", "1-1")],
        "consumer": [("XGROUP", "CREATECONSUMER", key, "readers", "another")],
        "consumer's name": [("XGROUP", "DELCONSUMER", key, "late", "nobody"),
                            ("XGROUP", "CREATECONSUMER", key, "late", "somebody")],
        "acknowledged": [("XACK", key, "readers", f"{pending}-1")],
        "claimed": [claim(pending, f"c{(pending + 1) % 2}", pending, _DELIVERED + pending)],
        "delivery time": [claim(pending, f"c{pending % 2}", pending, _DELIVERED + pending + 1)],
        "delivery count": [claim(pending, f"c{pending % 2}", pending + 1, _DELIVERED + pending)],
        "acknowledged and another": [("XACK", key, "readers", f"{pending}-1"),
                                     claim(size + 1, f"c{pending % 2}", pending, _DELIVERED + pending)],
    }  # fmt: skip


def _stream_with_history(key: str, size: int, at: int) -> tuple[list[Command], Changes]:
    commands, _ = _stream(key, size, at)
    commands.append(("XSETID", key, "9999-1", "ENTRIESADDED", 5_000, "MAXDELETEDID", f"{size}-1"))
    commands.append(("XGROUP", "SETID", key, "late", "1-1", "ENTRIESREAD", 1))
    return commands, {
        "entries added": [("XSETID", key, "9999-1", "ENTRIESADDED", 5_001, "MAXDELETEDID", f"{size}-1")],
        "highest deleted": [("XSETID", key, "9999-1", "ENTRIESADDED", 5_000, "MAXDELETEDID", "9000-1")],
        "entries read": [("XGROUP", "SETID", key, "late", "1-1", "ENTRIESREAD", 2)],
    }


Build = Callable[[str, int, int], tuple[list[Command], Changes]]

_PLAIN: tuple[Build, ...] = (_string, _list, _set, _sorted_set, _hash, _stream)
_SIZE = 14


def _every_change(builds: tuple[Build, ...]) -> list[tuple[Build, str]]:
    return [(build, change) for build in builds for change in build("", _SIZE, 3)[1]]


def _builds(*names: str) -> tuple[Build, ...]:
    """Return what servers of these kinds can both hold."""
    kinds = [available()[name] for name in names]
    expiring = all(kind.has_field_ttls for kind in kinds)
    history = all(kind.version >= (7, 0) for kind in kinds)
    return (*_PLAIN, *([_expiring_hash] if expiring else []), *([_stream_with_history] if history else []))


@pytest.mark.parametrize(("source", "cluster"), _PAIRS, indirect=True)
def test_any_single_change_is_found_both_ways(
    request: pytest.FixtureRequest,
    source: LocalServer,
    cluster: LocalCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    names = request.node.callspec.params
    every = _every_change(_builds(names["source"], names["cluster"]))
    expire = [available()[names[side]].has_field_ttls for side in ("source", "cluster")]
    nodes = _open(cluster)

    @settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(size=st.integers(4, 40), where=st.randoms(use_true_random=False))
    def check(size: int, where: random.Random) -> None:
        expected = set()
        with connect(source) as connection:
            for each in (connection, *nodes):
                each.execute("FLUSHALL")
            for number, (build, change) in enumerate(every):
                for is_changed in (True, False):
                    key = f"{build.__name__}:{number}:{change}:{'changed' if is_changed else 'same'}"
                    commands, changes = build(key, size, where.randrange(size - 1))
                    here, there = list(commands), list(commands)
                    able = [here, there]
                    if change.startswith("expiry"):  # only one of the servers may know such a thing
                        able = [side for side, knows in zip(able, expire, strict=True) if knows]
                    if is_changed and able:
                        expected.add(key.encode())
                        where.choice(able).extend(changes[change])
                    connection.pipeline_checked([encode(*command) for command in here])
                    _at_owner(cluster, nodes, there)
        for way in (_WHOLE, _CHUNKED):
            found = _differing(source, cluster, tmp_path_factory, **way)
            assert found == expected, (way, found ^ expected)

    check()
    for node in nodes:
        node.close()


def _differing(
    source: LocalServer, cluster: LocalCluster, folders: pytest.TempPathFactory, **options: Any
) -> set[bytes]:
    folder = folders.mktemp("run")
    listed = folder / "differences"
    options = {"journal": folder / "journal.db", "recheck": 0, "differences": listed, **options}
    report = Verification(source.url, cluster.url, VerifyOptions(**options)).run()
    assert report.error is None
    return {json.loads(line)["key"].encode() for line in listed.read_text().splitlines()}


@pytest.mark.parametrize(("source", "cluster"), _PAIRS[:2], indirect=True)
def test_a_change_far_behind_among_what_is_pending_is_found(
    source: LocalServer, cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count, expected = 2_100, set()
    nodes = _open(cluster)
    with connect(source) as connection:
        for number in (None, 1, 1_000, 1_001, count):
            key = f"stream:{number}"
            commands: list[Command] = [("XADD", key, f"{i}-1", "f", "x" * 60) for i in range(1, count + 1)]
            commands.append(("XGROUP", "CREATE", key, "group", f"{count}-1"))
            claims = {
                i: ("XCLAIM", key, "group", "c", 0, f"{i}-1", "TIME", _DELIVERED, "FORCE", "JUSTID")
                for i in range(1, count + 1)
            }
            commands += claims.values()
            connection.pipeline_checked([encode(*command) for command in commands])
            if number is not None:
                expected.add(key.encode())
                commands.append((*claims[number][:7], _DELIVERED + 1, *claims[number][8:]))
            _at_owner(cluster, nodes, commands)

    assert _differing(source, cluster, tmp_path_factory, big_key_bytes=64_000) == expected
    for node in nodes:
        node.close()


@pytest.mark.parametrize(
    "cluster", [n for n in ("redis-8.0", "valkey-9.1") if n in available()], indirect=True
)
@pytest.mark.parametrize("name", [n for n in ("redis-8.0", "valkey-9.1") if n in available()])
def test_expired_fields_that_are_still_counted_hide_nothing(
    name: str, cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A server that has not dropped them yet counts them, so lengths are equal where values are not."""
    with (
        LocalServer(available()[name].binary, config={"enable-debug-command": "yes"}) as source,
        source.client() as old,
        cluster.client() as new,
    ):
        old.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        for key in ("equal", "hidden"):
            for client in (old, new):
                client.hset(key, "ballast", _BALLAST)
            old.hset(key, "gone", "x")
            old.execute_command("HPEXPIRE", key, 1, "FIELDS", 1, "gone")
        new.hset("hidden", "other", "x")
        wait_until(lambda: old.hget("hidden", "gone") is None, "the fields to expire")

        for way in (_WHOLE, _CHUNKED):
            assert _differing(source, cluster, tmp_path_factory, **way) == {b"hidden"}, way


def test_a_stream_that_is_copied_in_chunks_is_the_same_to_the_millisecond(
    source: LocalServer, cluster: LocalCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with source.client() as old:
        pipeline = old.pipeline(transaction=False)
        for i in range(3_000):
            pipeline.xadd("stream", {"f": "x" * 60}, id=f"{i + 1}-1")
        pipeline.xgroup_create("stream", "group", "0")
        for _ in range(60):
            pipeline.xreadgroup("group", "c", {"stream": ">"}, count=50)
        pipeline.execute()

    assert migrate(source, cluster, big_key_bytes=64_000).ok

    for way in (_WHOLE, {"big_key_bytes": 64_000}):
        assert _differing(source, cluster, tmp_path_factory, **way) == set()


def test_a_large_stream_that_was_read_on_is_not_unchanged(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        pipeline = old.pipeline(transaction=False)
        for i in range(3_000):
            pipeline.xadd("stream", {"f": "x" * 60}, id=f"{i + 1}-1")
        pipeline.xgroup_create("stream", "group", "0")
        pipeline.xreadgroup("group", "c", {"stream": ">"}, count=100)
        pipeline.execute()
        assert migrate(source, cluster, big_key_bytes=64_000).ok
        assert migrate(source, cluster, big_key_bytes=64_000, job="again").keys.unchanged == 1
        old.xack("stream", "group", "7-1")

    report = migrate(source, cluster, big_key_bytes=64_000, job="after")

    assert [failure.kind for failure in report.failures] == ["conflict"]
