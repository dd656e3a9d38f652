"""Ctrl-C and SIGTERM while a node hangs: whoever looks ends at once, whoever mends leaves nothing behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster
from tests.command import Outcome, Running, run
from tests.reshard.broken import half_moved, node_id, setslot
from tests.reshard.client import open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean
from tests.servers.proxy import Proxy

_TIMEOUT = 60
_DEBUG = {"SLOTFERRY_DEBUG": "1"}  # shows what the interruption came of


def proxy_of(cluster: LocalCluster) -> Proxy:
    return Proxy(cluster.primaries[0].host, cluster.primaries[0].port)


def through(cluster: LocalCluster, proxy: Proxy) -> tuple[str, ...]:
    """Return the arguments that lead what goes to the first primary through the proxy."""
    return (url_of(proxy), "--address-map", f"{cluster.primaries[0].address}={proxy.address}")


def url_of(proxy: Proxy) -> str:
    return f"redis+cluster://{proxy.address}"


def assert_not_waited_for(outcome: Outcome, sentence: str, *numbers: signal.Signals) -> None:
    assert outcome.code in [128 + number for number in numbers], outcome.stderr
    assert f"slotferry: {sentence}\n" in outcome.stderr
    assert "timed out" not in outcome.stderr


@pytest.mark.parametrize(
    ("command", "marker", "number"),
    [
        ("plan", b"NODES", signal.SIGTERM),
        ("plan", b"COUNTKEYSINSLOT", signal.SIGINT),
        ("plan", b"COUNTKEYSINSLOT", signal.SIGTERM),
        ("status", b"COUNTKEYSINSLOT", signal.SIGTERM),
        ("fix", b"COUNTKEYSINSLOT", signal.SIGINT),
        ("fix --apply", b"COUNTKEYSINSLOT", signal.SIGTERM),
    ],
)
def test_who_looks_ends_at_once(
    cluster: LocalCluster, command: str, marker: bytes, number: signal.Signals, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    output = ("-o", str(file)) if command == "plan" else ()
    with proxy_of(cluster) as proxy:
        proxy.hold_at(marker)
        whole = ("reshard", *command.split(), *through(cluster, proxy), *output)
        with Running(*whole, env=_DEBUG) as running:
            assert proxy.held.wait(_TIMEOUT)
            running.send(number)
            outcome = running.finish(timeout=_TIMEOUT)
    assert_not_waited_for(outcome, "interrupted; nothing was written", number)
    assert "was lost at" in outcome.stderr
    assert outcome.stdout == ""
    assert list(tmp_path.glob("plan.json*")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_job_that_plans_ends_at_once(cluster: LocalCluster, number: signal.Signals, tmp_path: Path) -> None:
    config = tmp_path / "jobs.toml"
    with proxy_of(cluster) as proxy:
        *_, address_map = through(cluster, proxy)
        config.write_text(
            f'[jobs.nightly]\ncluster = "{url_of(proxy)}"\nby = "keys"\naddress-map = ["{address_map}"]\n'
        )
        proxy.hold_at(b"COUNTKEYSINSLOT")
        with Running("reshard", "run", "--config", str(config), env=_DEBUG) as running:
            assert proxy.held.wait(_TIMEOUT)
            running.send(number)
            outcome = running.finish(timeout=_TIMEOUT)
    assert_not_waited_for(outcome, "interrupted; nothing was written", number)


def test_mending_finishes_the_slots_in_hand(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    half, late = MOVING[:2]
    half_moved(first, second, half, 4)
    setslot(second, late, "IMPORTING", node_id(first))
    with proxy_of(own) as proxy:
        proxy.hold_at(b"MIGRATE")
        with Running("reshard", "fix", "--apply", *through(own, proxy)) as running:
            assert proxy.held.wait(_TIMEOUT)
            running.send(signal.SIGTERM)
            proxy.resume()
            outcome = running.finish(timeout=_TIMEOUT)
    assert outcome.code == 143, outcome.stderr
    assert "slotferry: interrupted; 1 slot repaired\n" in outcome.stderr
    assert slots_owned(own)[half] is second
    assert open_slots(own) == [f"[{late}-<-{node_id(first)}]"]
    assert run("reshard", "fix", own.url, "--apply").code == 0
    assert_clean(own)


@pytest.mark.parametrize("own", ["redis-7.0", "valkey-8.1"], indirect=True)
@pytest.mark.parametrize("hung", [0, 1])
def test_mending_ends_at_once_where_that_is_asked_for(own: LocalCluster, hung: int) -> None:
    first, second, _ = own.primaries
    half, late = MOVING[:2]
    half_moved(first, second, half, 4)
    setslot(second, late, "IMPORTING", node_id(first))
    stopped = own.primaries[hung].pid
    with proxy_of(own) as proxy:
        proxy.hold_at(b"MIGRATE")
        command = ("reshard", "fix", "--apply", *through(own, proxy))
        with Running(*command, env=_DEBUG) as running:
            assert proxy.held.wait(_TIMEOUT)
            os.kill(stopped, signal.SIGSTOP)
            try:
                proxy.resume()
                running.send(signal.SIGINT)
                running.send(signal.SIGTERM)  # whichever of the two is heard of first
                outcome = running.finish(timeout=_TIMEOUT)
            finally:
                os.kill(stopped, signal.SIGCONT)
    assert_not_waited_for(outcome, "interrupted; 0 slots repaired", signal.SIGINT, signal.SIGTERM)
    assert "hint: run the same command again: it finds what is left" in outcome.stderr
    own.wait_until_healthy()
    assert f"[{late}-<-{node_id(first)}]" in open_slots(own)
    repaired = run("reshard", "fix", own.url, "--apply")
    assert repaired.code == 0, repaired.stdout + repaired.stderr
    assert_clean(own)
