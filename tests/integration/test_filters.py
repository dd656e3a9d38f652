"""Which keys are taken: by name, by type, by database, and none at all in a dry run."""

from __future__ import annotations

from pathlib import Path

import pytest

from slotferry import Migration, Options
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys, migrate


def test_match_takes_only_what_the_glob_matches(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({f"user:{i}": i for i in range(3_000)})
        old.mset({f"order:{i}": i for i in range(3_000)})

        report = migrate(source, cluster, match="user:*")

        assert report.ok
        assert report.keys.scanned == report.keys.migrated == 3_000
        assert count_keys(cluster) == 3_000
        assert new.get("user:77") == b"77"


def test_match_takes_any_bytes(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({b"\xff\x00one": 1, b"\xffother": 2})

        assert migrate(source, cluster, match=b"\xff\x00*").keys.migrated == 1
        assert new.get(b"\xff\x00one") == b"1"


def test_type_takes_only_one_type(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        for i in range(200):
            old.set(f"string:{i}", i)
            old.hset(f"hash:{i}", "f", i)
            old.xadd(f"stream:{i}", {"f": i})

        report = migrate(source, cluster, type="hash")

        assert report.keys.migrated == count_keys(cluster) == 200
        assert new.hget("hash:5", "f") == b"5"


def test_match_and_type_together(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        for i in range(50):
            old.set(f"a:{i}", i)
            old.rpush(f"a:list:{i}", i)
            old.rpush(f"b:list:{i}", i)

    assert migrate(source, cluster, match="a:*", type="list").keys.migrated == 50


def test_nothing_matches(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({f"key:{i}": i for i in range(1_000)})

    report = migrate(source, cluster, match="nobody is called this*")

    assert report.ok
    assert report.keys.scanned == 0


def test_an_empty_source(source: LocalServer, cluster: LocalCluster) -> None:
    report = migrate(source, cluster)

    assert report.ok
    assert report.keys.scanned == count_keys(cluster) == 0


def test_another_database_of_the_source(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client(db=3) as third, source.client() as first:
        third.mset({f"third:{i}": i for i in range(1_000)})
        first.set("first", "stays")

    report = Migration(f"{source.url}/3", cluster.url).run()

    assert report.keys.migrated == count_keys(cluster) == 1_000


def test_a_dry_run_counts_and_writes_nothing(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as old:
        old.mset({f"key:{i}": i for i in range(5_000)})
    before = _writes(cluster)

    report = migrate(source, cluster, dry_run=True, journal=journal)

    assert report.ok
    assert report.keys.scanned == 5_000
    assert report.keys.migrated == 0
    assert sum(count for _, count in report.keys_by_primary) == 5_000
    assert {address for address, _ in report.keys_by_primary} == {node.address for node in cluster.primaries}
    assert not journal.exists()
    assert count_keys(cluster) == 0
    assert _writes(cluster) == before


def _writes(cluster: LocalCluster) -> list[int]:
    """Return how many changes each primary has seen, even those that changed nothing for good."""
    changes = []
    for node in cluster.primaries:
        with node.client() as client:
            changes.append(client.info("persistence")["rdb_changes_since_last_save"])
    return changes


@pytest.mark.parametrize("parallel_scans", [1, 2, 8, 64])
def test_every_key_arrives_once_with_any_number_of_scans(
    source: LocalServer, cluster: LocalCluster, parallel_scans: int
) -> None:
    with source.client() as old:
        old.mset({f"key:{i}": i for i in range(20_000)})

    report = migrate(source, cluster, parallel_scans=parallel_scans)

    assert report.ok
    assert report.keys.migrated == count_keys(cluster) == 20_000
    assert report.keys.add_up


def test_the_options_of_two_sources_make_two_jobs(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client(db=1) as first, source.client(db=2) as second:
        first.set("one", 1)
        second.set("two", 2)

    reports = [Migration(f"{source.url}/{db}", cluster.url, Options()).run() for db in (1, 2)]

    assert reports[0].job != reports[1].job
    assert count_keys(cluster) == 2
