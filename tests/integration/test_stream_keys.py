"""Which keys a command touches, as the engine finds them and as real servers do (COMMAND GETKEYS)."""

from __future__ import annotations

import socket

import pytest

from slotferry._core import stream_keys
from slotferry.testing.servers import LocalServer
from tests.servers.raw import RawConnection, encode

ALL_KINDS = ("redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.0", "valkey-8.1", "valkey-9.1")

# Every layout of keys that a command of a stream may have, by words.
SAME_KEYS = """
SET a 1
SETEX a 10 v
DEL a b c
UNLINK a b
MSET a 1 b 2
MSETNX a 1 b 2 c 3
RENAME a b
RENAMENX a b
APPEND a b
INCRBY a 3
SETRANGE a 1 x
PEXPIREAT a 1
PERSIST a
GETDEL a
RESTORE a 0 x ABSTTL REPLACE
LPUSH a x y
LMOVE a b LEFT RIGHT
RPOPLPUSH a b
BRPOPLPUSH a b 0
BLPOP a b 0
LINSERT a BEFORE x y
SADD a x
SMOVE a b x
SREM a x y
HSET a f v
HINCRBY a f 1
ZADD a 1 x
ZPOPMIN a 2
BZPOPMIN a b 0
GEOADD a 1 2 x
PFADD a x
XADD a 1-1 f v
XDEL a 1-1
XTRIM a MAXLEN = 5
XACK a g 1-1
XCLAIM a g c 0 1-1 TIME 5 RETRYCOUNT 1 FORCE JUSTID LASTID 1-1
XAUTOCLAIM a g c 0 0
XSETID a 1-1
XGROUP CREATE a g $
XGROUP SETID a g 1-1
XGROUP DESTROY a g
XREADGROUP GROUP g c COUNT 2 NOACK STREAMS a b > >
EVAL code 2 a b c
EVALSHA 0123 1 a b
MIGRATE h 1 a 0 10
"""

SINCE_7 = """
FCALL f 2 a b c
LMPOP 2 a b LEFT COUNT 3
ZMPOP 1 a MIN
BLMPOP 0 2 a b RIGHT
BZMPOP 0 1 a MAX
MSETEX 2 a 1 b 2 PX 100
SPUBLISH a b
"""

# The server names these keys too, which are only read: (command, keys that change).
READS_TOO = {
    "SUNIONSTORE d a b": "d",
    "SINTERSTORE d a b": "d",
    "SDIFFSTORE d a b": "d",
    "ZUNIONSTORE d 2 a b WEIGHTS 1 2": "d",
    "ZINTERSTORE d 2 a b AGGREGATE MAX": "d",
    "ZDIFFSTORE d 2 a b": "d",
    "ZRANGESTORE d a 0 -1": "d",
    "GEOSEARCHSTORE d a FROMLONLAT 1 2 BYRADIUS 3 m": "d",
    "PFMERGE d a b": "d",
    "BITOP AND d a b": "d",
    "COPY a d": "d",
    "SORT a BY w* LIMIT 0 5 GET # STORE d": "d",
    "GEORADIUS a 1 2 3 m COUNT 5 STORE d": "d",
    "GEORADIUSBYMEMBER a x 3 m STOREDIST d": "d",
}


@pytest.mark.parametrize("source", ALL_KINDS, indirect=True)
def test_keys_are_those_that_the_server_finds(source: LocalServer) -> None:
    commands = raw_reply(source.port, "COMMAND")
    with RawConnection("127.0.0.1", source.port) as connection:
        known = {facts[0].decode() for facts in connection.execute("COMMAND")}

        def of_server(line: str) -> set[bytes]:
            return set(connection.execute("COMMAND", "GETKEYS", *line.split()))

        for line in filter(None, (SAME_KEYS + SINCE_7).splitlines()):
            name = line.split(maxsplit=1)[0].lower()
            if name in known and name != "spublish":
                assert of_engine(commands, line) == of_server(line), line
        for line, changed in READS_TOO.items():
            found = of_engine(commands, line)
            assert found == {changed.encode()}, line
            assert found <= of_server(line), line


@pytest.mark.parametrize("source", ALL_KINDS, indirect=True)
def test_every_write_command_of_the_server_is_known(source: LocalServer) -> None:
    """None is left to a whole comparison, but for those whose keys nobody can tell before they run."""
    commands = raw_reply(source.port, "COMMAND")
    with RawConnection("127.0.0.1", source.port) as connection:
        table = connection.execute("COMMAND")
    unknown = set()
    for raw_name, _, flags, *_ in table:
        if b"write" not in {flag if isinstance(flag, bytes) else str(flag).encode() for flag in flags}:
            continue
        name = raw_name.decode()
        # More arguments than any command needs; numbers, so that one that counts keys finds some.
        line = f"{name} 1 1 1 1 1 1 1 1 STREAMS 1 1"
        touched, others, _, _ = stream_keys(commands, encode(*line.split()))
        if not touched and not others and name.lower() not in {"sort", "georadius", "georadiusbymember"}:
            unknown.add(name)
        unknown |= {name for _, what, _ in others if what == "unknown"}
    # Of a cluster's node alone: it drops the keys of slots that have left.
    assert unknown <= {"trimslots"}


@pytest.mark.parametrize("source", ["redis-8.6", "valkey-9.1"], indirect=True)
def test_a_command_that_the_server_lacks_is_unknown(source: LocalServer) -> None:
    commands = raw_reply(source.port, "COMMAND")
    stream = encode("FROBNICATE", "a") + encode("PING")
    assert stream_keys(commands, stream) == ([], [(0, "unknown", b"FROBNICATE")], len(stream), 0)


def of_engine(commands: bytes, line: str) -> set[bytes]:
    stream = encode(*line.split())
    touched, others, offset, _ = stream_keys(commands, stream)
    assert others == []
    assert offset == len(stream)
    return {key for _, _, key in touched}


def raw_reply(port: int, command: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as peer:
        peer.sendall(encode(command) + encode("PING"))
        reply = b""
        while not reply.endswith(b"+PONG\r\n"):
            reply += peer.recv(1 << 18)
    return reply.removesuffix(b"+PONG\r\n")


def test_a_stream_in_pieces_goes_on_behind_the_last_whole_command(source: LocalServer) -> None:
    commands = raw_reply(source.port, "COMMAND")
    whole = encode("SELECT", "3") + encode("SET", "a", "1")
    rest = encode("DEL", "b", "c")
    for cut in range(1, len(rest)):
        _, _, offset, database = stream_keys(commands, whole + rest[:cut])
        assert (offset, database) == (len(whole), 3)
    keys, *end = stream_keys(commands, rest, 3)
    assert [key[1:] for key in keys] == [(3, b"b"), (3, b"c")]
    assert end == [[], len(rest), 3]
