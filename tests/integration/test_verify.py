"""`Verification`: everything that differs is found and nothing else, across versions; and repair."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options, Verification, VerifyOptions, VerifyReport
from slotferry.errors import JobMismatchError, TargetNotReadyError
from slotferry.model.events import PhaseStarted, Progress
from slotferry.model.rules import Rewrite
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.dataset import fill, fill_strings
from tests.servers.kinds import available
from tests.servers.planting import plant, plant_large, sow, sow_large
from tests.servers.proxy import Proxy
from tests.servers.raw import connect

_VALKEY = [("redis-6.2", "valkey-9.1"), ("redis-7.0", "valkey-9.1"), ("valkey-9.1", "valkey-9.1")]


def verify(source: LocalServer, cluster: LocalCluster, **options: Any) -> VerifyReport:
    """Compare two sides; a busy machine may have shortened a TTL by more than the default tolerance."""
    defaults: dict[str, Any] = {"show_values": True, "ttl_tolerance": 2.0, "recheck": 1}
    return Verification(source.url, cluster.url, VerifyOptions(**{**defaults, **options})).run()


def differences(path: Path) -> dict[bytes, str]:
    """Return what `differences` wrote: key → kind."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = {line["key"].encode(): line["kind"] for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.mark.parametrize(("source", "cluster"), _VALKEY, indirect=True)
def test_equal_data_is_equal_across_versions(
    request: pytest.FixtureRequest, source: LocalServer, cluster: LocalCluster
) -> None:
    valkey = request.node.callspec.params["source"] == "valkey-9.1"
    with connect(source) as connection:
        keys = fill(connection, 5_000, field_ttls=valkey)
    assert migrate(source, cluster).ok

    for options in ({}, {"quick": True}, {"memory_limit": 1 << 20}):
        report = verify(source, cluster, **options)
        assert report.ok, (options, report.examples)
        assert report.keys.scanned == report.keys.unchanged == report.target_keys.scanned == keys


