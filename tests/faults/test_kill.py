"""`kill -9` at any instant: the same command again completes the work."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill, fill_strings
from tests.servers.raw import connect


@pytest.mark.parametrize("seed", range(3))
def test_killed_several_times_and_nothing_is_lost(
    source: LocalServer, cluster: LocalCluster, seed: int
) -> None:
    rng = random.Random(seed)
    with connect(source) as connection:
        keys = fill(connection, 150_000, seed=seed)
    command = ("migrate", source.url, cluster.url, "--json", "--parallel-scans", str(2**seed * 2))

    for threshold in sorted(rng.randrange(1, keys) for _ in range(4)):
        _kill_when(partial(_has_keys, cluster, threshold), command)
    done = run(*command)

    assert done.code == 0, done.stderr
    counts = done.keys
    assert counts["migrated"] + counts["unchanged"] == counts["scanned"] >= keys
    assert_equal(source, cluster, byte_equal=True)


def test_killed_before_the_first_key(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        fill_strings(connection, 50_000)
    command = ("migrate", source.url, cluster.url, "--json")
    for _ in range(5):
        _kill_when(partial(_was_scanned, source), command)

    done = run(*command)

    assert done.code == 0, done.stderr
    assert_equal(source, cluster, byte_equal=True)


def test_the_second_run_goes_on_where_the_first_was_killed(
    source: LocalServer, cluster: LocalCluster
) -> None:
    keys = 600_000
    with connect(source) as connection:
        fill_strings(connection, keys)
    command = ("migrate", source.url, cluster.url, "--json")
    _kill_when(lambda: _recorded() > keys // 4, command)
    recorded = _recorded()
    for node in cluster.primaries:
        with node.client() as client:
            client.config_resetstat()

    done = run(*command)

    assert done.code == 0
    assert done.summary["resumed"]
    sent = sum(_writes(node) for node in cluster.primaries)
    assert sent <= keys - recorded + 10_000  # a key may be scanned twice, a page or two a partition
    assert count_keys(cluster) == keys


def _kill_when(condition: Callable[[], bool], command: tuple[str, ...]) -> None:
    """Run the command and kill it as soon as `condition` holds, or find that it has ended before."""
    with Running(*command) as running:
        wait_until(lambda: running.ended or condition(), "the moment to kill the run")
        running.kill()


def _has_keys(cluster: LocalCluster, count: int) -> bool:
    return count_keys(cluster) >= count


def _was_scanned(source: LocalServer) -> bool:
    with source.client() as client:
        if "cmdstat_scan" not in client.info("commandstats"):
            return False
        client.config_resetstat()
    return True


def _recorded() -> int:
    """Return how many keys the journal knows as written, read while the run goes on."""
    jobs = run("jobs", "list", "--json").lines
    return int(jobs[0]["keys"]["migrated"]) if jobs else 0


def _writes(node: LocalServer) -> int:
    with node.client() as client:
        statistics = client.info("commandstats")
    return sum(int(statistics.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("restore", "set"))


@pytest.mark.long
@pytest.mark.parametrize(
    ("source", "cluster"), [(kind, kind) for kind in ("redis-7.0", "valkey-9.1")], indirect=True
)
def test_a_million_keys_killed_three_times(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        keys = fill(connection, 1_000_000)
    command = ("migrate", source.url, cluster.url, "--json")
    for part in (1, 2, 3):
        _kill_when(partial(_has_keys, cluster, keys * part // 4), command)

    done = run(*command)

    assert done.code == 0
    comparison = assert_equal(source, cluster, byte_equal=True)
    assert comparison.keys == keys
