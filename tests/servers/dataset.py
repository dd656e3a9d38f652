"""A keyspace of every type and shape, the same for the same seed.

Invariant: keys, values and which keys have a TTL depend on `seed` and `keys` alone; only the expiry times
move with the clock, hours ahead, so that nothing expires during a test unless the test asks for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from tests.servers.raw import RawConnection, chunked, encode

_HOUR_MS = 3_600_000
_MEGABYTE = 1_000_000

Shape = tuple[str, list[bytes]]
"""A key and the encoded commands that build it."""

ODD_KEYS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"with spaces in it",
    b"nul\x00in the middle",
    b"\x00",
    b"line\r\nbreak",
    b"\r\n",
    b"$5\r\nhello\r\n",
    b"\xff\xfe invalid utf-8 \x80",
    bytes(range(256)),
    "Ω≈ç√ 鍵 🔑".encode(),
    b"{}",
    b"{}empty tag",
    b"}{",
    b"{",
    b"}",
    b"{open",
    b"{tag}",
    b"{tag}one",
    b"{tag}two{other}",
    b"a{tag}b",
    b"{{nested}}",
    b"{a}{b}",
    b"foo{}{bar}",
    b'quote"and\\backslash',
    b"*?[a-z]",
    b"k" * 65_536,
    b"{" + b"t" * 5_000 + b"}long tag",
)
"""Names that a careless client mangles: one string key each."""


def fill(
    connection: RawConnection, keys: int, *, seed: int = 1, big: bool = True, field_ttls: bool = False
) -> int:
    """Write about `keys` keys and return how many there are now in this database.

    The odd names and the shapes come first (some 150 keys whatever `keys` is), then mostly strings with every
    other type mixed in. `big` adds values of 1 MB and collections of 20,000 members; `field_ttls` adds hashes
    whose fields expire (Redis 7.4, Valkey 9 and later).
    """
    rng = random.Random(seed)
    now = int(time.time() * 1000)
    for chunk in chunked(_everything(rng, keys, now, big=big, field_ttls=field_ttls)):
        connection.pipeline_checked(chunk)
    return int(connection.execute("DBSIZE"))


def fill_strings(connection: RawConnection, keys: int, *, value_size: int = 100, seed: int = 1) -> None:
    """Write `keys` strings of `value_size` random bytes, `key:0` and on: the benchmark's keyspace."""
    blob = random.Random(seed).randbytes(value_size + (1 << 20))
    span = len(blob) - value_size
    for chunk in chunked(
        _set(b"key:%d" % i, blob[(at := i * 7919 % span) : at + value_size]) for i in range(keys)
    ):
        connection.pipeline_checked(chunk)


def _everything(rng: random.Random, keys: int, now: int, *, big: bool, field_ttls: bool) -> Iterator[bytes]:
    yield from _odd_names()
    for suffix in ("", ":ttl"):
        for key, commands in _shapes(rng, suffix):
            yield from commands
            if suffix:
                yield encode("PEXPIREAT", key, now + rng.randrange(1, 100) * _HOUR_MS)
    if big:
        yield from _big_values(rng)
    if field_ttls:
        yield from _field_ttls(now)
    yield from _bulk(rng, keys, now)


def _odd_names() -> Iterator[bytes]:
    for name in ODD_KEYS:
        yield _set(name, b"odd " + name[:100])
        yield encode("SET", b"with a TTL " + name, "odd", "PX", 10 * _HOUR_MS)


def _shapes(rng: random.Random, suffix: str) -> Iterator[Shape]:
    """Yield a key of every type in every encoding, with the commands that build it."""
    for family in (_strings, _lists, _sets, _sorted_sets, _hashes, _streams, _sketches):
        yield from family(rng, suffix)


def _strings(rng: random.Random, suffix: str) -> Iterator[Shape]:
    values: dict[str, bytes | str | int] = {
        "empty": b"",
        "embedded": b"short text",
        "raw": rng.randbytes(300),
        "compressible": b"abcabcabc" * 500,
        "crlf": b"\r\n" * 40 + b"\x00",
        "int:0": 0,
        "int:small": 127,
        "int:8": -128,
        "int:16": 32_767,
        "int:32": -2_147_483_648,
        "int:64": 9_223_372_036_854_775_807,
        "int:too long": "123456789012345678901234567890",
        "int:leading zero": "007",
        "float": "3.0e-5",
    }
    for name, value in values.items():
        key = f"string:{name}{suffix}"
        yield key, [encode("SET", key, value)]


