"""A reshard that goes on is asked from another terminal: to pause, to go on, to be slower, to end."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from slotferry.jobs.lock import JobLock
from slotferry.jobs.names import default_journal_path
from slotferry.reshard.journal import ReshardJournal
from slotferry.testing.servers import LocalCluster, wait_until
from tests.command import Running, run
from tests.reshard.client import LoadClient, keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean, plan_away

ALL_METHODS = ["redis-7.0", "valkey-8.1", "valkey-9.1"]  # handed over, by MIGRATE, by the servers


@pytest.fixture
def plan(own: LocalCluster, tmp_path: Path) -> str:
    file = tmp_path / "plan.json"
    file.write_text(plan_away(own).to_json())
    return str(file)


def _live() -> dict[str, Any]:
    shown = run("jobs", "show", "nightly", "--json")
    assert shown.code == 0, shown.stderr
    return next(line for line in shown.lines if line["type"] == "live")


def _gone(cluster: LocalCluster) -> int:
    owned = slots_owned(cluster)
    return sum(owned[slot] is not cluster.primaries[0] for slot in MOVING)


def _more_are_gone(cluster: LocalCluster, before: int) -> bool:
    return _gone(cluster) > before


def _until(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, what, timeout=60)


@pytest.mark.parametrize("own", ALL_METHODS, indirect=True)
def test_pause_show_rate_resume_and_cancel_from_another_terminal(
    own: LocalCluster, plan: str, tmp_path: Path
) -> None:
    command = ("reshard", "apply", plan, own.url, "--job", "nightly", "--json")
    with (
        LoadClient(own.primaries[0].address, keys_in(MOVING, 10), tmp_path) as client,
        Running(*command, "--max-bytes-per-second", "40kB") as running,
    ):
        _until(lambda: _gone(own) > 0, "the first slots to move")
        (socket,) = default_journal_path().parent.glob("*.locks/*.sock")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        paused = run("jobs", "pause", "nightly", "--json")
        assert paused.code == 0, paused.stderr
        assert (paused.lines[0]["type"], paused.lines[0]["command"]) == ("asked", "pause")
        _until(lambda: _live()["state"] == "paused", "the run to pause")
        assert open_slots(own) == []
        moved = _gone(own)
        assert 0 < moved < 400
        live = _live()
        assert live["reason"].startswith("by the operator, ")
        assert (live["job"], live["slots_done"], live["slots"]) == ("nightly", moved, 400)
        assert "paused: by the operator" in run("jobs", "show", "nightly").stdout

        keys = run("jobs", "rate", "nightly", "--max-keys-per-second", "100")
        assert keys.code == 2
        assert "a reshard can't be limited by keys" in keys.stderr
        assert run("jobs", "rate", "nightly", "--max-bytes-per-second", "10kB").code == 0
        _until(lambda: _live()["max_bytes_per_second"] == 10_000, "the rate to be taken")
        assert _gone(own) == moved
        assert run("jobs", "resume", "nightly").code == 0
        _until(lambda: _gone(own) > moved, "the run to go on")

        cancelled = run("jobs", "cancel", "nightly")
        assert (cancelled.code, cancelled.stdout) == (0, "asked nightly to end\n")
        outcome = running.finish()
        assert outcome.code == 130
        assert outcome.summary["status"] == "interrupted"
        assert open_slots(own) == []
        with ReshardJournal(default_journal_path()) as journal:
            assert journal.slots("nightly", "open") == []
        late = run("jobs", "pause", "nightly")
        assert (late.code, "nightly is not running" in late.stderr) == (4, True)

        done = run(*command)  # without the rate
        assert done.code == 0, done.stderr
        assert done.summary["resumed"]
        seen = client.result()
    notices = [line["message"] for line in outcome.lines if line["type"] == "notice"]
    assert [notice for notice in notices if "operator" in notice] == [
        "paused by the operator",
        "the operator's rate is 10,000 bytes/s now",
        "resumed by the operator",
    ]
    assert any(line["type"] == "progress" and line["state"] == "paused" for line in outcome.lines)
    assert seen["errors"] == []
    assert seen["operations"] > 0
    assert_clean(own)


@pytest.mark.parametrize("own", ["redis-7.0", "valkey-8.1"], indirect=True)
def test_a_paused_run_ends_in_order_and_at_once(own: LocalCluster, plan: str) -> None:
    command = ("reshard", "apply", plan, own.url, "--job", "nightly", "--json")
    for how in ([], ["--immediately"]):
        with Running(*command, "--max-bytes-per-second", "40kB") as running:
            before = _gone(own)
            _until(partial(_more_are_gone, own, before), "slots to move")
            assert run("jobs", "pause", "nightly").code == 0
            _until(lambda: _live()["state"] == "paused", "the run to pause")
            assert run("jobs", "cancel", "nightly", *how).code == 0
            outcome = running.finish()
        assert (outcome.code, outcome.summary["status"]) == (130, "interrupted")
        assert open_slots(own) == []
    assert run(*command).code == 0
    assert_clean(own)


def test_a_job_that_is_cancelled_at_work_is_finished_by_the_next_run(own: LocalCluster, plan: str) -> None:
    command = ("reshard", "apply", plan, own.url, "--job", "nightly", "--json", "--method", "setslot")
    with Running(*command, "--max-bytes-per-second", "40kB") as running:
        _until(lambda: _gone(own) > 0, "slots to move")
        assert run("jobs", "cancel", "nightly", "--immediately").code == 0
        outcome = running.finish()
    assert (outcome.code, outcome.summary["status"]) == (130, "interrupted")
    assert run(*command).code == 0
    assert_clean(own)


def test_a_job_of_a_file_is_cancelled_alone(own: LocalCluster, tmp_path: Path) -> None:
    config = tmp_path / "jobs.toml"
    parts = zip(own.primaries, (5_061, 5_661, 5_662), strict=True)
    weights = ", ".join(f'"{node.address}" = {slots}' for node, slots in parts)
    config.write_text(
        f'[defaults]\ncluster = "{own.url}"\nthreshold = "0.01%"\nweight = {{{weights}}}\n'
        '[jobs.nightly]\nmax-bytes-per-second = "40kB"\n'
        "[jobs.weekly]\nmax-moves = 1\n"
    )
    with Running("reshard", "run", "--config", str(config), "--json") as running:
        _until(lambda: _gone(own) > 0, "slots to move")
        assert run("jobs", "cancel", "nightly").code == 0
        outcome = running.finish()
    ends = {line["job"]: line["status"] for line in outcome.lines if line["type"] == "summary"}
    assert ends == {"nightly": "interrupted", "weekly": "completed"}
    assert outcome.code == 130
    assert open_slots(own) == []


@pytest.mark.parametrize("own", ALL_METHODS, indirect=True)
def test_while_the_pause_file_exists_no_slot_is_open(own: LocalCluster, plan: str, tmp_path: Path) -> None:
    file = tmp_path / "pause"
    command = ("reshard", "apply", plan, own.url, "--job", "nightly", "--json", "--pause-file", str(file))
    with Running(*command, "--max-bytes-per-second", "40kB") as running:
        _until(lambda: _gone(own) > 0, "slots to move")
        file.touch()
        _until(lambda: _live()["state"] == "paused", "the run to pause")
        assert _live()["reason"] == f"by the file {file}"
        assert open_slots(own) == []
        file.unlink()
        assert run("jobs", "rate", "nightly", "--max-bytes-per-second", "none").code == 0
        assert running.finish().code == 0
    assert_clean(own)


def test_a_job_has_one_run_at_a_time_whatever_its_cluster(own: LocalCluster, plan: str) -> None:
    with JobLock(default_journal_path(), "nightly", "reshard"):
        refused = run("reshard", "apply", plan, own.url, "--job", "nightly")
    assert refused.code == 4
    assert "the job nightly is being run by process" in refused.stderr
    odd = run("reshard", "apply", plan, own.url, "--job", "../nightly")
    assert odd.code == 2
    assert "can't be the name of a job" in odd.stderr


@pytest.mark.parametrize("own", ["redis-7.0", "valkey-8.1"], indirect=True)
def test_an_immediate_end_does_not_wait_for_a_node_that_hangs(own: LocalCluster, plan: str) -> None:
    command = ("reshard", "apply", plan, own.url, "--job", "nightly", "--json")
    with Running(*command, "--max-bytes-per-second", "40kB") as running:
        _until(lambda: _gone(own) > 0, "slots to move")
        os.kill(own.primaries[0].pid, signal.SIGSTOP)
        try:
            assert run("jobs", "cancel", "nightly", "--immediately").code == 0
            outcome = running.finish()
        finally:
            os.kill(own.primaries[0].pid, signal.SIGCONT)
    assert (outcome.code, outcome.summary["status"]) == (130, "interrupted")
    own.wait_until_healthy()
    done = run(*command)
    assert done.code == 0, done.stderr
    assert_clean(own)
