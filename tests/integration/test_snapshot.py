"""A live source read as a snapshot: its keys arrive whole, and its clients do not feel it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from slotferry import CutoverOptions, Migration, Options, Report
from slotferry.errors import OptionError, RefusedError
from slotferry.model.events import Event
from slotferry.preflight.check import CheckOptions, check
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.integration.migrating import count_keys
from tests.integration.test_following import Workload
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill, fill_strings
from tests.servers.kinds import ServerKind, available
from tests.servers.proxy import Proxy
from tests.servers.raw import connect, encode

_BUSY_MS = 2_000  # by which two servers may be asked apart, where one tells a rest
_KINDS = list(available())
_PAIRS = [(source, _KINDS[(place + 1) % len(_KINDS)]) for place, source in enumerate(_KINDS)]
_SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")


@pytest.fixture
def prompt(source: LocalServer) -> LocalServer:
    """The source, whose snapshots wait for no other replica."""
    with source.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    return source


def copy(source: str, cluster: LocalCluster, folder: Path, **options: Any) -> tuple[Report, list[Event]]:
    """Run a migration that reads a snapshot to its end, and return its report and what it told."""
    chosen = {"journal": folder / "journal.db", "read": "snapshot", **options}
    with Migration(source, cluster.url, Options(**chosen)) as migration:
        events = list(migration.events())
        assert migration.report is not None
        return migration.report, events


def told(events: list[Event]) -> str:
    return "\n".join(event.message for event in events if hasattr(event, "message"))


@pytest.mark.parametrize(("source", "cluster"), [*_PAIRS, *zip(_KINDS, _KINDS, strict=True)], indirect=True)
def test_a_snapshot_of_every_server_arrives_whole(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    names = request.node.callspec.params
    source_kind: ServerKind = available()[names["source"]]
    cluster_kind: ServerKind = available()[names["cluster"]]
    with connect(prompt) as connection:
        keys = fill(connection, 2_000, field_ttls=source_kind.has_field_ttls)
    lost_ttls = source_kind.has_field_ttls and not cluster_kind.has_field_ttls

    report, _ = copy(prompt.url, cluster, tmp_path, field_ttl="drop")

    assert report.ok, (report.error, report.failures)
    assert report.keys.migrated == report.keys.scanned == keys
    same = source_kind == cluster_kind
    found = assert_equal(
        prompt, cluster, byte_equal=same, field_ttls=not lost_ttls, ttl_tolerance_ms=_BUSY_MS
    )
    assert found.keys == keys


@pytest.mark.parametrize("source", _SOURCES, indirect=True)
@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_with_and_without_a_disk(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path, diskless: str
) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 5_000)
    with prompt.client() as client:
        client.config_set("repl-diskless-sync", diskless)
    report, _ = copy(prompt.url, cluster, tmp_path, verify=True)
    assert report.ok, report.error
    assert report.keys.migrated == 5_000


@pytest.mark.parametrize("source", _SOURCES[:2], indirect=True)
def test_no_snapshot_is_taken_that_was_begun_for_another_replica(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(prompt) as connection, prompt.client() as client, connect(prompt) as replica:
        fill_strings(connection, 2_000)
        client.config_set("repl-diskless-sync", "no")
        client.config_set("rdb-key-save-delay", 2_000)  # µs: its child takes four seconds
        replica.send(encode("PSYNC", "?", "-1"))
        wait_until(lambda: client.info("persistence")["rdb_bgsave_in_progress"] == 1, "no child is begun")
        client.set("late", "written since")
        client.config_set("rdb-key-save-delay", 0)
        report, events = copy(prompt.url, cluster, tmp_path)
    assert report.ok, report.error
    assert report.keys.migrated == 2_001
    assert "begun for another replica before" in told(events)
    with cluster.client() as target:
        assert target.get("late") == b"written since"


def test_large_values_come_in_parts_from_the_snapshot(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with prompt.client() as client:
        client.set("large", b"x" * 3_000_000)
        client.hset("hash", mapping={f"field:{n}": "v" * 40 for n in range(40_000)})
        client.pexpire("hash", 3_600_000)
        client.set("small", "v")
        client.config_resetstat()
    report, _ = copy(prompt.url, cluster, tmp_path, memory_limit=4_000_000, big_key_bytes=500_000)
    assert report.ok, (report.error, report.failures)
    assert report.keys.migrated == 3
    with prompt.client() as client:
        asked = client.info("commandstats")
    assert not {"cmdstat_hscan", "cmdstat_getrange", "cmdstat_dump"} & set(asked)
    assert_equal(prompt, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)


def test_filters_rules_databases_and_conflicts_hold(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    from slotferry.model.rules import AddPrefix, StripPrefix

    with prompt.client(db=3) as client:
        client.mset({f"user:{n}": f"v{n}" for n in range(50)})
        client.rpush("user:list", "a")
        client.set("other", "1")
    with prompt.client() as client:
        client.set("user:zero", "in database 0")
    with cluster.client() as client:
        client.set("u:1", "other")
        client.set("u:2", "v2")
    rules = (StripPrefix("user:"), AddPrefix("u:"))
    report, _ = copy(f"{prompt.url}/3", cluster, tmp_path, match="user:*", type="string", rules=rules)
    keys = report.keys
    assert (keys.scanned, keys.migrated, keys.unchanged, keys.failed) == (50, 48, 1, 1)
    assert [failure.key for failure in report.failures] == [b"user:1"]


def test_an_interrupted_snapshot_is_taken_anew(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 20_000)
    options = Options(journal=tmp_path / "journal.db", read="snapshot", max_keys_per_second=4_000)
    with Migration(prompt.url, cluster.url, options) as migration:
        for event in migration.events():
            if event.type == "checkpoint" and 1_000 < event.keys.settled < 15_000:  # type: ignore[attr-defined]
                migration.cancel()
                break
        for _ in migration.events():
            pass
        first = migration.report
    assert first is not None
    assert first.status == "interrupted"
    written = count_keys(cluster)
    assert 1_000 < written < 20_000

    report, events = copy(prompt.url, cluster, tmp_path)
    assert report.ok, (report.error, report.failures)
    assert "another one is taken" in told(events)
    assert report.keys.scanned == 20_000
    assert report.keys.unchanged == written
    assert report.keys.migrated == 20_000 - written
    assert assert_equal(prompt, cluster, byte_equal=True).keys == 20_000


def test_a_snapshot_that_is_cut_off_is_taken_anew_in_the_same_run(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with prompt.client() as client:
        for start in range(0, 20_000, 1_000):
            client.mset({f"key:{n}": os.urandom(1_000) for n in range(start, start + 1_000)})
    with Proxy(prompt.host, prompt.port) as proxy:
        chosen = Options(
            journal=tmp_path / "journal.db",
            read="snapshot",
            max_keys_per_second=8_000,
            memory_limit=2_000_000,
        )
        with Migration(f"redis://{proxy.address}", cluster.url, chosen) as migration:
            is_cut, seen = False, []
            for event in migration.events():
                seen.append(event)
                if event.type == "checkpoint" and not is_cut and event.keys.settled > 1_000:  # type: ignore[attr-defined]
                    is_cut = True
                    proxy.cut()
            report = migration.report
    assert report is not None
    assert is_cut
    assert report.ok, (report.error, report.failures)
    assert "another one is taken" in told(seen)
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned == 20_000
    assert assert_equal(prompt, cluster, byte_equal=True).keys == 20_000


@pytest.mark.parametrize("source", ["redis-6.2"], indirect=True)  # later ones let nobody use DEBUG
def test_what_has_expired_is_counted_and_ttls_are_kept(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with prompt.client() as client:
        client.config_set("active-expire-effort", 1)
        client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "0")
        try:
            client.mset({f"key:{n}": n for n in range(100)})
            for number in range(40):
                client.pexpire(f"key:{number}", 1)
            for number in range(40, 60):
                client.pexpire(f"key:{number}", 3_600_000)
            wait_until(lambda: client.pttl("key:39") < 0, "it expires")
            report, _ = copy(prompt.url, cluster, tmp_path)
        finally:
            client.execute_command("DEBUG", "SET-ACTIVE-EXPIRE", "1")
    keys = report.keys
    assert report.ok, report.error
    assert keys.migrated == 60
    assert keys.expired == keys.scanned - 60
    with cluster.client() as client:
        assert 3_500_000 < client.pttl("key:40") <= 3_600_000
        assert client.pttl("key:70") == -1


def test_a_dry_run_writes_nothing(prompt: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 500)
    report, _ = copy(prompt.url, cluster, tmp_path, dry_run=True)
    assert report.keys.scanned == 500
    assert count_keys(cluster) == 0


def test_a_job_keeps_its_way_of_reading(prompt: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 2_000)
    with cluster.client() as client:
        client.set("key:1", "other")
    first, _ = copy(prompt.url, cluster, tmp_path)
    assert not first.error
    again, _ = copy(prompt.url, cluster, tmp_path, read="scan", on_conflict="replace")
    assert isinstance(again.error, RefusedError) or "read" in str(again.error)


@contextlib.contextmanager
def limited(server: LocalServer, *rules: str) -> Iterator[str]:
    """A user of the server with these rules, by its URL."""
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "mover", "reset", "on", ">pw", "~*", "&*", "+@all", *rules)
        try:
            yield server.url.replace("redis://", "redis://mover:pw@")
        finally:
            client.execute_command("ACL", "DELUSER", "mover")


@pytest.mark.parametrize("source", _SOURCES, indirect=True)
def test_who_may_not_psync_is_refused_before_anything_is_written(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with prompt.client() as client:
        client.set("key", "v")
    with limited(prompt, "-psync") as url:
        report, _ = copy(url, cluster, tmp_path)
        checked = check(url, cluster.url, CheckOptions(read="snapshot"))
    assert isinstance(report.error, RefusedError)
    assert "may not run PSYNC" in str(report.error)
    assert [row.status for row in checked.rows if row.name == "rdb-only"] == ["error"]
    assert count_keys(cluster) == 0


def test_check_says_that_a_snapshot_can_be_taken(prompt: LocalServer, cluster: LocalCluster) -> None:
    checked = check(prompt.url, cluster.url, CheckOptions(read="snapshot"))
    rows = {row.name: row for row in checked.rows}
    assert rows["rdb-only"].status == "ok"
    assert "fork" in rows
    assert "rdb-only" not in {row.name for row in check(prompt.url, cluster.url).rows}


@pytest.mark.parametrize(
    "options",
    [
        {"keep_eviction_metadata": True},
        {"min_size": 1},
        {"db": "all"},
        {"parallel_scans": 4},
        {"keys_from": "names.txt"},
    ],
)
def test_options_that_a_snapshot_can_not_have_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="snapshot"):
        Migration("redis://127.0.0.1:1", "redis://127.0.0.1:2", Options(read="snapshot", **options))


@pytest.mark.parametrize("source", _SOURCES, indirect=True)
def test_what_is_written_meanwhile_is_followed_behind_the_snapshot(
    prompt: LocalServer, cluster: LocalCluster
) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 20_000)
    with prompt.client() as client, prompt.client() as other:
        workload = Workload(client)
        for number in range(2_000):
            workload(number)
        now = int(other.time()[0] * 1000)
        settings: dict[str, Any] = {
            "snapshot": now,
            "partition_count": 1,
            "partitions": [(0, 0)],
            "max_keys_per_second": 10_000,
        }
        with Following(prompt, cluster, **settings) as following:
            with Writer(workload) as writer:
                following.wait_event("follow_attached")
                wait_until(lambda: _is_copied(following), "the copy does not end", timeout=60)
                writer.wait_more(200)
            following.wait_clean()
            assert_equal(prompt, cluster, byte_equal=False, ttl_tolerance_ms=_BUSY_MS)


def _is_copied(following: Following) -> bool:
    if following.job.wait(0):
        following.job.result()
    return any(mark.done for mark in following.job.checkpoint().partitions)


@pytest.mark.parametrize("source", _SOURCES[1:3], indirect=True)
def test_a_snapshot_is_followed_and_cut_over(
    prompt: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(prompt) as connection:
        fill_strings(connection, 10_000)
    options = Options(
        journal=tmp_path / "journal.db", read="snapshot", follow=True, max_keys_per_second=10_000
    )
    stop = threading.Event()

    def write() -> None:
        with prompt.client() as client:
            number = 0
            while not stop.is_set():
                client.set(f"key:{number % 12_000}", f"new {number}")
                if number % 500 == 0:
                    client.delete(f"key:{number * 7 % 12_000}")
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Migration(prompt.url, cluster.url, options) as migration:
            for event in migration.events():
                if "all is copied" in getattr(event, "message", ""):
                    break
            stop.set()
            writer.join()
            report = migration.cutover(CutoverOptions(hold=0))
            assert report.is_done, report.reason
    finally:
        stop.set()
        writer.join()
    with contextlib.suppress(ResponseError), prompt.client() as client:
        client.execute_command("CLIENT", "UNPAUSE")
    assert_equal(prompt, cluster, byte_equal=False)
