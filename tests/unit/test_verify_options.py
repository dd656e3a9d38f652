"""Options, reports and journal queries of a verification."""

from __future__ import annotations

from pathlib import Path

import pytest

from slotferry import Options, VerifyOptions, VerifyReport
from slotferry.errors import ExitCode, TargetLostError, UsageError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Setup
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.differences import Difference
from slotferry.report.verify_tables import verification_table


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl_tolerance": -1}, "ttl_tolerance"),
        ({"ttl_tolerance": float("nan")}, "ttl_tolerance"),
        ({"recheck": -1}, "recheck"),
        ({"sample": 0}, "sample"),
        ({"sample": 1.5}, "sample"),
        ({"delete_extra": True}, "repair"),
        ({"delete_extra": True, "repair": True}, "--yes|no terminal"),
        ({"max_delete": -1}, "max_delete"),
        ({"dry_run": True}, "dry run"),
        ({"memory_limit": 1}, "memory_limit"),
    ],
)
def test_what_makes_no_sense_is_named(options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        VerifyOptions(**options)  # type: ignore[arg-type]


def test_a_migrations_options_are_its_verifications() -> None:
    options = Options(match="a*", on_conflict="replace", verify=True, restart=True, source_password="secret")

    verify = VerifyOptions.after(options, "nightly")

    assert (verify.match, verify.job, verify.source_password) == ("a*", "nightly.verify", "secret")
    assert (verify.verify, verify.repair, verify.sample) == (False, False, None)
    assert "secret" not in repr(verify)


def test_the_comparison_says_what_a_resume_has_to_share() -> None:
    assert VerifyOptions().comparison == "values, TTL within 0.1 s"
    assert VerifyOptions(quick=True, sample=0.05).comparison == "quick, TTL within 0.1 s, sample 0.05"
    assert VerifyOptions(sample=1).comparison == VerifyOptions().comparison


def test_a_difference_has_two_sides() -> None:
    failure = FailedKey(b"k\x00", 3, "different", "", "n:1", source='string of 1 bytes "a"', target="absent")
    assert Difference.of(failure).to_dict() == {
        "key": r"k\x00",
        "kind": "different",
        "source": 'string of 1 bytes "a"',
        "target": "absent",
        "slot": 3,
        "node": "n:1",
    }
    denied = Difference.of(FailedKey(b"k", 3, "denied", "the source answered NOPERM", "n:1"))
    assert (denied.source, denied.target) == ("", "the source answered NOPERM")


def _report(**fields: object) -> VerifyReport:
    values: dict[str, object] = {
        "job": "job",
        "status": "completed",
        "totals": Totals(Keys(scanned=10, unchanged=10)),
        "elapsed_seconds": 1.0,
        "keys_per_second": 10.0,
        "runs": 1,
        "resumed": False,
        **fields,
    }
    return VerifyReport(**values)  # type: ignore[arg-type]


def test_a_report_is_ok_only_if_all_was_compared_and_is_equal() -> None:
    assert (_report().ok, _report().exit_code) == (True, ExitCode.OK)
    differs = _report(differences={"ttl": 1, "payload": 2})
    assert (differs.ok, differs.exit_code) == (False, ExitCode.INCOMPLETE)
    assert differs.to_dict()["keys"]["unreadable"] == 2
    assert not _report(target_keys=Keys(scanned=1, pending=1)).ok
    assert _report(error=TargetLostError("gone")).exit_code == ExitCode.TARGET_LOST


def test_the_table_shows_what_differs() -> None:
    example = Difference(b"key\n", 1, "missing", "list of 2 elements", "absent", "n:1")
    table = verification_table(_report(differences={"missing": 12}, examples=(example,), sample=0.05))

    assert "12 keys differ" in table
    assert r"key\n  missing  list of 2 elements  absent" in table
    assert "and 11 more" in table
    assert "no differences" in verification_table(_report())


def test_the_table_names_the_next_step() -> None:
    def table(**found: int) -> str:
        return verification_table(_report(differences=found))

    again = "the same command with --repair sends again what is missing or different"
    assert again in table(missing=1)
    assert f"{again}, and --repair --delete-extra deletes what is extra" in table(ttl=1, extra=2)
    assert "the same command with --repair --delete-extra deletes what is extra" in table(extra=2)
    for found in ({}, {"misplaced": 1}, {"denied": 1}):
        assert "the same command" not in table(**found)


def test_a_key_of_both_directions_is_one_difference(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        for name in ("one", "one.extra"):
            journal.create(name, Setup("s", "t", None, None, "error"), 3, "id", nodes=True)
        assert [mark.cursor for mark in journal.marks("one")] == [0, 0, 0]
        extra = FailedKey(b"both", 1, "extra", "", "n:1", source="absent", target="list")
        journal.record("one", Advance(failures=[extra, FailedKey(b"a", 1, "missing", "", "n:1")]))
        journal.record("one.extra", Advance(failures=[extra, FailedKey(b"b", 1, "extra", "", "n:1")]))

        jobs = ("one", "one.extra")
        assert journal.difference_counts(jobs) == {"extra": 2, "missing": 1}
        assert [failure.key for failure in journal.failed_of(jobs)] == [b"both", b"a", b"b"]
        assert [failure.key for failure in journal.failed_of(jobs, 1)] == [b"both"]
        assert list(journal.failed_keys("one.extra", "extra")) == [[b"both", b"b"]]
        assert list(journal.failed_keys("one.extra", "missing")) == []
