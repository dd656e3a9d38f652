"""The summary: exactly the fields that are promised, and the exit code that goes with them."""

import pytest

from slotferry.errors import SourceLostError
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.report import Report, Status


def make(status: Status, keys: Keys, error: SourceLostError | None = None) -> Report:
    return Report(
        job="nightly",
        status=status,
        totals=Totals(keys, bytes=7, moved=1, ask=2, retries=3),
        elapsed_seconds=1.23456,
        keys_per_second=12.3456,
        runs=2,
        resumed=True,
        error=error,
        failures=(FailedKey(b"k", 1, "conflict", "differs", "n:1"),),
    )


def test_the_summary_has_exactly_these_fields() -> None:
    keys = Keys(scanned=9, migrated=2, unchanged=1, skipped=1, expired=1, vanished=1, pending=1, failed=2)
    assert make("completed_with_failures", keys).to_dict() == {
        "type": "summary",
        "job": "nightly",
        "status": "completed_with_failures",
        "keys": {
            "scanned": 9,
            "migrated": 2,
            "unchanged": 1,
            "skipped": 1,
            "expired": 1,
            "vanished": 1,
            "pending": 1,
            "failed": 2,
        },
        "bytes": 7,
        "elapsed_seconds": 1.235,
        "keys_per_second": 12.3,
        "redirects": {"moved": 1, "ask": 2},
        "retries": 3,
        "notes": 0,
        "collisions": 0,
        "runs": 2,
        "resumed": True,
        "empty": None,
        "history": [],
        "error": None,
    }


def test_an_error_is_told_with_its_hint() -> None:
    report = make("failed", Keys(), SourceLostError("gone", hint="wait"))
    assert report.to_dict()["error"] == {"kind": "source_lost", "message": "gone", "hint": "wait"}
    assert report.exit_code == 5


@pytest.mark.parametrize(
    ("status", "ok", "code"), [("completed", True, 0), ("completed_with_failures", False, 3)]
)
def test_without_an_error_the_status_decides(status: Status, ok: bool, code: int) -> None:
    report = make(status, Keys())
    assert (report.ok, report.exit_code) == (ok, code)


def test_keys_add_up_when_each_has_one_outcome() -> None:
    keys = Keys(scanned=7, migrated=1, unchanged=1, skipped=1, expired=1, vanished=1, pending=1, failed=1)
    assert keys.add_up
    assert not (keys + Keys(scanned=1)).add_up
    assert not (keys + Keys(failed=1)).add_up
    assert keys - keys == Keys()
