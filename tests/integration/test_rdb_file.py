"""RDB files as the source: what every server writes arrives; what is damaged is told."""

from __future__ import annotations

import gzip
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options, Report
from slotferry.errors import OptionError, RefusedError
from slotferry.model.events import Event, FileProgress, Notice, Progress
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill, fill_strings
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect

_BUSY_MS = 2_000  # by which two servers may be asked apart, where one tells a rest
_KINDS = list(available())
_PAIRS = [(source, _KINDS[(place + 1) % len(_KINDS)]) for place, source in enumerate(_KINDS)]


def save(server: LocalServer, folder: Path) -> Path:
    """Let the server save its data, and return a copy of the file."""
    with server.client() as client:
        client.save()
        there = Path(client.config_get("dir")["dir"]) / client.config_get("dbfilename")["dbfilename"]
    file = folder / "dump.rdb"
    file.write_bytes(there.read_bytes())
    return file


def copy(file: Path, cluster: LocalCluster, folder: Path, **options: Any) -> tuple[Report, list[Event]]:
    """Run a migration from a file to its end, and return its report and what it told."""
    with Migration(str(file), cluster.url, Options(journal=folder / "journal.db", **options)) as migration:
        events = list(migration.events())
        return _report(migration), events


def _report(migration: Migration) -> Report:
    assert migration.report is not None
    return migration.report


def told(events: Sequence[Event]) -> str:
    return "\n".join(event.message for event in events if hasattr(event, "message"))


