"""A job's series over time: bounded, true when it is thinned, and no matter where it is missing."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from slotferry.jobs.journal import series as module
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.jobs.journal.series import (
    MOST_ROWS,
    SeriesRow,
    SeriesWriter,
    add_row,
    count_rows,
    keep_owners,
    owners,
    series,
    thin_out,
)
from slotferry.model.counts import Keys
from slotferry.model.events import FollowProgress, Progress

_DAY_BYTES = 2_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        opened.create("job", Setup("s", "t", None, None, "error"), 2, "id")
        yield opened


def row(at: float, done: int = 0) -> SeriesRow:
    return SeriesRow(at, 1, "copy", "running", done, done * 100, 0, 0, None, None)


def progress(done: int, state: str = "running") -> Progress:
    return Progress(state, "", Keys(done, done), None, done * 100, None, 1.0, 0, 0, 0, 0, done)


def test_the_first_and_the_last_figures_are_there(journal: Journal) -> None:
    writer = SeriesWriter(journal, "job", 1)
    for done in range(5):
        writer.hear(progress(done))
    writer.finish()
    assert [r.done for r in series(journal, "job")] == [0, 4]


def test_a_run_begins_with_what_there_was_before_it(journal: Journal) -> None:
    writer = SeriesWriter(journal, "job", 1)
    writer.begin("copy")
    writer.hear(progress(5))
    writer.finish()
    rows = series(journal, "job")
    assert (rows[0].done, rows[0].state, rows[-1].done) == (0, "connecting", 5)


def test_there_is_never_more_than_the_bound(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 20)
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    writer = SeriesWriter(journal, "job", 1)
    for done in range(500):
        writer.hear(progress(done))
        assert count_rows(journal, "job") <= 20
    writer.finish()
    rows = series(journal, "job")
    assert (rows[0].done, rows[-1].done) == (0, 499)
    assert [r.done for r in rows] == sorted(r.done for r in rows)


def test_all_rows_of_a_job_take_less_than_a_day_may(journal: Journal, path: Path) -> None:
    before = _size(path)
    with journal.transaction():
        for number in range(MOST_ROWS):
            wide = replace(row(1e9 + number * 5.0, 10**12 + number), lag_seconds=1.234, lag_bytes=10**9)
            journal._connection.execute(
                "INSERT INTO series (job, at, run, phase, state, done, bytes, pending, failed, lag_seconds, "
                "lag_bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                ("job", *wide.__dict__.values()),
            )
    assert _size(path) - before < _DAY_BYTES


def _size(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        pages, size = (connection.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("count", "size"))
    return int(pages) * int(size)


def test_thinning_keeps_the_first_row_and_every_second_one(journal: Journal) -> None:
    for number in range(7):
        add_row(journal, "job", row(100.0 + number, number))
    thin_out(journal, "job")
    assert [r.done for r in series(journal, "job")] == [0, 2, 4, 6]


def test_another_state_is_seen(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SECONDS", 3600.0)
    monkeypatch.setattr(module, "_ROWS_AT_FIRST", 1e-9)  # the next row is due in a long while
    writer = SeriesWriter(journal, "job", 1)
    for state in ("running", "running", "paused", "paused", "running"):
        writer.hear(progress(1, state))
    assert [r.state for r in series(journal, "job")] == ["running", "paused", "running"]


def test_another_thread_writes_nothing(journal: Journal) -> None:
    writer = SeriesWriter(journal, "job", 1)
    other = Thread(target=writer.hear, args=(progress(1),))
    other.start()
    other.join()
    assert series(journal, "job") == []


def test_rows_go_with_their_job(journal: Journal) -> None:
    add_row(journal, "job", row(1.0))
    keep_owners(journal, "job", [(0, 16383, "n:1")])
    assert owners(journal, "job") == [(0, 16383, "n:1")]
    journal.discard("job")
    assert count_rows(journal, "job") == 0
    assert owners(journal, "job") == []


def test_a_journal_from_before_there_were_series_is_carried_over(journal: Journal, path: Path) -> None:
    journal.__exit__(None, None, None)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE series")
        connection.execute("DROP TABLE slot_owners")
    with Journal.open(path) as opened:
        assert opened.job("job") is not None
        assert series(opened, "job") == []
        add_row(opened, "job", row(1.0))
        assert count_rows(opened, "job") == 1
    with Journal.open(path) as opened:
        assert opened.job("job") is not None


def test_a_pause_while_following_is_of_that_phase(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    follow = FollowProgress(500, 1.5, 9, 33, 0, 0, connected=True, in_doubt=False)
    writer = SeriesWriter(journal, "job", 1)
    for state in ("running", "paused", "following", "paused", "waiting", "following"):
        writer.hear(replace(progress(1, state), follow=follow))
    phases = [r.phase for r in series(journal, "job")]
    assert phases == ["copy", "copy", "follow", "follow", "follow", "follow"]


def test_a_clock_that_steps_back_orders_no_rows_anew(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(module, "_SECONDS", 0.0)
    writer = SeriesWriter(journal, "job", 1)
    for done in range(3):
        monkeypatch.setattr("time.time", lambda at=1e9 - done: at)
        writer.hear(progress(done))
    assert [r.done for r in series(journal, "job")] == [0, 1, 2]
