"""The journal on real files: what is written together is read together, and a file that is none says so."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.errors import JournalError, SourceLostError
from slotferry.jobs.journal import file
from slotferry.jobs.journal.file import SCHEMA_VERSION
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark, PendingKey, Setup
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.follow import FollowMark

SETUP = Setup("redis://old:6379/0", "redis+cluster://new:7000/0", None, None, "error")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        opened.create("job", SETUP, 4, "run-id-1")
        yield opened


def failed(key: bytes, kind: str = "conflict") -> FailedKey:
    return FailedKey(key, 7, kind, "differs", "n:1")


def pending(key: bytes) -> PendingKey:
    return PendingKey(key, 8, "slot 8 is not served")


def advance(scanned: int, migrated: int, **lists: Any) -> Advance:
    return Advance(totals=Totals(Keys(scanned=scanned, migrated=migrated)), **lists)


def test_opened_twice_in_one_process_it_stays_whole_for_others(path: Path) -> None:
    """Closing the file anew would give back SQLite's locks: another process would take the log away."""
    opens = "import sys, pathlib; from slotferry.jobs.journal.journal import Journal\n"
    opens += "with Journal.open(pathlib.Path(sys.argv[1])): pass"
    with Journal.open(path) as first:
        first.create("job", SETUP, 4, "run-id-1")
        with Journal.open(path) as second:
            assert second.has("job")
        log = path.with_name(f"{path.name}-wal")
        before = log.stat().st_ino
        subprocess.run([sys.executable, "-c", opens, str(path)], check=True)
        assert log.exists()
        assert log.stat().st_ino == before


def test_a_new_journal_is_for_its_owner_alone(path: Path) -> None:
    with Journal.open(path) as opened:
        assert opened.jobs() == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_job_starts_with_every_partition_at_its_index(journal: Journal) -> None:
    assert journal.marks("job") == [Mark(index, index, False) for index in range(4)]
    record = journal.job("job")
    assert record is not None
    assert (record.setup, record.partition_count, record.run_id) == (SETUP, 4, "run-id-1")
    assert (record.status, record.totals, record.runs) == ("running", Totals(), 0)
    assert journal.job("other") is None


def test_a_checkpoint_is_there_after_reopening(journal: Journal, path: Path) -> None:
    step = Advance(
        totals=Totals(Keys(10, 3, 1, 1, 1, 1, 99, 99), bytes=5, moved=1, ask=2, retries=3),
        marks=[Mark(0, 2**64 - 1, False), Mark(3, 0, True)],
        failures=[failed(b"a"), failed(b"\x00\xff")],
        pending=[pending(b"p")],
    )
    written = journal.record("job", step)
    with Journal.open(path) as again:
        # What the engine counts as pending and failed is not taken over: the rows are.
        assert again.totals("job") == written == Totals(Keys(10, 3, 1, 1, 1, 1, 1, 2), 5, 1, 2, 3)
        assert again.totals("job").keys.add_up
        assert again.marks("job") == [
            Mark(0, 2**64 - 1, False),
            Mark(1, 1, False),
            Mark(2, 2, False),
            Mark(3, 0, True),
        ]
        assert again.failures("job", 10) == [failed(b"a"), failed(b"\x00\xff")]
        assert again.failures("job", 1) == [failed(b"a")]
        assert again.pending("job", 10) == [pending(b"p")]


@given(cursor=st.integers(0, 2**64 - 1))
def test_any_cursor_is_kept_exactly(tmp_path_factory: pytest.TempPathFactory, cursor: int) -> None:
    path = tmp_path_factory.getbasetemp() / "cursors.db"
    with Journal.open(path) as journal:
        if journal.job("job") is None:
            journal.create("job", SETUP, 1, "id")
        journal.record("job", Advance(marks=[Mark(0, cursor, False)]))
        assert journal.marks("job") == [Mark(0, cursor, False)]


def test_a_pending_key_that_succeeds_moves_to_migrated(journal: Journal) -> None:
    journal.record("job", advance(3, 1, pending=[pending(b"p"), pending(b"q")]))
    after = journal.record("job", advance(0, 1, resolved=[b"p"]))
    assert after.keys == Keys(scanned=3, migrated=2, pending=1)
    assert after.keys.add_up
    assert journal.pending("job", 9) == [pending(b"q")]


def test_a_resolved_key_is_taken_out_before_it_fails_anew(journal: Journal) -> None:
    journal.record("job", advance(2, 0, failures=[failed(b"a")], pending=[pending(b"p")]))
    after = journal.record(
        "job", advance(0, 0, resolved=[b"a", b"p"], failures=[failed(b"a", "payload"), failed(b"p")])
    )
    assert after.keys == Keys(scanned=2, failed=2)
    assert [(f.key, f.kind) for f in journal.failures("job", 9)] == [(b"a", "payload"), (b"p", "conflict")]
    assert journal.pending("job", 9) == []


