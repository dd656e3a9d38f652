"""Outputs that can't be written: the work is done and recorded, and the exit code says what is not whole."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND, run
from tests.integration.migrating import count_keys

OUTPUT_LOST, INCOMPLETE = 74, 3
_FULL = Path("/dev/full")

needs_dev_full = pytest.mark.skipif(not _FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(100)})
    return source


def run_on_full_disk(*arguments: str) -> tuple[int, str]:
    """Run the command with a stdout that takes nothing."""
    with _FULL.open("w") as full:
        done = subprocess.run(
            [COMMAND, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=120
        )
    return done.returncode, done.stderr


@needs_dev_full
@pytest.mark.parametrize("style", [["--json"], []], ids=["json", "table"])
def test_a_full_stdout_loses_no_work(filled: LocalServer, cluster: LocalCluster, style: list[str]) -> None:
    code, told = run_on_full_disk("migrate", filled.url, cluster.url, *style)
    assert code == OUTPUT_LOST
    assert "stdout can't be written: No space left on device" in told
    assert count_keys(cluster) == 100
    assert run("jobs", "list", "--json").lines[0]["status"] == "completed"


@needs_dev_full
def test_every_command_says_that_its_output_is_lost(filled: LocalServer, cluster: LocalCluster) -> None:
    assert run("migrate", filled.url, cluster.url, "--job", "one").code == 0
    for arguments in (
        ("verify", filled.url, cluster.url),
        ("verify", filled.url, cluster.url, "--json"),
        ("check", filled.url, cluster.url, "--json"),
        ("jobs", "list"),
        ("jobs", "show", "one", "--json"),
        ("reshard", "plan", cluster.url, "--json"),
        ("reshard", "status", cluster.url),
        ("slot", "key"),
        ("migrate", "--help"),
        ("--version",),
        ("completion", "bash"),
    ):
        code, told = run_on_full_disk(*arguments)
        assert code == OUTPUT_LOST, (arguments, told)
        assert told.count("stdout can't be written") == 1
        assert "Traceback" not in told


@needs_dev_full
def test_files_on_a_full_disk(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("migrate", filled.url, cluster.url, "--report", str(_FULL), "--json")
    assert (done.code, done.summary["status"]) == (OUTPUT_LOST, "completed")
    assert "the report can't be written to /dev/full: No space left on device" in done.stderr
    assert run("jobs", "list", "--json").lines[0]["status"] == "completed"

    with filled.client() as client:
        client.set("key:0", "another")
    differing = run("verify", filled.url, cluster.url, "--differences", str(_FULL), "--json")
    # What was found goes first.
    assert (differing.code, differing.summary["keys"]["different"]) == (INCOMPLETE, 1)
    assert (
        differing.stderr.count("the differences can't be written to /dev/full: No space left on device") == 1
    )
    with filled.client() as client:
        client.set("key:0", 0)
    same = run("verify", filled.url, cluster.url, "--differences", str(_FULL), "--report", str(_FULL))
    assert same.code == OUTPUT_LOST

    planned = run("reshard", "plan", cluster.url, "-o", str(_FULL))
    assert planned.code == OUTPUT_LOST
    assert "the plan can't be written to /dev/full" in planned.stderr


def test_special_files_and_links_stay_what_they_are(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    fifo, link, real = tmp_path / "fifo", tmp_path / "link", tmp_path / "real.json"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    link.symlink_to(real)

    assert run("migrate", filled.url, cluster.url, "--report", str(fifo)).code == 0
    assert json.loads(os.read(reader, 1 << 16))["status"] == "completed"
    assert run("reshard", "plan", cluster.url, "-o", str(fifo)).code == 0
    assert json.loads(os.read(reader, 1 << 16))["type"] == "reshard_plan"
    with filled.client() as client:
        client.set("key:0", "another")
    assert run("verify", filled.url, cluster.url, "--differences", str(fifo)).code == INCOMPLETE
    assert json.loads(os.read(reader, 1 << 16))["key"] == "key:0"
    os.close(reader)
    assert stat.S_ISFIFO(fifo.stat().st_mode)

    assert run("verify", filled.url, cluster.url, "--differences", str(link)).code == INCOMPLETE
    assert link.is_symlink()
    assert json.loads(real.read_text())["key"] == "key:0"


def test_a_report_to_stdout_stands_behind_the_table(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("migrate", filled.url, cluster.url, "--report", "/dev/stdout")
    assert done.code == 0
    assert done.stdout.index("100") < done.stdout.index('"status": "completed"')


def test_a_missing_folder_is_named_and_not_made(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    path = tmp_path / "none" / "report.json"
    for arguments in (
        ("migrate", filled.url, cluster.url, "--report", str(path)),
        ("verify", filled.url, cluster.url, "--differences", str(path)),
        ("reshard", "plan", cluster.url, "-o", str(path)),
        ("check", filled.url, cluster.url, "--save-rules", str(path)),
    ):
        done = run(*arguments)
        assert done.code == 2, arguments
        assert f"there is no folder {path.parent}" in done.stderr
        assert "make the folder" in done.stderr
    assert not path.parent.exists()
    assert count_keys(cluster) == 0
