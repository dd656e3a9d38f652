"""`slotferry jobs` on a journal that was written by hand: what it shows and what it leaves alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from slotferry.cli import main
from slotferry.errors import SourceLostError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark, PendingKey, Setup
from slotferry.jobs.lock import JobLock
from slotferry.model.counts import FailedKey, Keys, Totals


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
    heads = "JOB KIND STATUS SCANNED PENDING FAILED DIFFER SLOTS RUNS AGE CHANGED"
    assert table[0].split() == heads.split()
    assert table[1].split()[:7] == ["nightly", "migrate", "failed", "1,004", "1", "3", "1"]
    assert {row.split()[0]: row.split()[2] for row in table[2:]} == {
        "whole": "completed",
        "killed": "interrupted",
    }


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--state", "failed"), {"nightly"}),
        (("--state", "completed", "--state", "interrupted"), {"whole", "killed"}),
        (("--kind", "migrate"), {"nightly", "whole", "killed"}),
        (("--limit", "1"), {"nightly"}),
    ],
)
@pytest.mark.usefixtures("path")
def test_some_of_the_list(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], names: set[str]
) -> None:
    assert {line["job"] for line in lines(run(capsys, "list", "--json", *options))} == names


@pytest.mark.usefixtures("path")
def test_a_list_without_a_match_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["jobs", "list", "--kind", "verify"]) == 0
    assert "no jobs like that" in capsys.readouterr().err


def make_old(path: Path, *names: str) -> None:
    """Let jobs have changed 40 days ago."""
    with Journal.open(path) as journal, journal.transaction() as execute:
        for name in names:
            execute("UPDATE jobs SET updated = updated - 40 * 86400 WHERE name = ?", (name,))


def test_old_jobs_are_forgotten_with_a_yes(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_old(path, "whole", "killed")
    with JobLock(path, "killed"):  # it goes on
        assert main(["jobs", "prune", "--older-than", "30d", "--yes"]) == 0
    assert capsys.readouterr().out == "discarded whole\n"
    assert {line["job"] for line in lines(run(capsys, "list", "--json"))} == {"nightly", "killed"}
    assert run(capsys, "prune", "--older-than", "30d", "--yes") == "discarded killed\n"
    assert main(["jobs", "prune", "--older-than", "30d", "--yes"]) == 0
    assert "there is nothing so old" in capsys.readouterr().err


def test_nothing_is_forgotten_without_one(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_old(path, "whole")
    assert main(["jobs", "prune", "--older-than", "30d"]) == 2
    assert "no terminal to ask on" in capsys.readouterr().err
    assert len(lines(run(capsys, "list", "--json"))) == 3


def test_a_job_that_is_needed_to_put_something_back_stays(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_old(path, "whole", "nightly")
    with Journal.open(path) as journal, journal.transaction() as execute:
        columns = "(job, node, name, before, made)"
        execute(f"INSERT INTO changed_settings {columns} VALUES ('nightly', 'n', 's', 'b', 'm')")
    assert main(["jobs", "prune", "--older-than", "30d", "--yes"]) == 3
    captured = capsys.readouterr()
    assert captured.out == "discarded whole\n"
    assert "nightly stays: the source of nightly may still refuse writes" in captured.err


@pytest.mark.usefixtures("path")
def test_watching_a_job_that_does_not_run_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show", "nightly", "--watch") == run(capsys, "show", "nightly")
    assert main(["jobs", "show", "nightly", "--watch", "--json"]) == 2
    assert "--watch is for people" in capsys.readouterr().err


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


def test_a_message_is_shown_with_its_advice(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = f"{'a reason that takes long to tell, ' * 12}: raise the limit"
    with Journal.open(path) as journal:
        failure = FailedKey(b"large", 1, "too_large", message, "new:7000")
        journal.record("nightly", Advance(Totals(Keys(scanned=1)), failures=[failure]))
    assert message in run(capsys, "show", "nightly")


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


@pytest.fixture
def verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal with a verification, which stands there as two jobs, and a migration that is called alike."""
    path = tmp_path / "journal.db"
    monkeypatch.setenv("SLOTFERRY_JOURNAL", str(path))
    copied = Setup("redis://old:6379/0", "redis+cluster://new:7000/0", None, None, "error")
    compared = replace(copied, purpose="verify", comparison="values, TTL within 0.1 s")
    found = {
        "check": FailedKey(
            b"a", 1, "different", "", "new:7000", source="string of 1 bytes", target="string of 2 bytes"
        ),
        "check.extra": FailedKey(b"b", 2, "extra", "", "new:7000", source="", target="string of 1 bytes"),
    }
    with Journal.open(path) as journal:
        for name, setup in (("check", compared), ("check.extra", compared), ("copy.extra", copied)):
            journal.create(name, setup, 2, "id")
            journal.begin_run(name, resumed=False)
            failures = [found[name]] if name in found else []
            journal.record(name, Advance(Totals(Keys(scanned=9, unchanged=8)), [], (), failures))
            journal.end_run(name, 1, "completed_with_failures", 1.0, None)
    return path


