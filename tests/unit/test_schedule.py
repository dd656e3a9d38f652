"""When a scheduled job has something to do: windows, what was completed, and what an earlier run has left."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

import pytest

from slotferry.errors import OptionError, UsageError
from slotferry.jobs.control.schedule import Past, Schedule
from slotferry.jobs.journal.records import RunRecord

_HOUR = 3600.0


def at(hour: int, minute: int = 0, day: int = 2) -> float:
    return datetime(2026, 3, day, hour, minute, tzinfo=timezone.utc).timestamp()


_NIGHT = Schedule(windows=("01:00-05:00",), tz="UTC")


def _run(status: str, ended: float | None) -> RunRecord:
    return RunRecord(1, False, "host", 1, 0.0, ended, status, None, None, None, None)


def test_outside_of_its_window_nothing_is_begun() -> None:
    turn = _NIGHT.turn(at(12), Past())

    assert (turn.status, turn.opens_at) == ("outside_window", at(1, day=3))
    assert "2026-03-03T01:00:00+00:00" in turn.reason


def test_in_its_window_it_runs_until_that_closes() -> None:
    turn = _NIGHT.turn(at(2), Past())

    assert (turn.status, turn.until) == ("due", at(5))


def test_the_shorter_of_window_and_longest_duration_ends_it() -> None:
    schedule = Schedule(windows=("01:00-05:00",), tz="UTC", max_duration=_HOUR)

    assert schedule.turn(at(2), Past()).until == at(3)
    assert schedule.turn(at(4, 30), Past()).until == at(5)


@pytest.mark.parametrize(
    ("schedule", "now", "completed", "is_due"),
    [
        (_NIGHT, at(3), at(2), False),  # in this window
        (_NIGHT, at(3), at(4, day=1), True),  # in the one before
        (Schedule(every=20 * _HOUR), at(23), at(2), True),
        (Schedule(every=20 * _HOUR), at(21), at(2), False),
        (Schedule(), at(3), at(2), True),
    ],
)
def test_a_complete_copy_is_made_again_when_it_is_due(
    schedule: Schedule, now: float, completed: float, is_due: bool
) -> None:
    assert (schedule.turn(now, Past(completed_at=completed)).status == "due") is is_due


def test_what_is_left_is_gone_on_with_however_new_the_last_copy_is() -> None:
    assert _NIGHT.turn(at(3), Past(completed_at=at(2), is_unfinished=True)).status == "due"


@pytest.mark.parametrize(
    ("runs", "past"),
    [
        ([], Past()),
        ([_run("completed", 5.0)], Past(5.0, scanned_at=5.0)),
        ([_run("completed", 5.0), _run("interrupted", 9.0)], Past(5.0, is_unfinished=True)),
        ([_run("running", None)], Past(None, is_unfinished=True)),
        ([_run("completed_with_failures", 5.0)], Past(None, is_unfinished=True, scanned_at=5.0)),
        (
            [_run("completed_with_failures", 5.0), replace(_run("interrupted", 9.0), resumed=True)],
            Past(None, is_unfinished=True, scanned_at=5.0),
        ),
        (
            [_run("completed_with_failures", 5.0), replace(_run("completed", 9.0), resumed=True)],
            Past(9.0, scanned_at=5.0),
        ),
        ([_run("interrupted", 5.0), _run("completed", 9.0)], Past(9.0, scanned_at=9.0)),
    ],
)
def test_what_runs_come_to(runs: list[RunRecord], past: Past) -> None:
    assert Past.of(runs) == past


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="window"):
        Schedule(windows=("1-5",))
    with pytest.raises(UsageError, match="time zone"):
        Schedule(tz="Mars/North")
    with pytest.raises(OptionError):
        Schedule(every=0)


@pytest.mark.parametrize(
    ("schedule", "scanned", "is_fresh"),
    [
        (_NIGHT, at(2), False),  # in this window: what failed is tried again
        (_NIGHT, at(4, day=1), True),
        (Schedule(every=6 * _HOUR), at(1), False),
        (Schedule(every=6 * _HOUR), at(20, day=1), True),
        (Schedule(), at(2), True),
    ],
)
def test_keys_that_failed_keep_no_copy_from_being_made_again(
    schedule: Schedule, scanned: float, is_fresh: bool
) -> None:
    turn = schedule.turn(at(3), Past(is_unfinished=True, scanned_at=scanned))

    assert (turn.status, turn.is_fresh) == ("due", is_fresh)