def test_a_key_that_scan_returned_twice_is_one_failed_key(journal: Journal) -> None:
    journal.record("job", advance(3, 1, failures=[failed(b"a"), failed(b"a")]))
    after = journal.record("job", advance(2, 0, failures=[failed(b"a")], pending=[pending(b"a")]))
    assert after.keys == Keys(scanned=2, migrated=1, failed=1)
    assert after.keys.add_up


def test_a_resolved_key_that_was_not_unsettled_changes_nothing(journal: Journal) -> None:
    assert journal.record("job", advance(1, 1, resolved=[b"stranger"])).keys == Keys(scanned=1, migrated=1)


def test_jobs_do_not_mix(journal: Journal) -> None:
    journal.create("other", SETUP, 1, "id")
    journal.record("job", advance(1, 0, failures=[failed(b"a")]))
    journal.record("other", advance(2, 1, failures=[failed(b"a")]))
    assert journal.totals("job").keys == Keys(scanned=1, failed=1)
    assert journal.totals("other").keys == Keys(scanned=2, migrated=1, failed=1)
    assert journal.discard("job")
    assert not journal.discard("job")
    assert journal.job("job") is None
    assert not any([journal.marks("job"), journal.failures("job", 9), journal.runs("job")])
    assert journal.failures("other", 9) == [failed(b"a")]


