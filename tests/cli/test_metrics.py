"""Metrics of the commands: scraped while they go on, written to a file, refused before anything begins."""

from __future__ import annotations

import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.cli.conftest import Invoke
from tests.cli.unbalancing import unbalancing_weight
from tests.command import Running, run
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 5_000


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


@pytest.fixture
def port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def parse(text: str) -> dict[str, float]:
    """Return the value of each sample, by its name and labels but for the job's name."""
    return {
        " ".join([s.name, *(f"{k}={v}" for k, v in sorted(s.labels.items()) if k != "job_name")]): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_a_run_is_scraped_while_it_goes_on(filled: LocalServer, cluster: LocalCluster, port: int) -> None:
    address = f"127.0.0.1:{port}"
    limited = ("--max-keys-per-second", "500", "--progress", "none")
    with Running("migrate", filled.url, cluster.url, "--metrics", address, *limited) as running:
        seen: dict[str, float] = {}
        of = "purpose=migrate side=source"

        def scraped() -> bool:
            try:
                with urllib.request.urlopen(f"http://{address}/metrics") as reply:
                    seen.update(parse(reply.read().decode()))
            except (urllib.error.URLError, ConnectionError):
                assert not running.ended
            # A primary's own count is not read in the same instant as the job's.
            acknowledged = sum(count for name, count in seen.items() if "primary_keys_total" in name)
            return min(acknowledged, seen.get(f"slotferry_keys_total outcome=migrated {of}", 0)) > 100

        wait_until(scraped, "keys to be counted")
        assert seen["slotferry_state state=running"] == 1
        assert seen[f"slotferry_expected_keys {of}"] == _KEYS
        primaries = [value for name, value in seen.items() if name.startswith("slotferry_primary_keys_total")]
        assert len(primaries) == 3


def test_a_short_run_is_seen_in_a_file(filled: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "slotferry.prom"
    done = run("migrate", filled.url, cluster.url, "--verify", "--metrics-file", str(path))
    assert done.code == 0, done.stderr
    found = parse(path.read_text())
    assert found["slotferry_keys_total outcome=migrated purpose=migrate side=source"] == _KEYS
    assert found["slotferry_keys_total outcome=unchanged purpose=verify side=source"] == _KEYS
    assert found["slotferry_scanned_keys_total purpose=verify side=target"] == _KEYS
    primaries = [value for name, value in found.items() if "primary_keys_total primary" in name]
    assert sum(primaries) >= _KEYS
    assert found["slotferry_succeeded"] == 1


def test_a_reshard_is_seen_in_a_file(filled: LocalServer, own_cluster: LocalCluster, tmp_path: Path) -> None:
    plan, path = tmp_path / "plan.json", tmp_path / "slotferry.prom"
    weight = unbalancing_weight(own_cluster)
    assert run("reshard", "plan", own_cluster.url, "--weight", weight, "-o", str(plan)).code == 0
    done = run("reshard", "apply", str(plan), own_cluster.url, "--metrics-file", str(path))
    assert done.code == 0, done.stderr
    found = parse(path.read_text())
    assert found["slotferry_slots state=moved"] > 0
    assert found["slotferry_slots state=remaining"] == 0


def test_a_port_in_use_is_told_before_the_run_begins(filled: LocalServer, cluster: LocalCluster) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        done = run("migrate", filled.url, cluster.url, "--metrics", f"127.0.0.1:{bound.getsockname()[1]}")
    assert done.code == 2
    assert "the port is in use" in done.stderr
    assert "begins" not in done.stderr
    assert count_keys(cluster) == 0


@pytest.mark.parametrize("value", ["9464", "host", "127.0.0.1:0", "127.0.0.1:99999"])
def test_what_is_no_address_is_told(invoke: Invoke, value: str) -> None:
    done = invoke("migrate", "redis://one", "redis://two", "--metrics", value)
    assert done.code == 2
    assert "is not HOST:PORT" in done.err


def test_a_file_that_can_not_be_written_is_told(invoke: Invoke) -> None:
    done = invoke("verify", "redis://one", "redis://two", "--metrics-file", "/nowhere/slotferry.prom")
    assert done.code == 2
    assert "the metrics can't be written to /nowhere/slotferry.prom: there is no folder /nowhere" in done.err


def test_a_missing_package_is_told(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    done = invoke("migrate", "redis://one", "redis://two", "--metrics", "127.0.0.1:9464")
    assert done.code == 2
    assert "prometheus-client, which is not installed" in done.err
    assert "pip install 'slotferry[metrics]'" in done.err
