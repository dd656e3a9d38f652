"""`slotferry jobs` on a journal that was written by hand: what it shows and what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from slotferry.cli import main
from slotferry.errors import SourceLostError
from slotferry.joblock import JobLock
from slotferry.journal import Advance, Journal, Mark, PendingKey, Setup
from slotferry.report import FailedKey, Keys, Totals


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal with a job that was interrupted, one that was killed, and one that is complete."""
    path = tmp_path / "journal.db"
    monkeypatch.setenv("SLOTFERRY_JOURNAL", str(path))
    setup = Setup("redis://old:6379/0", "redis+cluster://new:7000/0", r"user:\xff*", None, "error")
    with Journal.open(path) as journal:
        for name in ("whole", "killed", "nightly"):
            journal.create(name, setup, 2, "id")
            journal.begin_run(name, resumed=False)
        journal.end_run("whole", 1, "completed", 1.0, None)
        failures = [FailedKey(b"bad\n%d" % n, n, "conflict", "differs", "new:7000") for n in range(3)]
        pending = [PendingKey(b"late", 9, "slot 9 is not served")]
        counts = Totals(Keys(scanned=1004, migrated=1000), bytes=5)
        journal.record("nightly", Advance(counts, [Mark(0, 0, True)], (), failures, pending))
        journal.end_run("nightly", 1, "failed", 2.0, SourceLostError("the source is gone"))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["jobs", *arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_list(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with JobLock(path, "nightly"):
        table = run(capsys, "list").splitlines()
    heads = "JOB KIND STATUS SCANNED PENDING FAILED SLOTS RUNS CHANGED"
    assert table[0].split() == heads.split()
    assert table[1].split()[:7] == ["nightly", "migrate", "failed", "1,004", "1", "3", "1"]
    assert {row.split()[0]: row.split()[2] for row in table[2:]} == {
        "whole": "completed",
        "killed": "interrupted",
    }


def test_list_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with JobLock(path, "killed"):
        jobs = {line["job"]: line for line in lines(run(capsys, "list", "--json"))}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "nightly": "failed",
        "whole": "completed",
        "killed": "running",
    }
    nightly = jobs["nightly"]
    assert (nightly["type"], nightly["keys"]["failed"], nightly["keys"]["pending"], nightly["bytes"]) == (
        "job",
        3,
        1,
        5,
    )
    assert nightly["setup"]["match"] == r"user:\xff*"


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "show", "nightly", "--limit", "2")
    for part in (
        "1 of 2 scanned",
        "1,004 scanned, 1,000 migrated, 1 pending, 3 failed",
        "the source is gone",
        "failed keys (2 of 3):",
        r"bad\n0  slot 0  conflict  new:7000  differs",
        "late  slot 9  slot 9 is not served",
    ):
        assert part in text
    assert r"bad\n2" not in text


def test_show_as_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = lines(run(capsys, "show", "nightly", "--json"))
    assert [line["type"] for line in shown] == ["job", "run", "failure", "failure", "failure", "pending"]
    assert shown[1]["error_kind"] == "source_lost"
    assert shown[2] == {
        "type": "failure",
        "key": r"bad\n0",
        "slot": 0,
        "kind": "conflict",
        "message": "differs",
        "node": "new:7000",
        "database": 0,
    }
    assert shown[5] == {
        "type": "pending",
        "key": "late",
        "slot": 9,
        "reason": "slot 9 is not served",
        "database": 0,
    }


def test_a_killed_run_is_shown_as_interrupted(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(run(capsys, "show", "killed", "--json"))[1]["status"] == "interrupted"
    with JobLock(path, "killed"):
        assert lines(run(capsys, "show", "killed", "--json"))[1]["status"] == "running"


def test_discard(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with JobLock(path, "nightly"):
        assert main(["jobs", "discard", "nightly"]) == 4
        assert "is being run by process" in capsys.readouterr().err
    assert run(capsys, "discard", "nightly") == "discarded nightly\n"
    assert lines(run(capsys, "discard", "killed", "--json")) == [{"type": "discarded", "job": "killed"}]
    assert [job["job"] for job in lines(run(capsys, "list", "--json"))] == ["whole"]
    assert main(["jobs", "discard", "nightly"]) == 2
