"""`--log-file` and `-q` as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke
from tests.cli.test_start_up import loaded_by
from tests.cli.unbalancing import unbalancing_weight
from tests.command import run


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{number}": number for number in range(100)})
    return source


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_a_run_is_logged_from_begin_to_end(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "log"
    if command == "verify":
        assert run("migrate", filled.url, cluster.url).code == 0
    options = ("--log-file", str(path), "--log-format", "json", "-v")
    assert run(command, filled.url, cluster.url, "--job", "logged", *options).code == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    types = [line["type"] for line in lines]
    assert types.count("run_started") == types.count("summary") == 1
    assert {"checkpoint", "progress"} <= set(types)
    assert lines[-1]["status"] == "completed"
    assert {line["logger"] for line in lines} == {"slotferry"}


def test_a_reshard_is_logged(filled: LocalServer, own_cluster: LocalCluster, tmp_path: Path) -> None:
    plan, path = tmp_path / "plan.json", tmp_path / "log"
    assert run("migrate", filled.url, own_cluster.url).code == 0
    weight = unbalancing_weight(own_cluster)
    assert run("reshard", "plan", own_cluster.url, "--weight", weight, "-o", str(plan)).code == 0
    done = run(
        "reshard", "apply", str(plan), own_cluster.url, "--job", "moved", "--log-file", str(path), "-q"
    )
    assert (done.code, done.stderr) == (0, "")
    assert "INFO moved: run 1 begins" in path.read_text()
    assert "INFO moved: completed" in path.read_text()


def test_quiet_is_quiet_but_for_results_and_errors(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("migrate", filled.url, cluster.url, "-q")
    assert (done.code, done.stderr) == (0, "")
    assert "migrated  100" in done.stdout
    failed = run("migrate", "redis://127.0.0.1:1", cluster.url, "-q")
    assert failed.code == 5
    assert "the source can't be reached" in failed.stderr


def test_a_log_that_can_not_be_written_is_told_before_the_run(invoke: Invoke) -> None:
    done = invoke("migrate", "redis://127.0.0.1:1", "redis://127.0.0.1:1", "--log-file", "/nowhere/log")
    assert done.code == 2
    assert "the log can't be written to /nowhere/log: No such file or directory" in done.err


def test_a_command_without_a_log_loads_nothing_of_its_file(tmp_path: Path) -> None:
    nobody = "redis://127.0.0.1:1"
    loaded = loaded_by("migrate", nobody, nobody, "--journal", str(tmp_path / "journal.db"))
    assert not loaded & {"slotferry.report.log.file", "slotferry.report.metrics", "slotferry.report.page"}
