"""Ctrl-C, SIGTERM, and a second process on the same job."""

from __future__ import annotations

import signal

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.proxy import Proxy
from tests.servers.raw import connect

_KEYS = 300_000


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def _until_under_way(running: Running, cluster: LocalCluster) -> None:
    wait_until(lambda: running.ended or count_keys(cluster) > _KEYS // 20, "the first keys to arrive")
    assert not running.ended


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)]
)
def test_one_signal_drains_and_saves(
    filled: LocalServer, cluster: LocalCluster, number: signal.Signals, code: int
) -> None:
    command = ("migrate", filled.url, cluster.url, "--json")
    with Running(*command) as running:
        _until_under_way(running, cluster)
        running.send(number)
        done = running.finish()

    assert done.code == code, done.stderr
    assert done.summary["status"] == "interrupted"
    assert done.keys["migrated"] == count_keys(cluster) < _KEYS
    assert "Traceback" not in done.stderr

    resumed = run(*command)
    assert resumed.code == 0
    assert resumed.summary["resumed"]
    assert resumed.keys["migrated"] == _KEYS
    assert_equal(filled, cluster, byte_equal=True)


def test_a_second_signal_stops_at_once_and_loses_nothing(filled: LocalServer, cluster: LocalCluster) -> None:
    node = cluster.primaries[0]
    with Proxy(filled.host, filled.port) as proxy:
        command = ("migrate", f"redis://{proxy.address}", cluster.url, "--json")
        with Running(*command) as running:
            _until_under_way(running, cluster)
            proxy.stall()  # what is in hand can't be finished now
            running.send(signal.SIGINT)
            wait_until(lambda: _silent(node), "the writes to end")
            assert not running.ended
            running.send(signal.SIGINT)
            done = running.finish()
        assert done.code == 130, done.stderr
        proxy.resume()
        resumed = run(*command)

    assert resumed.code == 0
    assert resumed.keys["migrated"] + resumed.keys["unchanged"] == resumed.keys["scanned"]
    assert_equal(filled, cluster, byte_equal=True)


def _silent(node: LocalServer) -> bool:
    """Whether no SET came between two looks."""
    seen = []
    with node.client() as client:
        for _ in range(2):
            seen.append(client.info("commandstats")["cmdstat_set"]["calls"])
            client.execute_command("WAIT", 1, 200)  # the server's own 200 ms: there is no replica
    return bool(seen[0] == seen[1])


def test_a_second_process_on_the_same_job_is_refused(filled: LocalServer, cluster: LocalCluster) -> None:
    command = ("migrate", filled.url, cluster.url, "--json")
    with Running(
        *command, "--max-keys-per-second", "30000"
    ) as running:  # it lasts while the other one starts
        _until_under_way(running, cluster)
        refused = run(*command)
        first = running.finish()

    assert refused.code == 4
    assert refused.summary["error"]["kind"] == "job_locked"
    assert str(running.pid) in refused.stderr
    assert first.code == 0
