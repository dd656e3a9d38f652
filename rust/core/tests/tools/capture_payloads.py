"""Capture DUMP payloads of the same values from several servers, as the fixture of `tests/payload.rs`.

Invariant: a name stands for one value, whichever server and settings wrote it, and no two names for the same.
What can't be set to a fixed value (the order of hash tables, when a consumer was seen) is no part of a value.

    python capture_payloads.py fixtures/payloads.txt /path/to/redis-server /path/to/valkey-server ...

Needs redis-py. Each server runs on a Unix socket in a temporary folder, once for each of `LAYOUTS`, and is
gone afterwards. A line of the fixture is `<server>-<version>/<layout> <name> <payload in hex>`. Lines of
`built` hold encodings that no server writes any more, put together here and taken over only if every server
loads them.
"""

import argparse
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

Command: TypeAlias = tuple[bytes | str | int | float, ...]

FAR = 4_102_444_800_000  # 2100-01-01, in milliseconds: nothing expires while the fixture is in use
FOOTER_LENGTH = 10  # RDB version and CRC64
START_SECONDS = 20

LAYOUTS: dict[str, dict[str, str | int]] = {
    # As much as possible in packed encodings, compressed.
    "packed": {
        "rdbcompression": "yes",
        "list-max-ziplist-size": -1,
        "list-compress-depth": 1,
        "set-max-intset-entries": 1000,
        "set-max-listpack-entries": 1000,
        "set-max-listpack-value": 1000,
        "zset-max-ziplist-entries": 1000,
        "zset-max-ziplist-value": 1000,
        "hash-max-ziplist-entries": 1000,
        "hash-max-ziplist-value": 1000,
        "stream-node-max-entries": 100,
    },
    # As little as possible, uncompressed.
    "loose": {
        "rdbcompression": "no",
        "list-max-ziplist-size": 3,
        "list-compress-depth": 0,
        "set-max-intset-entries": 0,
        "set-max-listpack-entries": 0,
        "set-max-listpack-value": 0,
        "zset-max-ziplist-entries": 0,
        "zset-max-ziplist-value": 0,
        "hash-max-ziplist-entries": 0,
        "hash-max-ziplist-value": 0,
        "stream-node-max-entries": 7,
    },
}
LARGE_ELEMENT = 500  # bytes; the size from which the loose layout keeps a list's element in its own node

INTEGERS = [0, 1, -1, 12, 13, 127, 128, -128, -129, 4095, 4096, -4096, -4097, 32_767, 32_768, -32_769]
INTEGERS += [8_388_607, 8_388_608, -8_388_609, 2**31 - 1, 2**31, -(2**31) - 1, 2**63 - 1, -(2**63)]
ODD_BYTES = [b"", b"\x00", b"\r\n", b"\xff\xfe", b"{a}b", bytes(range(256))]
WORDS = [f"word:{number % 7}:{number}" for number in range(130)]


def values() -> dict[str, list[Command]]:
    """Return the commands that make each value, in the key `k`, on every server."""
    return strings() | lists() | sets() | sorted_sets() | hashes() | streams()


def strings() -> dict[str, list[Command]]:
    """Return strings in every encoding, bitmaps and HyperLogLogs."""
    plain: dict[str, bytes | str] = {
        "empty": b"",
        "text": "text",
        "leading-zero": "007",
        "beyond-int64": "9223372036854775808",
        "all-bytes": bytes(range(256)),
        "repetitive": b"slot" * 1000,
        "long-runs": b"".join(bytes([byte]) * 300 for byte in range(10)),
    }
    plain |= {f"int:{number}": str(number) for number in INTEGERS}
    made: dict[str, list[Command]] = {f"string-{name}": [("SET", "k", text)] for name, text in plain.items()}
    made["string-bitmap"] = [("SETBIT", "k", bit, 1) for bit in (0, 7, 8, 4095, 20_000)]
    made["string-hll-sparse"] = [("PFADD", "k", *WORDS)]
    made["string-hll-dense"] = [("CONFIG", "SET", "hll-sparse-max-bytes", 0), ("PFADD", "k", *WORDS)]
    return made


