"""Windows: over midnight, in other time zones, and over changes of the clock."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slotferry.errors import UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.window import Window, find_zone
from slotferry.reshard.limits import Condition, Limits, Scheduler

BERLIN = find_zone("Europe/Berlin")


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "now", "opens", "closes"),
    [
        ("01:00-05:00", "2026-01-10 12:00", "2026-01-11 00:00", "2026-01-11 04:00"),
        ("01:00-05:00", "2026-01-10 02:00", "2026-01-10 00:00", "2026-01-10 04:00"),
        ("22:00-04:00", "2026-01-10 01:00", "2026-01-09 21:00", "2026-01-10 03:00"),
        ("00:00-24:00", "2026-01-10 01:00", "2026-01-09 23:00", "2026-01-10 23:00"),
        ("22:00-24:00", "2026-01-10 01:00", "2026-01-10 21:00", "2026-01-10 23:00"),
        # 2026-03-29: the clock jumps from 02:00 to 03:00.
        ("02:30-05:00", "2026-03-28 23:30", "2026-03-29 01:00", "2026-03-29 03:00"),
        ("01:00-02:30", "2026-03-28 23:30", "2026-03-29 00:00", "2026-03-29 01:00"),
        ("02:10-02:50", "2026-03-28 23:30", "2026-03-30 00:10", "2026-03-30 00:50"),
        # 2026-10-25: 02:00 to 03:00 comes twice.
        ("02:00-03:00", "2026-10-24 23:30", "2026-10-25 00:00", "2026-10-25 02:00"),
        ("02:30-02:45", "2026-10-24 23:30", "2026-10-25 00:30", "2026-10-25 01:45"),
    ],
)
def test_when_it_opens_and_closes(text: str, now: str, opens: str, closes: str) -> None:
    assert Window.parse(text, BERLIN).opening(utc(now)) == (utc(opens), utc(closes))


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("02:00-04:00", ["02:00", "03:59"], ["01:59", "04:00"]),
        ("22:30-01:00", ["22:30", "23:59", "00:00"], ["01:00", "22:29", "12:00"]),
        ("00:00-24:00", ["00:00", "23:59"], []),
        (" 23:00 - 24:00 ", ["23:00"], ["00:00"]),
    ],
)
def test_when_it_is_open(text: str, inside: list[str], outside: list[str]) -> None:
    window = Window.parse(text, timezone.utc)
    assert all(window.is_open(utc(f"2026-01-10 {now}")) for now in inside)
    assert not any(window.is_open(utc(f"2026-01-10 {now}")) for now in outside)


@pytest.mark.parametrize(
    "text", ["", "1-5", "01:00", "25:00-26:00", "01:00-01:00", "01:60-02:00", "24:30-01:00"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(UsageError, match="the window"):
        Limits(windows=(text,))


def test_what_is_no_zone() -> None:
    with pytest.raises(UsageError, match="no time zone 'Europe/Atlantis'"):
        Limits(windows=("01:00-02:00",), tz="Europe/Atlantis")


def test_the_scheduler_opens_and_closes_with_the_window() -> None:
    now = [utc("2026-01-10 00:30").timestamp()]
    scheduler = Scheduler(
        Limits(windows=("01:00-02:00", "03:00-04:00"), tz="UTC"), CancelRequest(), lambda: now[0]
    )
    closed = scheduler.closed()
    assert closed is not None
    assert closed.until == utc("2026-01-10 01:00").timestamp()
    assert "opens at 2026-01-10T01:00:00+00:00" in closed.reason
    now[0] += timedelta(minutes=45).total_seconds()
    assert scheduler.closed() is None
    now[0] += timedelta(minutes=46).total_seconds()
    again = scheduler.closed()
    assert again is not None
    assert again.until == utc("2026-01-10 03:00").timestamp()


def test_a_reason_to_stop_ends_a_pause(tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    cancel = CancelRequest()
    scheduler = Scheduler(Limits(pause_file=pause), cancel)
    cancel.ask()
    assert scheduler.holds
    assert list(scheduler.held()) == []  # would wait for ever


def test_a_pause_is_made_where_nothing_is_open_and_says_by_whom() -> None:
    scheduler = Scheduler(Limits(), CancelRequest())
    assert not scheduler.holds
    scheduler.pause()
    scheduler.wait_turn(1)  # of what is in hand
    assert scheduler.holds
    assert scheduler.condition == Condition(
        "running", "finishing the slots in hand: paused by the operator, 0 s"
    )
    held = scheduler.held()
    assert next(held) == Condition("paused", "by the operator, 0 s", "operator")
    scheduler.resume()
    assert list(held) == []
    assert not scheduler.holds


def test_a_changed_rate_cuts_the_groups_and_is_kept_from_then_on() -> None:
    scheduler = Scheduler(Limits(max_bytes_per_second=1_000), CancelRequest())
    scheduler.set_rate(max_keys_per_second=None, max_bytes_per_second=2_000)
    assert scheduler.holds
    assert list(scheduler.held()) == []
    assert not scheduler.holds
    assert scheduler.limits.max_bytes_per_second == 2_000
    begun = time.monotonic()
    scheduler.pay(1_000)
    scheduler.wait_turn(0)
    assert time.monotonic() - begun > 0.4  # a busy machine makes it longer, nothing shorter
    scheduler.pay(1 << 40)
    scheduler.set_rate(max_keys_per_second=None, max_bytes_per_second=None)
    scheduler.wait_turn(1 << 40)  # would wait for years


@pytest.mark.parametrize("name", ["max_duration", "pause_above_latency", "max_bytes_per_second"])
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(UsageError, match="is not above 0"):
        Limits(**{name: 0})  # type: ignore[arg-type]
