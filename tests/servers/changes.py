"""A change of a key by every command that writes: for what has to notice changes, whichever they are.

Invariant: each change alters what its preparation has made, so that a copy of before is a stale one.
A word `K`, `K2` or `K3` of a command stands for a key; keys of one change lie in one slot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_STREAM = (
    "XADD K 1-1 f v", "XADD K 2-1 f v", "XADD K 3-1 f v", "XADD K 4-1 f v", "XGROUP CREATE K g 0",
    "XGROUP CREATE K h 0", "XREADGROUP GROUP g alice COUNT 2 STREAMS K >",
)  # fmt: skip
PREPARED: dict[str, tuple[str, ...]] = {
    "string": ("SET K 5",),
    "ttl": ("SET K 5 EX 10000",),
    "list": ("RPUSH K a b c a", "RPUSH K2 x"),
    "set": ("SADD K a b c", "SADD K2 b"),
    "zset": ("ZADD K 1 a 1 b 1 c", "ZADD K2 1 b"),
    "geo": ("GEOADD K 1 1 a 2 2 b", "GEOADD K2 1 1 c"),
    "hash": ("HSET K f 1 g 2",),
    "field": ("HSET K f 1 g 2", "HEXPIRE K 10000 FIELDS 1 f"),
    "log": ("PFADD K a b", "PFADD K2 c"),
    "stream": _STREAM,
    "vectors": ("VADD K VALUES 2 1 0 a", "VADD K VALUES 2 0 1 b"),
}

CHANGES: dict[str, tuple[tuple[str, str], ...]] = {
    "append": (("string", "APPEND K x"),),
    "bitfield": (("string", "BITFIELD K SET u8 0 1"),),
    "bitop": (("string", "BITOP NOT K K"),),
    "blmove": (("list", "BLMOVE K K2 LEFT RIGHT 1"), ("list", "BLMOVE K2 K LEFT RIGHT 1")),
    "blmpop": (("list", "BLMPOP 1 1 K LEFT"),),
    "blpop": (("list", "BLPOP K 1"),),
    "brpop": (("list", "BRPOP K 1"),),
    "brpoplpush": (("list", "BRPOPLPUSH K K2 1"),),
    "bzmpop": (("zset", "BZMPOP 1 1 K MIN"),),
    "bzpopmax": (("zset", "BZPOPMAX K 1"),),
    "bzpopmin": (("zset", "BZPOPMIN K 1"),),
    "copy": (("list", "COPY K2 K REPLACE"), ("stream", "COPY K K2")),
    "decr": (("string", "DECR K"),),
    "decrby": (("string", "DECRBY K 2"),),
    "del": (("string", "DEL K"), ("stream", "DEL K")),
    "delex": (("string", "DELEX K IFEQ 5"),),
    "delifeq": (("string", "DELIFEQ K 5"),),
    "expire": (("string", "EXPIRE K 10000"), ("stream", "EXPIRE K 10000"), ("hash", "EXPIRE K -1")),
    "expireat": (("string", "EXPIREAT K 4000000000"),),
    "flushall": (("string", "FLUSHALL"),),
    "flushdb": (("string", "FLUSHDB ASYNC"),),
    "geoadd": (("geo", "GEOADD K 3 3 c"),),
    "georadius": (("geo", "GEORADIUS K2 1 1 100 km STORE K"),),
    "georadiusbymember": (("geo", "GEORADIUSBYMEMBER K2 c 100 km STORE K"),),
    "geosearchstore": (("geo", "GEOSEARCHSTORE K K2 FROMMEMBER c BYRADIUS 100 km"),),
    "getdel": (("string", "GETDEL K"),),
    "getex": (("string", "GETEX K EX 10000"), ("ttl", "GETEX K PERSIST")),
    "getset": (("string", "GETSET K x"),),
    "hdel": (("hash", "HDEL K f"), ("field", "HDEL K f")),
    "hexpire": (("hash", "HEXPIRE K 10000 FIELDS 1 f"), ("field", "HEXPIRE K 20000 FIELDS 1 f")),
    "hexpireat": (("hash", "HEXPIREAT K 4000000000 FIELDS 1 f"), ("hash", "HEXPIREAT K 1 FIELDS 1 f")),
    "hgetdel": (("hash", "HGETDEL K FIELDS 1 f"), ("field", "HGETDEL K FIELDS 1 f")),
    "hgetex": (("hash", "HGETEX K EX 10000 FIELDS 1 f"), ("field", "HGETEX K PERSIST FIELDS 1 f")),
    "hincrby": (("hash", "HINCRBY K f 1"),),
    "hincrbyfloat": (("hash", "HINCRBYFLOAT K f 1.5"),),
    "hmset": (("hash", "HMSET K f 3"),),
    "hpersist": (("field", "HPERSIST K FIELDS 1 f"),),
    "hpexpire": (("hash", "HPEXPIRE K 10000000 FIELDS 1 f"), ("field", "HPEXPIRE K 0 FIELDS 1 f")),
    "hpexpireat": (("hash", "HPEXPIREAT K 4000000000000 FIELDS 1 f"),),
    "hset": (("hash", "HSET K h 3"), ("field", "HSET K f 1")),
    "hsetex": (("hash", "HSETEX K EX 10000 FIELDS 1 f 3"), ("field", "HSETEX K KEEPTTL FIELDS 1 f 3")),
    "hsetnx": (("hash", "HSETNX K h 3"),),
    "incr": (("string", "INCR K"),),
    "incrby": (("string", "INCRBY K 2"),),
    "incrbyfloat": (("string", "INCRBYFLOAT K 1.5"),),
    "linsert": (("list", "LINSERT K BEFORE b x"),),
    "lmove": (("list", "LMOVE K K2 LEFT LEFT"), ("list", "LMOVE K2 K LEFT LEFT")),
    "lmpop": (("list", "LMPOP 1 K LEFT"),),
    "lpop": (("list", "LPOP K"), ("list", "LPOP K 4")),
    "lpush": (("list", "LPUSH K x"),),
    "lpushx": (("list", "LPUSHX K x"),),
    "lrem": (("list", "LREM K 0 a"),),
    "lset": (("list", "LSET K 1 x"),),
    "ltrim": (("list", "LTRIM K 1 2"),),
    "mset": (("string", "MSET K x K2 y"),),
    "msetex": (("string", "MSETEX 2 K x K2 y EX 10000"),),
    "msetnx": (("string", "MSETNX K2 x K3 y"),),
    "persist": (("ttl", "PERSIST K"),),
    "pexpire": (("string", "PEXPIRE K 10000000"),),
    "pexpireat": (("string", "PEXPIREAT K 4000000000000"),),
    "pfadd": (("log", "PFADD K x y z"),),
    "pfcount": (("log", "PFCOUNT K"),),
    "pfmerge": (("log", "PFMERGE K K2"),),
    "psetex": (("string", "PSETEX K 10000000 x"),),
    "rename": (("list", "RENAME K2 K"), ("stream", "RENAME K K2")),
    "renamenx": (("string", "RENAMENX K K3"),),
    "rpop": (("list", "RPOP K"),),
    "rpoplpush": (("list", "RPOPLPUSH K K2"),),
    "rpush": (("list", "RPUSH K x"),),
    "rpushx": (("list", "RPUSHX K x"),),
    "sadd": (("set", "SADD K x"),),
    "sdiffstore": (("set", "SDIFFSTORE K K K2"),),
    "set": (("string", "SET K x"), ("stream", "SET K x"), ("string", "SET K 5 EX 10000")),
    "setbit": (("string", "SETBIT K 7 0"),),
    "setex": (("string", "SETEX K 10000 x"),),
    "setnx": (("string", "SETNX K2 x"),),
    "setrange": (("string", "SETRANGE K 1 x"),),
    "sinterstore": (("set", "SINTERSTORE K K K2"),),
    "smove": (("set", "SMOVE K K2 a"), ("set", "SMOVE K2 K b")),
    "sort": (("list", "SORT K ALPHA STORE K"),),
    "spop": (("set", "SPOP K"), ("set", "SPOP K 3")),
    "srem": (("set", "SREM K a"),),
    "sunionstore": (("set", "SUNIONSTORE K K2"),),
    "unlink": (("string", "UNLINK K"),),
    "vadd": (("vectors", "VADD K VALUES 2 1 1 c"), ("vectors", "VADD K VALUES 2 1 1 a")),
    "vrem": (("vectors", "VREM K a"),),
    "vsetattr": (("vectors", "VSETATTR K a {}"),),
    "xack": (("stream", "XACK K g 1-1"), ("stream", "XACK K g 1-1 2-1")),
    "xackdel": (("stream", "XACKDEL K g IDS 1 1-1"),),
    "xadd": (("stream", "XADD K 5-1 f v"),),
    "xautoclaim": (("stream", "XAUTOCLAIM K g bob 0 0"),),
    "xcfgset": (("stream", "XCFGSET K IDMP-DURATION 200"),),
    "xclaim": (("stream", "XCLAIM K g bob 0 1-1"), ("stream", "XCLAIM K h bob 0 1-1 FORCE JUSTID")),
    "xdelex": (("stream", "XDELEX K DELREF IDS 1 1-1"),),
    "xdel": (("stream", "XDEL K 1-1"),),
    "xgroup|create": (("stream", "XGROUP CREATE K another 0"), ("string", "XGROUP CREATE K2 g 0 MKSTREAM")),
    "xgroup|createconsumer": (("stream", "XGROUP CREATECONSUMER K g bob"),),
    "xgroup|delconsumer": (("stream", "XGROUP DELCONSUMER K g alice"),),
    "xgroup|destroy": (("stream", "XGROUP DESTROY K g"),),
    "xgroup|setid": (("stream", "XGROUP SETID K g 1-1"),),
    "xreadgroup": (
        ("stream", "XREADGROUP GROUP g bob COUNT 1 STREAMS K >"),
        ("stream", "XREADGROUP GROUP g bob NOACK STREAMS K >"),
        ("stream", "XREADGROUP GROUP g alice STREAMS K 0"),
    ),
    "xsetid": (("stream", "XSETID K 9-9"),),
    "xtrim": (("stream", "XTRIM K MAXLEN 1"),),
    "zadd": (("zset", "ZADD K 3 a"),),
    "zdiffstore": (("zset", "ZDIFFSTORE K 2 K K2"),),
    "zincrby": (("zset", "ZINCRBY K 1 a"),),
    "zinterstore": (("zset", "ZINTERSTORE K 2 K K2"),),
    "zmpop": (("zset", "ZMPOP 1 K MIN"),),
    "zpopmax": (("zset", "ZPOPMAX K"),),
    "zpopmin": (("zset", "ZPOPMIN K 3"),),
    "zrangestore": (("zset", "ZRANGESTORE K K2 0 -1"),),
    "zrem": (("zset", "ZREM K a"),),
    "zremrangebylex": (("zset", "ZREMRANGEBYLEX K [a [b"),),
    "zremrangebyrank": (("zset", "ZREMRANGEBYRANK K 0 0"),),
    "zremrangebyscore": (("zset", "ZREMRANGEBYSCORE K 1 1"),),
    "zunionstore": (("zset", "ZUNIONSTORE K 1 K2"),),
}
"""By name in the COMMAND table: what is prepared, and a command."""

_SCRIPT = "return redis.call('XACK',KEYS[1],'g','1-1')"
_LIBRARY = (
    "#!lua name=changes\nredis.register_function('change',"
    "function(keys) return redis.call('XACK',keys[1],'g','1-1') end)"
)

OTHERWISE = {
    "eval": "see `changes`",
    "evalsha": "see `changes`",
    "restore": "see `changes`",
    "restore-asking": "see `changes`",
    "migrate": "moves a key; nothing changes",
    "move": "a cluster refuses it, or moves a key to another database",
    "swapdb": "a cluster refuses it",
    "cluster|flushslot": "empties slots of a cluster",
    "trimslots": "empties slots of a cluster",
    "xidmprecord": "what a server writes to its AOF beside an XADD",
    "function|delete": "no key",
    "function|flush": "no key",
    "function|load": "no key",
    "function|restore": "no key",
    "pfdebug": "changes how a value is laid out, not the value",
    "publish": "no key",
    "spublish": "no key",
    "script": "no key",
}
"""Commands that may write and are not in `CHANGES`, and why."""


@dataclass(frozen=True)
class Change:
    """What is prepared, and the commands that change it; words that are keys stand as `K`, `K2`, `K3`."""

    prepared: str
    commands: tuple[tuple[bytes | str | int, ...], ...]

    def __str__(self) -> str:
        return " ; ".join(" ".join(str(word) for word in command) for command in self.commands)


def writing_commands(connection: Any) -> set[str]:
    """Return the names of all commands that may write, by the server's COMMAND table; `name|subcommand`."""
    found: set[str] = set()

    def walk(rows: list[Any]) -> None:
        for row in rows:
            if len(row) > 9 and row[9]:
                walk(row[9])
            elif {b"write", b"may_replicate"} & set(row[2]):
                found.add(row[0].decode().lower())

    walk(connection.execute("COMMAND"))
    if "xgroup" in found:  # Redis 6.2 lists no subcommands
        found.remove("xgroup")
        found |= {name for name in CHANGES if name.startswith("xgroup|")}
    return found


def changes(known: set[str], payload: bytes) -> Iterator[Change]:
    """Return the changes by those commands, by scripts and in a transaction; `payload` is another value."""
    for name, ways in CHANGES.items():
        if name in known or name == "pfcount":
            for prepared, command in ways:
                if prepared != "field" or "hexpire" in known:
                    yield Change(prepared, (tuple(command.split()),))
    for name in ("RESTORE", "RESTORE-ASKING"):
        for prepared in ("string", "stream"):
            yield Change(prepared, ((name, "K", 0, payload, "REPLACE"),))
    yield Change("string", (("DEL", "K"), ("XGROUP", "CREATE", "K", "g", 0, "MKSTREAM")))
    yield Change("stream", (("MULTI",), ("XACK", "K", "g", "1-1"), ("EXEC",)))
    yield Change("stream", (("EVAL", _SCRIPT, 1, "K"),))
    digest = hashlib.sha1(_SCRIPT.encode()).hexdigest()
    yield Change("stream", (("SCRIPT", "LOAD", _SCRIPT), ("EVALSHA", digest, 1, "K")))
    if "function|load" in known:
        yield Change("stream", (("FUNCTION", "LOAD", "REPLACE", _LIBRARY), ("FCALL", "change", 1, "K")))