def lists() -> dict[str, list[Command]]:
    """Return lists with small, large, numeric and odd elements."""
    return {
        "list-one": [("RPUSH", "k", "only")],
        "list-integers": [("RPUSH", "k", *INTEGERS)],
        "list-reversed": [("LPUSH", "k", *INTEGERS)],
        "list-odd-bytes": [("RPUSH", "k", *ODD_BYTES)],
        "list-words": [("RPUSH", "k", *WORDS)],
        "list-large": [("RPUSH", "k", "a" * 70, "b" * 1000, "c" * 2500, *range(9), "d" * 600)],
        "list-nodes": [("RPUSH", "k", *(f"{number % 3}" * 400 for number in range(15)))],
    }


def sets() -> dict[str, list[Command]]:
    """Return sets of integers of every width, of text and of both."""
    return {
        "set-int16": [("SADD", "k", *range(-50, 50))],
        "set-int32": [("SADD", "k", *range(99_990, 100_010), -(2**31))],
        "set-int64": [("SADD", "k", *INTEGERS)],
        "set-mixed": [("SADD", "k", "a", "b", *range(20))],
        "set-odd-bytes": [("SADD", "k", *ODD_BYTES)],
        "set-words": [("SADD", "k", *WORDS)],
    }


def sorted_sets() -> dict[str, list[Command]]:
    """Return sorted sets with integers, fractions, extremes and infinities for scores."""
    scores: list[float | str] = [
        0.1,
        1 / 3,
        -2.5,
        1e300,
        -1e-300,
        5e-324,
        2.0**53,
        3.141592653589793,
        1e17,
        "inf",
        "-inf",
    ]
    return {
        "zset-integers": [("ZADD", "k", number, f"m{number}") for number in INTEGERS[:-2]],
        "zset-numeric-members": [("ZADD", "k", number / 2, number) for number in range(-5, 25)],
        "zset-fractions": [("ZADD", "k", score, f"m:{index}") for index, score in enumerate(scores)],
        "zset-odd-bytes": [("ZADD", "k", index, member) for index, member in enumerate(ODD_BYTES)],
        "zset-words": [("ZADD", "k", index / 10, word) for index, word in enumerate(WORDS)],
        "zset-geo": [("GEOADD", "k", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")],
    }


def hashes() -> dict[str, list[Command]]:
    """Return hashes with small, large, numeric and odd fields."""
    return {
        "hash-one": [("HSET", "k", "f", "v")],
        "hash-integers": [("HSET", "k", *pairs(INTEGERS, reversed(INTEGERS)))],
        "hash-odd-bytes": [("HSET", "k", *pairs(ODD_BYTES, reversed(ODD_BYTES)))],
        "hash-words": [("HSET", "k", *pairs(WORDS, range(1000)))],
        "hash-large": [("HSET", "k", "f", "v" * 600, "g" * 300, "w", "h", "x" * 1500)],
    }


def expiring_hashes() -> dict[str, list[Command]]:
    """Return hashes whose fields expire, for servers that have HPEXPIREAT."""
    hset: Command = ("HSET", "k", "a", 1, "b", "two", "c", "")
    return {
        "hash-expiring-one": [hset, ("HPEXPIREAT", "k", FAR, "FIELDS", 1, "b")],
        "hash-expiring-later": [hset, ("HPEXPIREAT", "k", FAR + 1, "FIELDS", 1, "b")],
        "hash-expiring-all": [hset, ("HPEXPIREAT", "k", FAR, "FIELDS", 3, "a", "b", "c")],
        "hash-expiring-kept": [
            hset,
            ("HPEXPIREAT", "k", FAR, "FIELDS", 1, "b"),
            ("HPERSIST", "k", "FIELDS", 1, "b"),
        ],
    }


def streams() -> dict[str, list[Command]]:
    """Return streams with deletions, trimming, groups, consumers and pending entries."""
    same: list[Command] = [("XADD", "k", f"1000-{seq}", "a", seq, "b", f"t{seq}") for seq in range(1, 31)]
    unlike: list[Command] = [
        ("XADD", "k", "5-9", "n", -1),
        ("XADD", "k", "5-10", "n", 2**63 - 1, "extra", b"\x00\xff"),
        ("XADD", "k", "70000000000-1", *pairs(WORDS[:20], range(20))),
        ("XADD", "k", f"{FAR}-{2**64 - 1}", "", ""),
    ]
    return {
        "stream-same-fields": same,
        "stream-unlike-fields": unlike,
        "stream-deleted": [*same, ("XDEL", "k", "1000-1", "1000-7", "1000-30")],
        "stream-trimmed": [*same, ("XTRIM", "k", "MAXLEN", 4)],
        "stream-emptied": [("XADD", "k", "1-1", "f", "v"), ("XDEL", "k", "1-1")],
        "stream-last-id": [("XADD", "k", "1-1", "f", "v"), ("XSETID", "k", "99-1")],
        "stream-group": [("XGROUP", "CREATE", "k", "g", "0", "MKSTREAM")],
        "stream-groups": [*same, *groups()],
        "stream-groups-claimed": [*same, *groups(), *claim("1000-3", "bob", 1_700_000_000_009, 9)],
        "stream-groups-acknowledged": [*same, *groups(), ("XACK", "k", "first", "1000-2")],
        "stream-groups-renamed": [*same, *groups(), ("XGROUP", "CREATECONSUMER", "k", "second", "dora")],
        "stream-pending-deleted": [*same, *groups(), ("XDEL", "k", "1000-2")],
    }


def groups() -> list[Command]:
    """Return two groups over 30 entries, one with pending entries given out at a fixed time."""
    commands: list[Command] = [
        ("XGROUP", "CREATE", "k", "first", "0"),
        ("XGROUP", "CREATE", "k", "second", "1000-4"),
        ("XGROUP", "CREATECONSUMER", "k", "first", "idle"),
        ("XREADGROUP", "GROUP", "first", "alice", "COUNT", 5, "STREAMS", "k", ">"),
        ("XREADGROUP", "GROUP", "first", "bob", "COUNT", 2, "STREAMS", "k", ">"),
        ("XACK", "k", "first", "1000-1"),
    ]
    for seq in range(2, 6):
        commands += claim(f"1000-{seq}", "alice", 1_700_000_000_000 + seq, seq)
    for seq in range(6, 8):
        commands += claim(f"1000-{seq}", "bob", 1_700_000_000_000 + seq, 1)
    return commands


def claim(entry: str, consumer: str, delivered: int, count: int) -> list[Command]:
    """Return the command that gives a pending entry to `consumer` at a fixed time, so often."""
    return [("XCLAIM", "k", "first", consumer, 0, entry, "TIME", delivered, "RETRYCOUNT", count)]


def pairs(*columns: Iterable[bytes | str | int]) -> list[bytes | str | int]:
    """Return the columns' items in turn: field, value, field, value."""
    return [item for row in zip(*columns, strict=False) for item in row]


def built() -> dict[str, tuple[bytes, list[Command]]]:
    """Return bodies (type and value) in old encodings, and the commands that make the same value."""
    ziplist = pack_ziplist([b"\x03abc", b"\xfe\x11", b"\xc0\x39\x30"])
    zipmap = b"\x02\x03foo\x03\x00bar\x05hello\x05\x02world\x00\x00\xff"
    scores = b"\x04" + b"\x01a\x043.25" + b"\x01b\xfe" + b"\x01c\xff" + b"\x01d\x02-7"
    return {
        "built-list": (b"\x01\x03\x03abc\xc0\x12\xc1\x39\x30", [("RPUSH", "k", "abc", 18, 12345)]),
        "built-list-ziplist": (b"\x0a" + rdb_string(ziplist), [("RPUSH", "k", "abc", 17, 12345)]),
        "built-zset": (b"\x03" + scores, [("ZADD", "k", 3.25, "a", "inf", "b", "-inf", "c", -7, "d")]),
        "built-hash-zipmap": (b"\x09" + rdb_string(zipmap), [("HSET", "k", "hello", "world", "foo", "bar")]),
    }


def rdb_string(content: bytes) -> bytes:
    """Return a string of up to 63 bytes with its length in front."""
    return bytes([len(content)]) + content


def pack_ziplist(entries: list[bytes]) -> bytes:
    """Return a ziplist of encoded entries, each shorter than 254 bytes."""
    body, last, previous = b"", 10, 0
    for entry in entries:
        last = 10 + len(body)
        body += bytes([previous]) + entry
        previous = 1 + len(entry)
    return struct.pack("<IIH", 11 + len(body), last, len(entries)) + body + b"\xff"


def sealed(body: bytes, rdb_version: int = 9) -> bytes:
    """Return a payload: the body with its footer."""
    unsealed = body + struct.pack("<H", rdb_version)
    crc = 0
    for byte in unsealed:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return unsealed + struct.pack("<Q", crc)


@contextmanager
def server(binary: Path, layout: dict[str, str | int]) -> Iterator[tuple[str, Redis]]:
    """Run a server with the settings of `layout`; yield its name with version, and a connection."""
    asked = [str(binary), "--version"]
    text = subprocess.run(asked, check=True, capture_output=True, text=True).stdout  # noqa: S603
    match = re.match(r"(\w+) server v=(\d+)\.(\d+)", text)
    if match is None:
        raise SystemExit(f"{binary} is no Redis or Valkey server: its --version says {text!r}")
    kind, major, minor = match[1].lower(), int(match[2]), int(match[3])
    with tempfile.TemporaryDirectory() as folder:
        socket = f"{folder}/socket"
        command: list[str | Path] = [
            binary,
            "--port",
            "0",
            "--unixsocket",
            socket,
            "--dir",
            folder,
            "--save",
            "",
        ]
        if major >= 7:
            command += ["--enable-debug-command", "yes"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603
        try:
            client = Redis(unix_socket_path=socket, protocol=2, retry=Retry(NoBackoff(), 0))
            wait_for(client, process)
            for setting, value in layout.items():
                if client.config_get(setting):  # older servers lack some
                    client.config_set(setting, value)
            if major >= 7 and layout is LAYOUTS["loose"]:
                debug: Command = ("DEBUG", "QUICKLIST-PACKED-THRESHOLD", f"{LARGE_ELEMENT}b")
                client.execute_command(*debug)  # type: ignore[no-untyped-call]
            yield f"{kind}-{major}.{minor}", client
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def wait_for(client: Redis, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server answers."""
    deadline = time.monotonic() + START_SECONDS
    while not answers(client):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} did not start")
        time.sleep(0.05)


def answers(client: Redis) -> bool:
    """Return whether the server takes commands yet."""
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False


def dump(client: Redis, commands: list[Command]) -> bytes:
    """Make a value with `commands` and return its payload."""
    client.delete("k")
    for command in commands:
        client.execute_command(*command)  # type: ignore[no-untyped-call]
    return dump_key(client)


def dump_key(client: Redis) -> bytes:
    """Return the payload of the key `k`."""
    payload = client.dump("k")
    if not isinstance(payload, bytes):
        raise TypeError(f"DUMP of a value just made returned {payload!r}")
    return payload


def capture(binary: Path, layout_name: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield origin, name and payload of every value that the server can make."""
    with server(binary, LAYOUTS[layout_name]) as (name, client):
        wanted = values()
        if "hpexpireat" in client.command():
            wanted |= expiring_hashes()
        for value, commands in wanted.items():
            yield f"{name}/{layout_name}", value, dump(client, commands)
        for value, (body, commands) in built().items():
            yield f"{name}/{layout_name}", value, dump(client, commands)
            client.restore("k", 0, sealed(body), replace=True)
            yield f"{name}/{layout_name}-loaded", value, dump_key(client)


def main() -> None:
    """Write the fixture."""
    parser = argparse.ArgumentParser(description="Capture DUMP payloads of the same values.")
    parser.add_argument("fixture", type=Path)
    parser.add_argument("servers", type=Path, nargs="+")
    arguments = parser.parse_args()
    captured = [
        line for binary in arguments.servers for layout in LAYOUTS for line in capture(binary, layout)
    ]
    captured += [("built", name, sealed(body)) for name, (body, _) in built().items()]
    # Of equal bodies the first stays: the others would differ in the footer alone.
    origins = {
        (name, payload[:-FOOTER_LENGTH]): (origin, payload) for origin, name, payload in reversed(captured)
    }
    lines = sorted(f"{origin} {name} {payload.hex()}\n" for (name, _), (origin, payload) in origins.items())
    arguments.fixture.write_text("".join(lines))


if __name__ == "__main__":
    main()
