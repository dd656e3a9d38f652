"""What the journal keeps of the target: doubts outlive a kill, and counts add up when keys are reopened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slotferry.errors import JournalError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, PendingKey, Setup
from slotferry.migrate.account.book import AccountBook
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.topology.identity import Doubt
from tests.unit.test_target_identity import A, B

DOUBT = Doubt("emptied", "n1:7000", ((0, 99), (200, 200)), "n1:7000 was emptied")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        opened.create("job", Setup("s", "t", None, None, "error"), 1, "id")
        yield opened


def test_nodes_and_doubts_are_read_as_they_were_written(journal: Journal) -> None:
    book = AccountBook(journal, "job")
    assert (book.nodes(), book.doubts().doubts, book.expired()) == ([], (), 0)
    book.enter([A, B], [DOUBT], 12)
    with Journal.open(journal.path) as again:
        read = AccountBook(again, "job")
        assert (read.nodes(), read.doubts().doubts, read.expired()) == ([A, B], (DOUBT,), 12)


def test_a_doubt_that_is_raised_again_during_a_look_stands(journal: Journal) -> None:
    book = AccountBook(journal, "job")
    other = replace(DOUBT, node="n2:7000")
    book.enter([A], [DOUBT, other], 0)
    looked_at = book.doubts()
    book.enter([A], [DOUBT], 0)
    book.close(looked_at)
    assert book.doubts().doubts == (DOUBT,)
    book.close(book.doubts())
    assert book.doubts().doubts == ()


def test_a_job_that_starts_over_owes_nothing(journal: Journal) -> None:
    book = AccountBook(journal, "job")
    book.enter([A], [DOUBT], 5)
    journal.reset("job", Setup("s", "t", None, None, "error"), 1, "id")
    assert (book.nodes(), book.doubts().doubts, book.expired()) == ([], (), 0)


def test_reopened_keys_are_pending_and_the_counts_add_up(journal: Journal) -> None:
    failure = FailedKey(b"failed", 1, "conflict", "differs", "n")
    waiting = PendingKey(b"waiting", 2, "slot 2")
    counts = Keys(scanned=7, migrated=2, unchanged=3)
    journal.record("job", Advance(Totals(counts), failures=[failure], pending=[waiting]))
    book = AccountBook(journal, "job")
    keys = [PendingKey(name, 1, "gone") for name in (b"failed", b"waiting", b"a", b"b", b"c")]
    assert book.reopen(keys) == 4
    assert journal.totals("job").keys == Keys(scanned=7, unchanged=2, pending=5)
    assert book.reopen(keys) == 0
    # Keys that the source has only by now were never scanned.
    assert book.reopen([PendingKey(b"new%d" % i, 1, "gone") for i in range(4)]) == 4
    totals = journal.totals("job").keys
    assert totals == Keys(scanned=9, pending=9)
    assert totals.add_up


def test_what_can_t_be_read_is_named(journal: Journal) -> None:
    with journal.transaction() as execute:
        execute("INSERT INTO target_nodes (job, node_id, state) VALUES ('job', 'a', '{\"node_id\": 1}')")
    with pytest.raises(JournalError, match="target_nodes"):
        AccountBook(journal, "job").nodes()


def test_a_journal_without_these_tables_gets_them(journal: Journal) -> None:
    with sqlite3.connect(journal.path) as database:
        for table in ("target_nodes", "target_counts", "doubts"):
            database.execute(f"DROP TABLE {table}")
    database.close()
    with Journal.open(journal.path) as again:
        assert AccountBook(again, "job").nodes() == []
        assert again.job("job") is not None
