"""The history of a job: written as it happens, counted where it repeats, over all its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from slotferry.errors import JournalError
from slotferry.jobs.journal.history_writer import HistoryWriter
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.model.events import EngineNews, Notice, TopologyChanged
from slotferry.model.history import HistoryEntry


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        opened.create("job", Setup("s", "t", None, None, "error"), 2, "id")
        yield opened


def _teller(journal: Journal) -> HistoryWriter:
    teller = HistoryWriter(lambda told: journal.tell("job", told))
    teller.run = journal.begin_run("job", resumed=False)
    return teller


def _lost(node: str, why: str = "connection refused") -> EngineNews:
    return EngineNews("node_lost", f"{node}: {why}", node, None)


def _messages(journal: Journal) -> list[tuple[int, str, int]]:
    return [(entry.run, entry.message, entry.count) for entry in journal.history("job")]


def test_what_repeats_is_counted(journal: Journal) -> None:
    teller = _teller(journal)
    for _ in range(3):
        teller.hear(_lost("n:1"))
        teller.hear(_lost("n:2"))
    teller.write()
    teller.hear(_lost("n:1", "no reply for 30 s"))
    teller.hear(TopologyChanged(("n:2", "n:3"), 5))
    teller.write()
    assert _messages(journal)[1:] == [
        (1, "n:1: connection refused", 4),
        (1, "n:2: connection refused", 3),
        (1, "the target's topology changed: n:2, n:3 took over slots; 5 slots had no primary", 1),
    ]


def test_a_run_that_was_killed_is_part_of_the_story(journal: Journal) -> None:
    teller = _teller(journal)
    teller.hear(Notice("failover"))
    teller.write()
    again = _teller(journal)
    again.hear(Notice("failover"))
    again.write()
    journal.end_run("job", again.run, "completed", 1.0, None)
    history = _messages(journal)
    assert [message for _, message, _ in history] == [
        history[0][1],
        "failover",
        "run 1 interrupted: the process ended without a word",
        history[3][1],
        "failover",
        "run 2 completed",
    ]
    # What was completed is over: the next run begins a history of its own.
    journal.begin_run("job", resumed=False)
    assert [run for run, _, _ in _messages(journal)] == [3]


def test_a_journal_that_cannot_be_written_gets_it_later() -> None:
    written: list[HistoryEntry] = []
    full = [True]

    def write(told: Sequence[HistoryEntry]) -> None:
        if full[0]:
            raise JournalError("disk full")
        written.extend(told)

    teller = HistoryWriter(write)
    teller.hear(Notice("before the run has a number"))
    teller.run = 4
    teller.write()
    assert written == []
    full[0] = False
    teller.write()
    assert [(entry.run, entry.message) for entry in written] == [(4, "before the run has a number")]


def test_a_story_has_its_limits() -> None:
    written: list[HistoryEntry] = []
    teller = HistoryWriter(written.extend)
    for number in range(1000):
        teller.hear(Notice(f"notice {number}"))
    for number in range(1000):
        teller.hear(EngineNews("slot_parked", f"slot {number} is stuck", None, number))
    teller.write()
    assert len(written) == 200