def test_unsettled_keys_are_those_of_the_moment(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.jobs.journal.reader._CHUNK_KEYS", 2)
    names = [f"p{number}".encode() for number in range(5)]
    journal.record("job", advance(6, 0, pending=list(map(pending, names)), failures=[failed(b"f")]))
    chunks = journal.unsettled_keys("job", with_failed=False)
    assert next(chunks) == names[:2]
    # They fail to settle again: they come back as new rows, which this iteration does not see.
    journal.record("job", advance(0, 0, resolved=names[:2], pending=list(map(pending, names[:2]))))
    journal.record("job", advance(0, 1, resolved=[b"p3"]))
    assert list(chunks) == [[b"p2", b"p4"]]
    both = [key for chunk in journal.unsettled_keys("job", with_failed=True) for key in chunk]
    assert sorted(both) == [b"f", b"p0", b"p1", b"p2", b"p4"]
    journal.reset("job", SETUP, 4, "id")
    assert list(journal.unsettled_keys("job", with_failed=True)) == []


def test_a_reset_forgets_all_but_the_runs(journal: Journal) -> None:
    number = journal.begin_run("job", resumed=False)
    journal.record("job", advance(5, 4, marks=[Mark(1, 99, True)], failures=[failed(b"a")]))
    journal.end_run("job", number, "interrupted", 1.5, None)
    other = Setup("redis://x:1/0", SETUP.target, "a*", "hash", "skip")
    journal.reset("job", other, 2, "run-id-2")
    record = journal.job("job")
    assert record is not None
    assert (record.setup, record.partition_count, record.run_id, record.runs) == (other, 2, "run-id-2", 1)
    assert record.totals == Totals()
    assert journal.marks("job") == [Mark(0, 0, False), Mark(1, 1, False)]
    assert journal.failures("job", 9) == []


def test_every_run_is_kept(journal: Journal) -> None:
    assert journal.begin_run("job", resumed=False) == 1
    journal.record("job", advance(2, 2))
    journal.end_run("job", 1, "failed", 1.5, SourceLostError("gone"))
    assert journal.begin_run("job", resumed=True) == 2  # and is killed: it never ends
    assert journal.begin_run("job", resumed=True) == 3
    journal.end_run("job", 3, "completed", 2.5, None)
    first, second, third = journal.runs("job")
    assert (first.status, first.error_kind, first.error_message) == ("failed", "source_lost", "gone")
    assert (first.keys, first.elapsed_seconds, first.resumed) == (Keys(scanned=2, migrated=2), 1.5, False)
    assert (second.status, second.error_kind, second.keys, second.ended) == (
        "interrupted",
        "killed",
        None,
        None,
    )
    assert (third.status, third.error_kind, third.pid, third.resumed) == (
        "completed",
        None,
        os.getpid(),
        True,
    )
    record = journal.job("job")
    assert record is not None
    assert (record.status, record.runs) == ("completed", 3)


def test_the_difference_of_setups_is_told_by_option() -> None:
    other = Setup(SETUP.source, SETUP.target, "user:*", None, "replace")
    assert SETUP.differences(other) == [
        "match: the journal has nothing, the command says user:*",
        "on-conflict: the journal has error, the command says replace",
    ]
    assert SETUP.differences(SETUP) == []


def test_a_checkpoint_that_fails_leaves_nothing_behind(journal: Journal, path: Path) -> None:
    journal.record("job", advance(1, 1))
    size = os.path.getsize(path) // 4096
    connection = journal._connection
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.execute(f"PRAGMA max_page_count = {size + 1}")  # as good as a full disk
    many = [failed(os.urandom(500)) for _ in range(1000)]
    with pytest.raises(JournalError, match="full") as caught:
        journal.record("job", advance(1001, 1, failures=many, marks=[Mark(0, 5, False)]))
    assert caught.value.exit_code == 4
    assert journal.totals("job").keys == Keys(scanned=1, migrated=1)
    assert journal.marks("job")[0] == Mark(0, 0, False)
    connection.execute("PRAGMA max_page_count = 1000000")
    journal.record("job", advance(1001, 1, failures=many, marks=[Mark(0, 5, False)]))
    assert journal.totals("job").keys == Keys(scanned=1002, migrated=2, failed=1000)


def test_two_processes_may_make_the_same_journal(path: Path) -> None:
    with Journal.open(path) as one, Journal.open(path) as other:
        one.create("job", SETUP, 1, "id")
        assert other.job("job") is not None


# Files that are no journal


def test_it_opens_while_another_process_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has its tables takes no lock to open, so that `jobs show` never waits for a run."""
    with Journal.open(path):
        pass
    monkeypatch.setattr(file, "_BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with Journal.open(path) as journal:
            assert journal.job("none") is None
        writer.execute("ROLLBACK")


def test_a_file_of_anything_else_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database, however long it may be" * 100)
    with pytest.raises(JournalError, match=r"journal\.db is damaged or no journal"):
        Journal.open(path)
    assert path.read_bytes().startswith(b"this is no database")


def test_a_database_of_another_program_is_refused(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE jobs (name TEXT)")
    connection.close()
    with pytest.raises(JournalError, match="another program"):
        Journal.open(path)


def test_a_journal_of_a_newer_version_is_refused(path: Path) -> None:
    Journal.open(path).__exit__(None, None, None)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(JournalError, match=f"version {SCHEMA_VERSION + 1}") as caught:
        Journal.open(path)
    assert "newer Slotferry" in caught.value.hint


def test_a_damaged_journal_is_refused(path: Path) -> None:
    with Journal.open(path) as journal:
        journal.create("job", SETUP, 64, "id")
        journal.record("job", advance(2000, 0, failures=[failed(os.urandom(200)) for _ in range(2000)]))
    content = bytearray(path.read_bytes())
    content[8192:-8192] = b"\xa5" * (len(content) - 16384)
    path.write_bytes(content)
    with pytest.raises(JournalError, match="damaged or no journal") as caught:
        Journal.open(path)
    assert "\n" not in str(caught.value)


def test_a_journal_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="can't be opened for writing: Is a directory"):
        Journal.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="can't be opened for writing"):
        Journal.open(tmp_path / "file" / "journal.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(JournalError, match="Permission denied"):
        Journal.open(tmp_path / "journal.db")


def test_what_following_settles_or_fails_to_copy_changes_its_outcome_and_no_count(tmp_path: Path) -> None:
    mark = FollowMark("following", "f" * 40, 2**62, 3, True)
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create("job", SETUP, 1, "run")
        first = Totals(Keys(scanned=3, migrated=2, failed=1))
        journal.record("job", Advance(totals=first, failures=[failed(b"a")], follow=mark))
        assert journal.follow_mark("job") == mark
        totals = journal.record("job", Advance(resolved=[b"a"], follow=mark))
        assert totals.keys == Keys(scanned=3, migrated=3)
        later = [failed(bytes([number])) for number in range(4)]
        totals = journal.record("job", Advance(failures=later[:3], follow=mark))
        assert totals.keys == Keys(scanned=3, failed=3)
        totals = journal.record("job", Advance(failures=later[3:], follow=mark))
        assert totals.keys == Keys(scanned=4, failed=4)


def test_a_pass_from_the_start_keeps_collisions_where_they_are_not_looked_for_again(tmp_path: Path) -> None:
    kinds = ("collision", "field_ttl")
    notes = [FailedKey(kind.encode(), 7, kind, "noted", "") for kind in kinds]
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create("job", SETUP, 1, "run")
        journal.record("job", Advance(notes=notes))
        journal.reset("job", SETUP, 1, "run", keeps_collisions=True)
        assert [note.kind for note in journal.notes("job", 9)] == ["collision"]
        journal.reset("job", SETUP, 1, "run")
        assert journal.notes("job", 9) == []


def test_a_pass_from_the_start_keeps_the_place_in_the_stream_where_it_follows_on(tmp_path: Path) -> None:
    mark = FollowMark("following", "f" * 40, 17, 0, False)
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create("job", SETUP, 1, "run")
        journal.record("job", Advance(follow=mark))
        journal.reset("job", SETUP, 1, "other", follows_on=True)
        # What was owed behind that place is forgotten: only a comparison says what of it is to be copied.
        assert journal.follow_mark("job") == replace(mark, phase="copying", in_doubt=True)
        journal.reset("job", SETUP, 1, "other")
        assert journal.follow_mark("job") is None
