"""Differences of every kind, planted into a target that was equal to its source.

Invariant: `sow` writes keys to the source, `plant` changes them at the target after the migration and returns
exactly what a verification has to find: each changed key and its kind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

_LONG = 40_000

Client = Any  # redis.Redis and redis.RedisCluster alike, of which only the names of the commands are used
Sow = Callable[[Client, str], Any]


def _stream(client: Client, key: str) -> None:
    for i in range(1, 8):
        client.xadd(key, {"n": str(i)}, id=f"{i}-1")
    client.xgroup_create(key, "group", "2-1")
    client.xreadgroup("group", "bob", {key: ">"}, count=3)


_SOWN: dict[str, Sow] = {
    "missing": lambda c, key: c.rpush(key, "gone"),
    "value": lambda c, key: c.set(key, f"value of {key}"),
    "value with a TTL": lambda c, key: c.set(key, "short", px=7_200_000),
    "one byte": lambda c, key: c.set(key, "x" * _LONG),
    "list order": lambda c, key: c.rpush(key, "a", "b", "c"),
    "list element": lambda c, key: c.rpush(key, *range(300)),
    "set member": lambda c, key: c.sadd(key, "a", "b", "c"),
    "score": lambda c, key: c.zadd(key, {"a": 1.5, "b": 2.5}),
    "field": lambda c, key: c.hset(key, mapping={"f": "1", "g": "2"}),
    "field name": lambda c, key: c.hset(key, mapping={"f": "1", "g": "2"}),
    "longer TTL": lambda c, key: c.set(key, "v", px=3_600_000),
    "TTL lost": lambda c, key: c.set(key, "v", px=3_600_000),
    "TTL gained": lambda c, key: c.sadd(key, "v"),
    "type": lambda c, key: c.set(key, "1"),
    "stream entry": _stream,
    "group offset": _stream,
    "pending entry": _stream,
    "consumer": _stream,
}

_PLANTED: dict[str, tuple[str, Sow]] = {
    "missing": ("missing", lambda c, key: c.delete(key)),
    "value": ("different", lambda c, key: c.set(key, f"Value of {key}")),
    "value with a TTL": ("different", lambda c, key: c.set(key, "longer", keepttl=True)),
    "one byte": ("different", lambda c, key: c.setrange(key, _LONG - 1, "y")),
    "list order": ("different", lambda c, key: (c.delete(key), c.rpush(key, "a", "c", "b"))),
    "list element": ("different", lambda c, key: c.lset(key, 299, "300")),
    "set member": ("different", lambda c, key: (c.srem(key, "c"), c.sadd(key, "d"))),
    "score": ("different", lambda c, key: c.zadd(key, {"a": 1.5000000000000002})),
    "field": ("different", lambda c, key: c.hset(key, "g", "3")),
    "field name": ("different", lambda c, key: (c.hdel(key, "g"), c.hset(key, "h", "2"))),
    "longer TTL": ("ttl", lambda c, key: c.pexpire(key, 3_700_000)),
    "TTL lost": ("ttl", lambda c, key: c.persist(key)),
    "TTL gained": ("ttl", lambda c, key: c.pexpire(key, 3_600_000)),
    "type": ("type", lambda c, key: (c.delete(key), c.rpush(key, "1"))),
    "stream entry": ("different", lambda c, key: c.xdel(key, "7-1")),
    "group offset": ("different", lambda c, key: c.xgroup_setid(key, "group", "6-1")),
    "pending entry": ("different", lambda c, key: c.xack(key, "group", "4-1")),
    "consumer": ("different", lambda c, key: c.xclaim(key, "group", "eve", 0, ["5-1"])),
}


def sow(source: Client, each: int) -> None:
    """Write `each` keys for every kind of difference."""
    for kind, write in _SOWN.items():
        for key in _names(kind, each):
            write(source, key)


def plant(target: Client, each: int) -> dict[bytes, str]:
    """Change every key that was sown, add extra ones, and return key → kind of difference."""
    expected = {}
    for name, (kind, change) in _PLANTED.items():
        for key in _names(name, each):
            change(target, key)
            expected[key.encode()] = kind
    for key in _names("extra", each):
        target.set(key, "the target's alone")
        expected[key.encode()] = "extra"
    return expected


def sow_large(source: Client) -> None:
    """Write one value of each type that is large for a budget of 1 MB."""
    numbers = [f"element {i}" for i in range(20_000)]
    source.set("large:string", "x" * 3_000_000)
    source.rpush("large:list", *numbers)
    source.sadd("large:set", *numbers)
    source.zadd("large:zset", {name: i + 0.5 for i, name in enumerate(numbers)})
    source.hset("large:hash", mapping={name: i for i, name in enumerate(numbers)})
    pipeline = source.pipeline(transaction=False)
    for i in range(1, 5_000):
        pipeline.xadd("large:stream", {"name": f"entry {i}", "data": "d" * 50}, id=f"{i}-1")
    pipeline.execute()
    source.xgroup_create("large:stream", "group", "0")
    source.xreadgroup("group", "bob", {"large:stream": ">"}, count=100)
    for kind in ("string", "list", "set", "zset", "hash", "stream"):
        source.copy(f"large:{kind}", f"large:{kind}:equal")
    source.set("large:ttl", "y" * 300_000, px=3_600_000)
    source.set("large:missing", "z" * 300_000)


def plant_large(target: Client) -> dict[bytes, str]:
    """Change the large values, each in one place; return key → kind."""
    target.setrange("large:string", 2_999_999, "y")
    target.lset("large:list", 19_999, "another")
    target.srem("large:set", "element 77")
    target.sadd("large:set", "element -1")
    target.zadd("large:zset", {"element 19999": 1.0})
    target.hset("large:hash", "element 12345", "another")
    target.xack("large:stream", "group", "100-1")
    target.pexpire("large:ttl", 3_700_000)
    target.delete("large:missing")
    changed = {f"large:{kind}".encode(): "different" for kind in ("string", "list", "set", "zset", "hash")}
    return {**changed, b"large:stream": "different", b"large:ttl": "ttl", b"large:missing": "missing"}


def _names(kind: str, each: int) -> Iterator[str]:
    return (f"planted:{kind}:{i}" for i in range(each))


def now_ms() -> int:
    """Return the time as servers count it."""
    return int(time.time() * 1000)