def test_a_verification_is_listed_as_one_job(verified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = {line["job"]: line for line in lines(run(capsys, "list", "--json"))}
    assert {name: job["kind"] for name, job in jobs.items()} == {"check": "verify", "copy.extra": "migrate"}
    rows = {row.split()[0]: row.split()[1] for row in run(capsys, "list").splitlines()[1:]}
    assert rows == {"check": "verify", "copy.extra": "migrate"}


def test_what_differs_has_not_failed(verified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row.split()[0]: row.split() for row in run(capsys, "list").splitlines()[1:]}
    # SCANNED, PENDING and DIFFER, of both directions; FAILED is empty.
    assert rows["check"][2:6] == ["completed_with_differences", "9", "0", "2"]
    jobs = {line["job"]: line for line in lines(run(capsys, "list", "--json"))}
    assert jobs["check"]["differences"] == {"different": 1, "extra": 1}
    assert jobs["check"]["status"] == "completed_with_differences"
    assert "differences" not in jobs["copy.extra"]

    assert main(["jobs", "failures", "check"]) == 0
    listed = capsys.readouterr()
    assert listed.out.splitlines() == ["a"]
    assert "1 extra at the target alone" in listed.err


def test_a_repair_that_leaves_extra_keys_is_not_listed_as_completed(
    verified: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal.open(verified) as journal:
        number = journal.begin_run("check", resumed=False)
        journal.end_run("check", number, "completed", 1.0, None)
    (row,) = [row for row in run(capsys, "list").splitlines() if row.startswith("check ")]
    assert "completed_with_differences" in row
    assert "9 compared, 8 equal, 1 differ, 1 extra" in " ".join(run(capsys, "show", "check").split())


def test_a_verification_is_shown_with_both_directions(
    verified: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(capsys, "show", "check")
    for part in (
        "kind        verify",
        "compares    values, TTL within 0.1 s",
        "9 compared, 8 equal, 1 differ",
        "differences (2 of 2):",
        "a  different  string of 1 bytes  string of 2 bytes",
        "b  extra      -                  string of 1 bytes",
    ):
        assert part in text
    assert "on-conflict" not in text
    shown = [line for line in lines(run(capsys, "show", "check", "--json")) if line["type"] == "difference"]
    assert [(line["key"], line["kind"]) for line in shown] == [("a", "different"), ("b", "extra")]
    assert shown[0]["source"] == "string of 1 bytes"


def test_a_verification_is_discarded_whole(verified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "discard", "check", "--kind", "verify")
    with Journal.open(verified) as journal:
        assert [record.name for record in journal.jobs()] == ["copy.extra"]


def test_times_have_a_zone(verified: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoned = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}"
    for line in lines(run(capsys, "show", "check", "--json")):
        for name in ("created", "updated", "started", "ended"):
            assert name not in line or re.fullmatch(zoned + "Z", line[name])
    assert re.search(zoned + r"[+-][0-9]{2}:[0-9]{2}$", run(capsys, "list"), re.MULTILINE)
    assert len(re.findall(zoned + r"[+-][0-9]{2}:[0-9]{2} ", run(capsys, "show", "check"))) == 2
