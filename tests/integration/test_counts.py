"""Counts that reconcile: with the keys there are, over interruptions, and with what was shown last."""

from __future__ import annotations

import pytest

from slotferry import Migration, Options, Report
from slotferry.model.events import Progress, RunEnded
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 30_000


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def _run_until(source: LocalServer, cluster: LocalCluster, keys: int, options: Options) -> Report:
    """Run until so many keys are done, and interrupt it; what was shown last has to be what is reported."""
    shown: Progress | None = None
    with Migration(source.url, cluster.url, options) as migration:
        for event in migration.events():
            if isinstance(event, RunEnded):
                assert shown is not None
                assert shown.keys == event.report.keys
                assert shown.done_keys == event.report.keys.scanned
                return event.report
            if isinstance(event, Progress):
                shown = event
                if event.done_keys >= keys:
                    migration.cancel()
    raise AssertionError("the run has no end")


@pytest.mark.parametrize("parallel_scans", [1, 4, 32])
def test_no_key_is_counted_twice_after_interruptions(
    filled: LocalServer, cluster: LocalCluster, parallel_scans: int
) -> None:
    options = Options(job="nightly", max_keys_per_second=15_000, parallel_scans=parallel_scans)
    first = _run_until(filled, cluster, _KEYS // 4, options)
    second = _run_until(filled, cluster, first.keys.scanned + _KEYS // 4, options)
    assert first.status == second.status == "interrupted"
    assert first.keys.scanned < second.keys.scanned < _KEYS
    last = migrate(filled, cluster, job="nightly")
    assert last.ok
    assert last.resumed
    assert last.keys.scanned == last.keys.migrated + last.keys.unchanged == _KEYS
    assert_equal(filled, cluster, byte_equal=True)


@pytest.mark.parametrize("keys", [36_000, 40_000, 150_000])
def test_small_partitions_lose_no_key_to_interruptions(
    source: LocalServer, cluster: LocalCluster, keys: int
) -> None:
    """Partitions of some forty keys go on among those at which the one before looks: 32 from the start.

    With 150,000 keys they are beyond those.
    """
    with connect(source) as connection:
        fill_strings(connection, keys)
    options = Options(job="nightly", max_keys_per_second=20_000, parallel_scans=1024)
    first = _run_until(source, cluster, 6_000, options)
    second = _run_until(source, cluster, first.keys.scanned + keys // 10, options)
    assert first.status == second.status == "interrupted"
    last = migrate(source, cluster, job="nightly")
    assert last.ok
    assert last.resumed
    assert_equal(source, cluster)
    # A key that the next partition has brought may be counted twice where that one is small.
    assert keys <= last.keys.scanned < keys + 1_000


@pytest.mark.parametrize("parallel_scans", [16, 256, 1024])
def test_many_partitions_find_each_key_once(
    filled: LocalServer, cluster: LocalCluster, parallel_scans: int
) -> None:
    report = migrate(filled, cluster, parallel_scans=parallel_scans)
    assert report.ok
    # A table that is resized meanwhile brings some keys twice; they are unchanged then.
    assert report.keys.migrated == _KEYS
    assert report.keys.scanned - report.keys.unchanged == _KEYS
    assert report.keys.unchanged < _KEYS // 100


def test_a_few_keys_in_many_partitions(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(50)})
    report = migrate(source, cluster, parallel_scans=1024)
    assert report.keys.scanned == report.keys.migrated == 50


def test_skipped_says_that_the_target_has_the_key(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("key", 1)
        new.set("key", 1)
    done = run("migrate", source.url, cluster.url, "--on-conflict", "skip")
    assert done.code == 0
    assert "the target has the key, left as it is" in done.stdout
