"""What visitors of the shop do: commands of every type, each about the keys of one user.

Invariant: a key's name says its type, all keys of one command are in one slot, and each command is one that
Redis 6.2 and a cluster both take.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

Words = tuple[str | int | float, ...]
Operation = Callable[[str, random.Random], Words]

_AT_ONCE = 20
_ENTRIES = 40


def _strings() -> Sequence[Operation]:
    return (
        lambda t, r: ("SET", f"{t}:name", f"name {r.random()}", "EX", 3600),
        lambda t, r: ("SET", f"{t}:blink", r.random(), "PX", r.randrange(1, 40)),
        lambda t, r: ("PEXPIRE", f"{t}:blink", r.randrange(1, 3000)),
        lambda t, r: ("GETEX", f"{t}:name", "PX", r.randrange(50, 60_000)),
        lambda t, r: ("PERSIST", f"{t}:name"),
        lambda t, r: ("GETDEL", f"{t}:once"),
        lambda t, r: ("SET", f"{t}:once", r.random(), "NX", "EX", 60),
        lambda t, r: ("SETRANGE", f"{t}:note", r.randrange(200), "note"),
        lambda t, r: ("SETBIT", f"{t}:days", r.randrange(365), r.randrange(2)),
        lambda t, r: ("BITFIELD", f"{t}:days", "INCRBY", "u16", "#3", 1),
        lambda t, r: ("INCRBYFLOAT", f"{t}:spent", "1.25"),
        lambda t, r: ("PFADD", f"{t}:seen", r.randrange(10_000)),
        lambda t, r: ("MSET", f"{t}:one", r.random(), f"{t}:two", r.random()),
        lambda t, r: ("MGET", f"{t}:name", f"{t}:one", f"{t}:two"),
        lambda t, r: ("DEL", f"{t}:one", f"{t}:blink"),
    )


def _lists_and_sets() -> Sequence[Operation]:
    return (
        lambda t, r: ("RPUSH", f"{t}:cart", r.randrange(50), r.randrange(50)),
        lambda t, r: ("LPOP", f"{t}:cart"),
        lambda t, r: ("LTRIM", f"{t}:cart", -_ENTRIES, -1),
        lambda t, r: ("LMOVE", f"{t}:cart", f"{t}:saved", "LEFT", "RIGHT"),
        lambda t, r: ("LINSERT", f"{t}:cart", "BEFORE", r.randrange(50), "gift"),
        lambda t, r: ("LREM", f"{t}:saved", 0, r.randrange(50)),
        lambda t, r: ("LTRIM", f"{t}:saved", -_ENTRIES, -1),
        lambda t, r: ("COPY", f"{t}:cart", f"{t}:shared", "REPLACE"),
        lambda t, r: ("RENAME", f"{t}:shared", f"{t}:gone"),
        lambda t, r: ("SORT", f"{t}:cart", "ALPHA", "STORE", f"{t}:sorted"),
        lambda t, r: ("LRANGE", f"{t}:cart", 0, -1),
        lambda t, r: ("SADD", f"{t}:tags", *(r.randrange(60) for _ in range(4))),
        lambda t, r: ("SREM", f"{t}:tags", r.randrange(60)),
        lambda t, r: ("SPOP", f"{t}:tags"),
        lambda t, r: ("SMOVE", f"{t}:tags", f"{t}:old", r.randrange(60)),
        lambda t, r: ("SUNIONSTORE", f"{t}:both", f"{t}:tags", f"{t}:old"),
        lambda t, r: ("UNLINK", f"{t}:both", f"{t}:sorted"),
    )


def _others() -> Sequence[Operation]:
    return (
        lambda t, r: ("HSET", f"{t}:profile", f"field {r.randrange(30)}", r.random()),
        lambda t, r: ("HINCRBY", f"{t}:profile", "visits", 1),
        lambda t, r: ("HDEL", f"{t}:profile", f"field {r.randrange(30)}"),
        lambda t, r: ("HGETALL", f"{t}:profile"),
        lambda t, r: ("ZADD", f"{t}:board", r.random(), r.randrange(60)),
        lambda t, r: ("ZINCRBY", f"{t}:board", 1.5, r.randrange(60)),
        lambda t, r: ("ZPOPMIN", f"{t}:board"),
        lambda t, r: ("ZREMRANGEBYRANK", f"{t}:board", 0, -_ENTRIES - 1),
        lambda t, r: ("ZRANGESTORE", f"{t}:top", f"{t}:board", 0, 4, "REV"),
        lambda t, r: ("ZUNIONSTORE", f"{t}:sum", 2, f"{t}:board", f"{t}:top"),
        lambda t, r: ("GEOADD", f"{t}:places", r.randrange(100), r.randrange(50), r.randrange(9)),
        lambda t, r: ("XADD", f"{t}:mail", "MAXLEN", _ENTRIES, "*", "text", r.random()),
        lambda t, r: ("XADD", f"{t}:mail", "*", "text", r.random(), "more", "x" * 50),
        lambda t, r: ("XAUTOCLAIM", f"{t}:mail", "mailers", "sweeper", 500, "0", "COUNT", 3),
        lambda t, r: ("XTRIM", f"{t}:mail", "MAXLEN", _ENTRIES),
        lambda t, r: ("EXPIRE", f"{t}:{r.choice(('tags', 'board', 'saved', 'old'))}", r.randrange(1, 30)),
    )


def _field_ttls() -> Sequence[Operation]:
    return (
        lambda t, r: (
            "HPEXPIRE",
            f"{t}:profile",
            r.randrange(1, 5000),
            "FIELDS",
            1,
            f"field {r.randrange(30)}",
        ),
        lambda t, r: ("HPERSIST", f"{t}:profile", "FIELDS", 1, f"field {r.randrange(30)}"),
    )


OPERATIONS: dict[str, Sequence[Operation]] = {
    "all": (*_strings(), *_lists_and_sets(), *_others()),
    "field ttls": _field_ttls(),
}
"""What a visitor may do, and what only where fields of hashes can expire."""


def visit(user: int, rng: random.Random, operations: Sequence[Operation]) -> Iterator[Words]:
    """Yield the commands of one visit."""
    tag = f"{{user:{user}}}"
    for operation in rng.choices(operations, k=_AT_ONCE):
        yield operation(tag, rng)


def fill_commands(user: int) -> Iterator[Words]:
    """Yield what makes a user."""
    tag = f"{{user:{user}}}"
    yield "SET", f"{tag}:name", f"name {user}"
    yield "RPUSH", f"{tag}:cart", "apple", "pear", user
    yield "HSET", f"{tag}:profile", "mail", f"user{user}@example.org", "visits", 0
    yield "SADD", f"{tag}:tags", 1, 2, 3
    yield "ZADD", f"{tag}:board", 1, "apple", 2, "pear"
    yield "XGROUP", "CREATE", f"{tag}:mail", "mailers", "0", "MKSTREAM"