def _lists(rng: random.Random, suffix: str) -> Iterator[Shape]:
    elements: dict[str, list[bytes | str | int]] = {
        "one": [b""],
        "ints": list(range(-50, 50)),
        "mixed": ["text", 1, b"\x00\xff", b"", 2**40, rng.randbytes(200)],
        "repeated": ["same"] * 300,
        "many nodes": [rng.randbytes(60) for _ in range(1_000)],
        "large element": [rng.randbytes(20_000), "small", b"z" * 20_000],
    }
    for name, members in elements.items():
        key = f"list:{name}{suffix}"
        yield key, [encode("RPUSH", key, *members)]


def _sets(rng: random.Random, suffix: str) -> Iterator[Shape]:
    members: dict[str, list[bytes | str | int]] = {
        "intset:16": list(range(100)),
        "intset:32": [70_000 + i for i in range(100)],
        "intset:64": [-(2**40) - i for i in range(100)],
        "listpack": ["a", b"\x00", b"", 7, "long " * 10],
        "hashtable": [rng.randbytes(12) for _ in range(600)],
        "hashtable:long member": ["x" * 100, "y"],
        "ints past the intset": list(range(1_000)),
    }
    for name, values in members.items():
        key = f"set:{name}{suffix}"
        yield key, [encode("SADD", key, *values)]


def _sorted_sets(rng: random.Random, suffix: str) -> Iterator[Shape]:
    scores: dict[str, list[bytes | str | int]] = {
        "listpack": ["1", "one", "2.5", "two and a half", "-0.1", b"\x00"],
        "infinite": ["inf", "top", "-inf", "bottom", "0", "middle"],
        "fractions": ["0.1", "a", "1e-300", "b", "1.7976931348623157e308", "c", "3.141592653589793", "d"],
        "equal scores": [part for i in range(50) for part in (1, f"m{i}")],
        "skiplist": [part for i in range(400) for part in (repr(rng.uniform(-1e6, 1e6)), f"member {i}")],
        "long member": ["1", "m" * 100],
    }
    for name, pairs in scores.items():
        key = f"zset:{name}{suffix}"
        yield key, [encode("ZADD", key, *pairs)]


def _hashes(rng: random.Random, suffix: str) -> Iterator[Shape]:
    fields: dict[str, list[bytes | str | int]] = {
        "listpack": ["field", "value", b"\x00", b"\xff", "", "", "number", 12345],
        "hashtable": [part for i in range(700) for part in (f"field {i}", rng.randbytes(10))],
        "long value": ["field", "v" * 5_000],
    }
    for name, pairs in fields.items():
        key = f"hash:{name}{suffix}"
        yield key, [encode("HSET", key, *pairs)]


def _streams(rng: random.Random, suffix: str) -> Iterator[Shape]:
    plain, grouped, emptied = (f"stream:{name}{suffix}" for name in ("plain", "grouped", "emptied"))
    yield plain, [encode("XADD", plain, f"{i}-{i % 3}", "f", i, b"\x00", b"\r\n") for i in range(1, 300)]
    yield (
        grouped,
        [
            *(encode("XADD", grouped, f"{1000 + i}-0", "n", i, "data", rng.randbytes(8)) for i in range(250)),
            encode("XGROUP", "CREATE", grouped, "readers", "0"),
            encode("XGROUP", "CREATE", grouped, "idle", "$"),
            encode("XGROUP", "CREATE", grouped, b"odd \x00 name", "1100-0"),
            encode("XREADGROUP", "GROUP", "readers", "alice", "COUNT", 40, "STREAMS", grouped, ">"),
            encode("XREADGROUP", "GROUP", "readers", "bob", "COUNT", 30, "STREAMS", grouped, ">"),
            encode("XACK", grouped, "readers", "1001-0", "1003-0", "1045-0"),
            encode("XDEL", grouped, "1002-0", "1050-0", "1200-0", "1249-0"),  # pending ones among them
            encode("XGROUP", "CREATECONSUMER", grouped, "idle", "no reads yet"),
            encode(
                "XCLAIM", grouped, "readers", "carol", 0, "1005-0", "TIME", 1_700_000_000_000, "RETRYCOUNT", 9
            ),
        ],
    )
    mixed = f"stream:mixed fields{suffix}"
    yield (
        mixed,
        [
            encode("XADD", mixed, "1-1", "a", 1, "b", 2),
            encode("XADD", mixed, "1-2", "a", 1, "b", "x" * 70),
            encode("XADD", mixed, "2-0", "other", rng.randbytes(5_000)),
            encode("XADD", mixed, "9-18446744073709551615", "a", "", "b", b"\x00"),
            encode("XADD", mixed, "10-0", "a", -5, "b", 2**40),
            encode("XDEL", mixed, "1-2"),
        ],
    )
    yield (
        emptied,
        [
            encode("XADD", emptied, "5-5", "gone", "soon"),
            encode("XGROUP", "CREATE", emptied, "g", "0"),
            encode("XDEL", emptied, "5-5"),
        ],
    )


