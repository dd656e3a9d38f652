"""Keyspaces that are almost all strings are read with GETRANGE, and everything else in them still arrives."""

from __future__ import annotations

import random

import pytest

from slotferry import Migration, Options
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.raw import RawConnection, connect, encode

_STRINGS = 12_000
_HOUR_MS = 3_600_000
_BIG = 64 << 10


def _fill(connection: RawConnection) -> None:
    """Strings of every encoding, a tenth with a TTL; among them empty ones, large ones and other types."""
    rng = random.Random(7)
    commands = []
    for number in range(_STRINGS):
        values: list[bytes | int] = [
            number,
            -number,
            rng.randbytes(60),
            b"text " * 50,
            b"\x00\r\n",
            b"0012",
            b"3.0",
        ]
        value = rng.choice(values) if number % 100 else b""
        expiry = ("PX", _HOUR_MS + number) if number % 10 == 0 else ()
        commands.append(encode("SET", b"string:%d" % number, value, *expiry))
    for number in range(_STRINGS // 100):
        commands.append(encode("RPUSH", b"list:%d" % number, number, b"x" * 100))
        commands.append(encode("HSET", b"hash:%d" % number, "field", number))
    commands += [encode("SET", b"large:%d" % number, rng.randbytes(_BIG + number)) for number in range(-2, 3)]
    commands.append(encode("RPUSH", "large:list", *[rng.randbytes(1000) for _ in range(200)]))
    commands.append(encode("SET", "", "of the empty key"))
    connection.pipeline_checked(commands)


def _calls(server: LocalServer, command: str) -> int:
    with server.client() as client:
        statistics = client.info("commandstats")
    return int(statistics.get(f"cmdstat_{command}", {}).get("calls", 0))


@pytest.mark.parametrize("big_key_bytes", [_BIG, 0])
@pytest.mark.parametrize(("source", "cluster"), [(kind, kind) for kind in available()], indirect=True)
def test_everything_arrives_and_few_keys_are_dumped(
    source: LocalServer, cluster: LocalCluster, big_key_bytes: int
) -> None:
    with connect(source) as connection:
        _fill(connection)

    report = migrate(source, cluster, big_key_bytes=big_key_bytes, parallel_scans=1)

    assert report.ok
    dumped, read = _calls(source, "dump"), _calls(source, "getrange")
    assert_equal(source, cluster, byte_equal=True)
    assert report.keys.migrated == report.keys.scanned
    # The first pages show what there is; of the others only what is no string, or empty, is dumped.
    assert dumped < report.keys.scanned / 2 < read


def test_a_second_pass_finds_everything_unchanged(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        _fill(connection)
    assert migrate(source, cluster, parallel_scans=1).ok

    report = migrate(source, cluster, parallel_scans=1)

    assert report.keys.unchanged == report.keys.scanned


@pytest.mark.parametrize("source", ["redis-7.0"], indirect=True)
def test_a_user_without_getrange_reads_with_dump(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        _fill(connection)
        connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", "-getrange")
    try:
        url = source.url.replace("redis://", "redis://mover:secret@")
        report = Migration(url, cluster.url, Options(parallel_scans=1)).run()
    finally:
        with connect(source) as connection:
            connection.execute("ACL", "DELUSER", "mover")

    assert report.ok
    assert _calls(source, "dump") >= report.keys.migrated - 10
    assert_equal(source, cluster, byte_equal=True)