@pytest.mark.parametrize(("source", "cluster"), _VALKEY, indirect=True)
def test_everything_planted_is_found_and_nothing_else(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    _find_and_repair(source, cluster, tmp_path / "differences", keys=3_000, each=3)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("source", "cluster"), _VALKEY[:2], indirect=True)
def test_a_thousand_differences_among_a_million_keys(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    _find_and_repair(source, cluster, tmp_path / "differences", keys=1_000_000, each=53)


def _find_and_repair(source: LocalServer, cluster: LocalCluster, path: Path, *, keys: int, each: int) -> None:
    with connect(source) as connection:
        fill(connection, keys)
    with source.client() as old, cluster.client() as new:
        sow(old, each)
        assert migrate(source, cluster).ok
        expected = plant(new, each)

    report = verify(source, cluster, differences=path)

    assert differences(path) == expected
    assert report.differences == Counter(expected.values())
    assert report.status == "completed_with_differences"
    assert not report.ok

    repaired = verify(source, cluster, repair=True)
    assert repaired.differences == {"extra": each}
    assert repaired.repaired == len(expected) - each

    cleaned = verify(source, cluster, repair=True, delete_extra=True, yes=True, differences=path)
    assert (cleaned.ok, cleaned.deleted, cleaned.repaired) == (True, each, 0)
    assert differences(path) == {}
    assert verify(source, cluster).ok


def test_values_beyond_the_limit_are_compared_in_parts(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "differences"
    with source.client() as old, cluster.client() as new:
        sow_large(old)
        assert migrate(source, cluster).ok
        assert verify(source, cluster, memory_limit=1 << 20).ok
        expected = plant_large(new)

        report = verify(source, cluster, memory_limit=1 << 20, differences=path)

        assert differences(path) == expected
        string = next(one for one in report.examples if one.key == b"large:string")
        assert "byte 2999999" in string.source
        assert '"y"' in string.target
    assert verify(source, cluster, memory_limit=1 << 20, repair=True).ok


def test_what_is_compared_in_parts_counts_among_the_bytes(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        for at in range(20):
            connection.execute("RPUSH", "list", *(b"%d" % at * 50_000 for _ in range(2)))
        connection.execute("SET", "string", b"x" * 1_000_000)
    assert migrate(source, cluster).ok

    report = verify(source, cluster, big_key_bytes=64_000)
    assert report.ok
    assert report.totals.bytes >= 1_000_000 + 20 * 2 * 50_000


def test_keys_that_are_large_at_the_source_are_never_dumped_there(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "differences"
    with source.client() as old, cluster.client() as new:
        sow_large(old)
        old.set("small", "x")
        assert migrate(source, cluster).ok
        old.config_resetstat()
        assert verify(source, cluster, big_key_bytes=65_536).ok
        assert old.info("commandstats")["cmdstat_dump"]["calls"] == 1
        expected = plant_large(new)

        verify(source, cluster, big_key_bytes=65_536, differences=path)

        assert differences(path) == expected


@pytest.mark.parametrize(("source", "cluster"), [("valkey-9.1", "valkey-9.1")], indirect=True)
def test_field_ttls_are_compared_in_parts_too(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "differences"
    with connect(source) as connection:
        for key in ("same", "lost", "other"):
            for start in range(0, 20_000, 1_000):
                names = [f"field {i}" for i in range(start, start + 1_000)]
                connection.execute("HSET", key, *(part for name in names for part in (name, "x")))
                connection.execute("HPEXPIRE", key, 3_600_000, "FIELDS", 100, *names[::10])
    assert migrate(source, cluster).ok
    assert verify(source, cluster, big_key_bytes=65_536).ok
    with cluster.client() as new:
        new.execute_command("HPERSIST", "lost", "FIELDS", 1, "field 19990")
        new.execute_command("HPEXPIRE", "other", 3_700_000, "FIELDS", 1, "field 0")

    report = verify(source, cluster, big_key_bytes=65_536, differences=path)

    assert differences(path) == {b"lost": "different", b"other": "different"}
    lost = next(one for one in report.examples if one.key == b"lost")
    assert '"field 19990" expires at' in lost.source
    assert '"field 19990" does not expire' in lost.target


def test_a_large_key_does_not_hold_up_a_stop(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.set("large", "x" * 20_000_000)
        old.set("small", "x")
    assert migrate(source, cluster).ok
    # At this rate, all of it would take a minute and more.
    limited = VerifyOptions(big_key_bytes=65_536, max_bytes_per_second=300_000)
    verification = Verification(source.url, cluster.url, limited)
    for event in verification.events():
        if isinstance(event, Progress) and event.keys.unchanged:
            verification.cancel()

    report = verification.result()

    assert report.status == "interrupted"
    assert not report.keys.unchanged  # their page is not through
    report = verify(source, cluster, big_key_bytes=65_536, ttl_tolerance=0.1)
    assert report.resumed
    assert report.ok, report.examples


def test_renamed_keys_are_compared_and_repaired_under_both_names(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "differences"
    rules = [Rewrite(r"^user:(\d+)$", "user:{$1}")]
    with source.client() as old, cluster.client() as new:
        for i in range(100):
            old.set(f"user:{i}", i)
        sow_large(old)
        assert migrate(source, cluster, rules=rules).ok
        assert verify(source, cluster, rules=rules, memory_limit=1 << 20).ok
        new.set("user:{7}", "other")
        new.delete("user:{8}")

        verify(source, cluster, rules=rules, differences=path)

        # By the source's names, since the source is asked for them again.
        assert differences(path) == {b"user:7": "different", b"user:8": "missing"}
        assert verify(source, cluster, rules=rules, repair=True).repaired == 2
        assert new.get("user:{7}") == b"7"


def test_several_databases_each_into_its_own(stack: ExitStack) -> None:
    kind = available().get("valkey-9.1")
    if kind is None:
        pytest.skip("this machine has no valkey-9.1")
    source = stack.enter_context(LocalServer(kind.binary))
    cluster = stack.enter_context(LocalCluster(kind.binary, config={"cluster-databases": "16"}))
    for database in (0, 2, 5):
        with source.client(db=database) as old:
            for i in range(50):
                old.set(f"key:{i}", f"{database}:{i}")
    assert migrate(source, cluster, db="all").ok
    assert verify(source, cluster, db="all").target_keys.scanned == 150
    node = cluster.primaries[0]
    with node.client(db=2) as new:
        own = next(iter(new.scan_iter()))
        new.set(own, "other")
    with node.client(db=5) as new:
        new.set(b"{" + own + b"}extra", "x")

    report = verify(source, cluster, db="all", repair=True, delete_extra=True, yes=True)

    assert report.ok, report.examples
    assert (report.repaired, report.deleted) == (1, 1)


def test_another_database_of_the_source(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client(db=3) as old, cluster.client() as new:
        for i in range(50):
            old.set(f"key:{i}", i)
        url = f"{source.url}/3"
        assert Migration(url, cluster.url).run().ok
        new.set("extra", "x")
        new.set("key:1", "x")
        report = Verification(url, cluster.url, VerifyOptions(recheck=1)).run()
        assert report.differences == {"extra": 1, "different": 1}
        options = VerifyOptions(recheck=1, repair=True, delete_extra=True, yes=True)
        assert Verification(url, cluster.url, options).run().ok


def test_damage_on_the_way_is_a_row_of_its_own(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    with source.client() as old:
        old.set("damaged", "MARK of a value")
        old.rpush("sound", "a", "b")
    assert migrate(source, cluster).ok
    proxy = stack.enter_context(Proxy(source.host, source.port))
    pass_on = proxy.to_client.take
    monkeypatch.setattr(proxy.to_client, "take", lambda data: pass_on(data.replace(b"MARK of", b"mark of")))

    report = Verification(f"redis://{proxy.address}", cluster.url, VerifyOptions(recheck=0)).run()

    assert report.differences == {"payload": 1}
    assert report.keys.unchanged == 1
    (example,) = report.examples
    assert example.key == b"damaged"
    assert "CRC64" in example.target


_PEAK = """
import re, sys
from slotferry import Verification, VerifyOptions
report = Verification(*sys.argv[1:], VerifyOptions(memory_limit=4 << 20)).run()
# Not ru_maxrss, which is never less than what the parent held when it started this process.
print(report.ok, int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_value_far_beyond_the_budget_is_never_held(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        connection.execute("SET", "huge", random.Random(3).randbytes(80_000_000))
        connection.execute("SET", "small", "x")
    assert migrate(source, cluster).ok

    done = subprocess.run(
        [sys.executable, "-c", _PEAK, source.url, cluster.url], capture_output=True, text=True, check=True
    )

    ok, peak = done.stdout.split()
    assert ok == "True"
    assert int(peak) < 80  # MB, of which an interpreter with its libraries takes some 45


def test_quick_sees_type_ttl_and_length(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "differences"
    with source.client() as old, cluster.client() as new:
        sow(old, 1)
        assert migrate(source, cluster).ok
        plant(new, 1)

    report = verify(source, cluster, quick=True, differences=path)

    kinds = {key.decode().split(":")[1]: kind for key, kind in differences(path).items()}
    assert kinds == {
        "missing": "missing",
        "extra": "extra",
        "value with a TTL": "different",
        "longer TTL": "ttl",
        "TTL lost": "ttl",
        "TTL gained": "ttl",
        "type": "type",
        "stream entry": "different",
    }
    example = next(one for one in report.examples if one.kind == "type")
    assert (example.source, example.target) == ("string of 1 bytes", "list")


def test_a_sample_is_the_same_part_on_both_sides(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        fill_strings(connection, 20_000)
    assert migrate(source, cluster).ok

    report = verify(source, cluster, sample=0.05)

    assert report.ok
    assert report.keys.scanned == report.target_keys.scanned
    assert 800 < report.keys.scanned < 1_200


def test_match_and_type_narrow_both_directions(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        for i in range(50):
            old.set(f"user:{i}", i)
            old.rpush(f"list:{i}", i)
        assert migrate(source, cluster).ok
        new.set("user:extra", "x")
        new.set("other:extra", "x")

    found = verify(source, cluster, match="user:*")
    assert (found.keys.scanned, found.differences) == (50, {"extra": 1})
    assert verify(source, cluster, type="list").ok


def test_what_a_filter_of_values_leaves_out_is_never_extra(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old, cluster.client() as new:
        for i in range(50):
            old.set(f"string:{i}", i)
            old.rpush(f"list:{i}", i)
            old.sadd(f"set:{i}", i)
        assert migrate(source, cluster).ok
        new.sadd("set:extra", "x")
        for choice in ({"type": ("string", "list")}, {"exclude_type": ("set",)}, {"max_size": 10_000}):
            report = verify(source, cluster, repair=True, delete_extra=True, yes=True, **choice)
            assert report.ok, (choice, report.examples)
        assert new.exists("set:extra")


def test_what_is_in_motion_is_no_difference(source: LocalServer, cluster: LocalCluster) -> None:
    """Keys that differ when they are first read, and not when they are read again."""
    with source.client() as old, cluster.client() as new:
        for i in range(100):
            old.set(f"key:{i}", i)
        assert migrate(source, cluster).ok
        new.set("key:5", "late")
        new.set("extra", "late")
        new.delete("key:6")
        verification = Verification(source.url, cluster.url, VerifyOptions())
        for event in verification.events():
            if isinstance(event, PhaseStarted) and event.phase == "recheck":
                new.set("key:5", 5)
                new.set("key:6", 6)
                new.delete("extra")

    report = verification.result()
    assert report.ok, report.examples
    assert report.keys.unchanged == 100


def test_keys_that_are_read_again_are_shown_once(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        for i in range(3_000):
            old.set(f"key:{i}", i)
        assert migrate(source, cluster).ok
        for i in range(3_000):
            new.set(f"key:{i}", "other")
    limited = VerifyOptions(max_keys_per_second=6_000)  # so that progress is told between two checkpoints
    verification = Verification(source.url, cluster.url, limited)
    progress = [event for event in verification.events() if isinstance(event, Progress)]

    assert verification.result().differences == {"different": 3_000}
    assert progress[-1].purpose == "verify"
    assert all(event.done_keys <= event.keys.scanned for event in progress)


def test_expiring_keys_are_no_difference(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("stays", 1)
        assert migrate(source, cluster).ok
        # They expire at the target alone, which is what a clock that is a little ahead looks like.
        for i in range(20):
            old.set(f"goes:{i}", i, px=60_000)
            new.set(f"goes:{i}", i, px=60_000)
            new.delete(f"goes:{i}")
        report = verify(source, cluster, ttl_tolerance=100.0)
    assert report.ok
    assert report.keys.expired == 20


def test_a_migration_named_as_the_other_direction_keeps_its_place(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    migrate(source, cluster, journal=journal, job="mine.extra")

    with pytest.raises(JobMismatchError, match=r"mine\.extra"):
        Verification(source.url, cluster.url, VerifyOptions(journal=journal, job="mine")).run()


def test_an_interrupted_verification_goes_on(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        fill_strings(connection, 200_000)
    assert migrate(source, cluster).ok
    with cluster.client() as new:
        new.set("key:7", "other")
    first = Verification(source.url, cluster.url, VerifyOptions(recheck=0))
    for event in first.events():
        if isinstance(event, Progress) and event.keys.unchanged:
            first.cancel()
    stopped = first.result()
    assert stopped.status == "interrupted"

    with pytest.raises(JobMismatchError, match="comparison: the journal has values, TTL within"):
        verify(source, cluster, quick=True)
    second = verify(source, cluster, recheck=0, ttl_tolerance=0.1)

    assert second.resumed
    assert second.runs == 2
    # After a resume the partitions' last pages may bring keys once more.
    assert second.keys.scanned >= second.target_keys.scanned == 200_000
    assert second.differences == {"different": 1}
    third = verify(source, cluster)
    assert not third.resumed  # a complete pass is followed by a fresh one
    assert third.keys.scanned == 200_000


def test_a_migrations_job_is_not_taken_for_a_verification(source: LocalServer, cluster: LocalCluster) -> None:
    migrate(source, cluster, job="nightly")

    with pytest.raises(JobMismatchError, match="purpose"):
        verify(source, cluster, job="nightly")


def test_migrate_and_verify_in_one_go(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        for i in range(500):
            old.set(f"key:{i}", i)
        new.set("extra", "x")

    report = Migration(source.url, cluster.url, Options(verify=True)).run()

    assert report.verification is not None
    assert report.keys.migrated == report.verification.keys.unchanged == 500
    assert report.verification.differences == {"extra": 1}
    assert not report.ok
    assert report.to_dict()["verification"]["keys"]["extra"] == 1
    with cluster.client() as new:
        new.delete("extra")
    assert Migration(source.url, cluster.url, Options(verify=True)).run().ok


def test_rights_that_are_missing_are_named(source: LocalServer, cluster: LocalCluster) -> None:
    for node in cluster.primaries:
        with node.client() as client:
            client.execute_command(
                "ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-scan", "-restore"
            )
    try:
        url = cluster.url.replace("://", "://reader:pw@")
        with pytest.raises(TargetNotReadyError, match="SCAN"):
            Verification(source.url, url).run()
        with pytest.raises(TargetNotReadyError, match="RESTORE"):
            Verification(source.url, url, VerifyOptions(repair=True)).run()
    finally:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "DELUSER", "reader")


def test_a_user_that_may_only_read_can_verify(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.set("key", "value")
    assert migrate(source, cluster).ok
    commands = ("scan", "dump", "pttl", "pexpiretime", "time", "info", "cluster", "ping", "asking")
    for node in cluster.primaries:
        with node.client() as client:
            rights = [f"+{name}" for name in commands]
            client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", *rights)
    try:
        assert Verification(source.url, cluster.url.replace("://", "://reader:pw@")).run().ok
    finally:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "DELUSER", "reader")