def _sketches(rng: random.Random, suffix: str) -> Iterator[Shape]:
    sparse, dense, bitmap = f"hll:sparse{suffix}", f"hll:dense{suffix}", f"bitmap:wide{suffix}"
    yield sparse, [encode("PFADD", sparse, *range(50))]
    yield dense, [encode("PFADD", dense, *(rng.getrandbits(60) for _ in range(20_000)))]
    yield bitmap, [encode("SETBIT", bitmap, rng.randrange(200_000), 1) for _ in range(100)]


def _big_values(rng: random.Random) -> Iterator[bytes]:
    yield _set(b"big:random", rng.randbytes(_MEGABYTE))
    yield _set(b"big:compressible", b"0123456789" * (_MEGABYTE // 10))
    yield _set(b"long name:" + b"k" * _MEGABYTE, b"value")
    members = [b"member %d" % i for i in range(20_000)]
    scored = [part for i, member in enumerate(members) for part in (b"%d" % i, member)]
    yield encode("SADD", "big:set", *members)
    yield encode("RPUSH", "big:list", *members)
    yield encode("ZADD", "big:zset", *scored)
    yield encode("HSET", "big:hash", *scored)


def _field_ttls(now: int) -> Iterator[bytes]:
    for name, size in (("small", 5), ("hashtable", 600)):
        key = f"hash:field TTLs:{name}"
        yield encode("HSET", key, *(part for i in range(size) for part in (f"f{i}", i)))
        yield encode("HPEXPIREAT", key, now + 50 * _HOUR_MS, "FIELDS", 2, "f1", "f3")
        yield encode("HPEXPIREAT", key, now + 70 * _HOUR_MS + 7, "FIELDS", 1, "f4")
    yield encode("HSET", "hash:field TTLs:all", "", "empty", b"\x00\xff", "odd", "number", 12345)
    yield encode("HPEXPIREAT", "hash:field TTLs:all", now + _HOUR_MS, "FIELDS", 3, "", b"\x00\xff", "number")
    yield encode("PEXPIREAT", "hash:field TTLs:all", now + 90 * _HOUR_MS)


def _bulk(rng: random.Random, keys: int, now: int) -> Iterator[bytes]:
    """Yield `keys` small keys: 7 in 10 are strings, 3 in 10 of all have a TTL."""
    blob = rng.randbytes(1 << 16)
    for i in range(keys):
        draw = rng.getrandbits(32)
        at = draw & 0x7FFF
        key = (b"user:%d" if draw & 0x8000 else b"{group:%d}:item") % i
        yield _small_key(draw >> 16, key, blob[at : at + 8 + (draw >> 24)], i)
        if draw % 10 < 3:
            yield b"*3\r\n$9\r\nPEXPIREAT\r\n$%d\r\n%b\r\n$13\r\n%d\r\n" % (
                len(key),
                key,
                now + _HOUR_MS + draw % (1000 * _HOUR_MS),
            )


def _small_key(draw: int, key: bytes, value: bytes, number: int) -> bytes:
    pick = draw % 20
    if pick < 12:
        return _set(key, value)
    if pick < 14:
        return _set(key, b"%d" % (number * 977))
    if pick == 14:
        return encode("RPUSH", key, value[:9], number, "element")
    if pick == 15:
        return encode("SADD", key, number, number + 1, draw)
    if pick == 16:
        return encode("ZADD", key, f"{draw}.25", "first", f"-{number}", value)
    if pick == 17:
        return encode("HSET", key, "id", number, "data", value)
    if pick == 18:
        return encode("XADD", key, f"{number + 1}-1", "n", number, "data", value[:40])
    return encode("PFADD", key, number) if draw & 0x8000 else encode("SETBIT", key, draw % 5_000, 1)


def _set(key: bytes, value: bytes) -> bytes:
    return b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value)