@pytest.mark.parametrize(("source", "cluster"), [*_PAIRS, *zip(_KINDS, _KINDS, strict=True)], indirect=True)
def test_a_file_of_every_server_arrives_whole(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = request.node.callspec.params
    source_kind: ServerKind = available()[names["source"]]
    cluster_kind: ServerKind = available()[names["cluster"]]
    with connect(source) as connection:
        keys = fill(connection, 2_000, field_ttls=source_kind.has_field_ttls)
    lost_ttls = source_kind.has_field_ttls and not cluster_kind.has_field_ttls
    file = save(source, tmp_path)

    report, _ = copy(file, cluster, tmp_path, field_ttl="drop")

    assert report.ok, (report.error, report.failures)
    assert report.keys.migrated == report.keys.scanned == keys
    same = source_kind == cluster_kind
    assert (
        assert_equal(
            source, cluster, byte_equal=same, field_ttls=not lost_ttls, ttl_tolerance_ms=_BUSY_MS
        ).keys
        == keys
    )


@pytest.fixture
def strings(source: LocalServer, tmp_path: Path) -> Path:
    """A file of 3,000 strings, named `key:…`."""
    with connect(source) as connection:
        fill_strings(connection, 3_000)
    return save(source, tmp_path)


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
def test_a_compressed_file_is_read_as_it_is(
    strings: Path, source: LocalServer, cluster: LocalCluster, tmp_path: Path, packed: str
) -> None:
    file = tmp_path / "dump.packed"
    if packed == "gzip":
        file.write_bytes(gzip.compress(strings.read_bytes()))
    else:
        file.write_bytes(_zstd(strings.read_bytes()))

    report, events = copy(file, cluster, tmp_path)

    assert report.ok, report.error
    assert assert_equal(source, cluster, byte_equal=True).keys == 3_000
    assert _read_at_last(events) == FileProgress(len(strings.read_bytes()), None)


def test_progress_tells_how_far_the_file_is_read(
    strings: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    _, events = copy(strings, cluster, tmp_path)
    size = len(strings.read_bytes())
    assert _read_at_last(events) == FileProgress(size, size)


def _read_at_last(events: Sequence[Event]) -> FileProgress | None:
    return [event for event in events if isinstance(event, Progress)][-1].file


def test_a_file_from_stdin(strings: Path, source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    command = [
        COMMAND,
        "migrate",
        "-",
        cluster.url,
        "--journal",
        str(tmp_path / "j.db"),
    ]
    with strings.open("rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert assert_equal(source, cluster, byte_equal=True).keys == 3_000


def test_filters_rules_and_conflicts_hold(strings: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    del strings
    source = tmp_path / "own.rdb"
    source.write_bytes(
        _file(*(_string(b"user:%d" % n, b"v%d" % n) for n in range(50)), _list(b"list:1", b"a"))
    )
    with cluster.client() as client:
        client.set("u:1", "other")
        client.set("u:2", "v2")

    from slotferry.model.rules import AddPrefix, StripPrefix

    rules = (StripPrefix("user:"), AddPrefix("u:"))
    report, _ = copy(source, cluster, tmp_path, match="user:*", rules=rules, type="string")
    assert report.keys.scanned == 50
    assert (report.keys.migrated, report.keys.unchanged, report.keys.failed) == (48, 1, 1)
    assert report.failures[0].kind == "conflict"
    assert report.failures[0].key == b"user:1"

    again, _ = copy(
        source, cluster, tmp_path, match="user:*", rules=rules, type="string", on_conflict="replace"
    )
    assert again.ok, again.failures
    with cluster.client() as client:
        assert client.get("u:1") == b"v1"


def test_what_has_expired_is_counted_and_not_written(cluster: LocalCluster, tmp_path: Path) -> None:
    later = round(time.time() * 1000) + 3_600_000
    file = tmp_path / "own.rdb"
    file.write_bytes(
        _file(
            b"\xfc" + (1000).to_bytes(8, "little") + _string(b"gone", b"1"),
            b"\xfc" + later.to_bytes(8, "little") + _string(b"there", b"2"),
        )
    )
    report, _ = copy(file, cluster, tmp_path)
    assert (report.keys.scanned, report.keys.expired, report.keys.migrated) == (2, 1, 1)
    with cluster.client() as client:
        assert client.get("gone") is None
        assert 3_500_000 < client.pttl("there") <= 3_600_000


def test_a_database_is_chosen_and_others_are_told(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "own.rdb"
    file.write_bytes(_file(_string(b"a", b"0"), b"\xfe\x03" + _string(b"b", b"3"), _string(b"c", b"3")))
    report, events = copy(file, cluster, tmp_path)
    assert report.keys.migrated == 1
    assert "2 keys in other databases, such as 3" in told(events)
    report, _ = copy(file, cluster, tmp_path, db=[3], job="third")
    assert report.keys.migrated == 2
    with cluster.client() as client:
        assert client.get("c") == b"3"


def test_a_dry_run_counts_and_writes_nothing(strings: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    report, _ = copy(strings, cluster, tmp_path, dry_run=True)
    assert report.keys.scanned == 3_000
    assert count_keys(cluster) == 0


def test_a_file_that_ends_early_keeps_what_was_whole(
    strings: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    whole = strings.read_bytes()
    cut = tmp_path / "cut.rdb"
    cut.write_bytes(whole[: len(whole) // 2])
    report, _ = copy(cut, cluster, tmp_path)
    assert isinstance(report.error, RefusedError)
    assert f"it ends early, at byte {len(whole) // 2}, after " in str(report.error)
    assert 1_000 < report.keys.migrated < 2_000
    assert count_keys(cluster) == report.keys.migrated == report.keys.scanned
    assert f"after {report.keys.migrated} whole keys" in str(report.error)


def test_a_wrong_checksum_is_an_error_unless_it_is_ignored(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "own.rdb"
    content = bytearray(_file(_string(b"a", b"0")))
    content[-9:] = b"\xff" + bytes(7) + b"\x01"
    file.write_bytes(content)
    report, _ = copy(file, cluster, tmp_path)
    assert "its checksum is" in str(report.error)
    report, events = copy(file, cluster, tmp_path, ignore_checksum=True)
    assert report.ok, report.error
    assert "its checksum is" in told(events)


def test_an_interrupted_run_goes_on_where_it_was(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(source) as connection:
        fill_strings(connection, 20_000)
    file = save(source, tmp_path)
    options = Options(journal=tmp_path / "journal.db", max_keys_per_second=4_000)
    with Migration(str(file), cluster.url, options) as migration:
        for event in migration.events():
            if event.type == "checkpoint" and 1_000 < event.keys.settled < 15_000:  # type: ignore[attr-defined]
                migration.cancel()
                break
        for _ in migration.events():
            pass
        first = _report(migration)
    assert first.status == "interrupted"
    assert 1_000 < first.keys.migrated < 20_000

    report, _ = copy(file, cluster, tmp_path)
    assert report.ok, report.error
    assert report.resumed
    assert report.keys.migrated == report.keys.scanned == 20_000
    assert assert_equal(source, cluster, byte_equal=True).keys == 20_000


def test_a_file_that_changes_while_it_is_read_is_told(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(source) as connection:
        fill_strings(connection, 20_000)
    file = save(source, tmp_path)
    options = Options(journal=tmp_path / "journal.db", max_keys_per_second=10_000)
    with Migration(str(file), cluster.url, options) as migration:
        is_changed = False
        for event in migration.events():
            if event.type == "checkpoint" and not is_changed:
                is_changed = True
                with file.open("r+b") as written:
                    written.write(b"REDIS")
        report = _report(migration)
    assert "has changed since the run began" in str(report.error)


def test_another_file_is_read_from_its_start(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "own.rdb"
    content = _file(*(_string(b"key:%d" % n, b"v") for n in range(100)))
    file.write_bytes(content[:-30])
    report, _ = copy(file, cluster, tmp_path)
    assert report.error is not None
    file.write_bytes(content)
    report, events = copy(file, cluster, tmp_path)
    assert report.ok, report.error
    assert "the file is another than the one" in told(
        [event for event in events if isinstance(event, Notice)]
    )
    assert report.keys.scanned == 100


@pytest.mark.parametrize("first", ["#!lua name=mylib", '#!lua Name="mylib"', "#!LUA  name='mylib' "])
def test_functions_are_loaded_from_the_file(cluster: LocalCluster, tmp_path: Path, first: str) -> None:
    code = first.encode() + b"\nredis.register_function('f', function() return 1 end)"
    file = tmp_path / "own.rdb"
    file.write_bytes(_file(b"\xf5" + _text(code), _string(b"a", b"0")))
    with cluster.primaries[0].client() as client:
        if int(client.info("server")["redis_version"].split(".")[0]) < 7:
            pytest.skip("functions came with Redis 7.0")
    report, _ = copy(file, cluster, tmp_path, on_conflict="replace")
    assert report.ok, report.error
    for node in cluster.primaries:
        with node.client() as client:
            assert client.execute_command("FUNCTION", "LIST", "LIBRARYNAME", "mylib")
            client.execute_command("FUNCTION", "FLUSH")


def test_functions_that_come_from_stdin_are_told(cluster: LocalCluster, tmp_path: Path) -> None:
    code = b"#!lua name=mylib\nredis.register_function('f', function() return 1 end)"
    command = [COMMAND, "migrate", "-", cluster.url, "--journal", str(tmp_path / "j.db")]
    content = _file(b"\xf5" + _text(code), _string(b"a", b"0"))
    done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"has 1 libraries of functions, which are not copied from there" in done.stderr


def test_a_large_value_that_has_expired_counts_as_expired(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "own.rdb"
    past = b"\xfc" + (1000).to_bytes(8, "little")
    file.write_bytes(_file(past + _string(b"large", b"x" * 2_000_000), _string(b"small", b"v")))
    report, _ = copy(file, cluster, tmp_path, memory_limit=4_000_000)
    assert report.ok, report.failures
    assert (report.keys.migrated, report.keys.expired) == (1, 1)


def test_what_goes_on_behind_its_rdb_is_told_by_every_run(cluster: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "appendonly.aof"
    file.write_bytes(_file(_string(b"key", b"v")) + b"*3\r\n$3\r\nSET\r\n$5\r\nlater\r\n$1\r\nv\r\n")
    for _ in range(2):
        report, _ = copy(file, cluster, tmp_path)
        assert isinstance(report.error, RefusedError)
        assert "goes on behind its RDB" in str(report.error)
    assert count_keys(cluster) == 1


def test_a_pipe_is_sent_to_stdin(cluster: LocalCluster, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.rdb"
    os.mkfifo(pipe)
    report, _ = copy(pipe, cluster, tmp_path)
    assert "give - and send it to stdin" in str(report.error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n", "append-only file"),
        (gzip.compress(b"hello, world", mtime=0), "neither with REDIS"),
        (b"REDIS0099" + bytes(20), "version REDIS0099 is not known"),
        (b"REDIS00", "less than nine bytes"),
        (b"#!/bin/sh\nexit 0\n", "neither with REDIS"),
        (b"REDIS0009" + b"\xfc12345678" * 10, "told again and again"),
    ],
)
def test_what_is_no_rdb_is_refused_in_a_sentence(
    cluster: LocalCluster, tmp_path: Path, content: bytes, says: str
) -> None:
    file = tmp_path / "own.rdb"
    file.write_bytes(content)
    report, _ = copy(file, cluster, tmp_path)
    assert isinstance(report.error, RefusedError)
    assert says in str(report.error)
    assert count_keys(cluster) == 0


def test_a_directory_and_a_missing_file_are_refused(cluster: LocalCluster, tmp_path: Path) -> None:
    report, _ = copy(tmp_path, cluster, tmp_path)
    assert "it is a directory" in str(report.error)
    report, _ = copy(tmp_path / "missing.rdb", cluster, tmp_path)
    assert "no such file" in str(report.error)


@pytest.mark.parametrize(
    "options",
    [
        {"follow": True},
        {"keep_eviction_metadata": True},
        {"min_size": 1},
        {"db": "all"},
        {"parallel_scans": 4},
    ],
)
def test_options_that_a_file_can_not_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="RDB file"):
        Migration("dump.rdb", "redis://127.0.0.1:1", Options(**options))


def _zstd(content: bytes) -> bytes:
    """Return `content` as a zstd frame of raw blocks."""
    size = 1 << 16
    frame = b"\x28\xb5\x2f\xfd\xa0" + len(content).to_bytes(4, "little")
    for start in range(0, len(content), size):
        block = content[start : start + size]
        is_last = start + size >= len(content)
        frame += (len(block) << 3 | is_last).to_bytes(3, "little") + block
    return frame


def _text(text: bytes) -> bytes:
    return b"\x80" + len(text).to_bytes(4, "big") + text


def _string(name: bytes, value: bytes) -> bytes:
    return b"\x00" + _text(name) + _text(value)


def _list(name: bytes, *values: bytes) -> bytes:
    return b"\x01" + _text(name) + bytes([len(values)]) + b"".join(map(_text, values))


def _file(*parts: bytes) -> bytes:
    """Return a file of these parts, without a checksum."""
    return b"REDIS0009\xfa\x09redis-ver\x056.2.0\xfe\x00" + b"".join(parts) + b"\xff" + bytes(8)
