"""From the engine's checkpoints to the journal: cumulative becomes increments, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slotferry.errors import JournalError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.journal.records import Advance, Mark, PendingKey, Setup
from slotferry.model.counts import FailedKey, Keys, Totals
from tests.unit.fakes import FakeCheckpoint, FakeCounts, FakeJob, FakeSnapshot

FAILURE = FailedKey(b"f", 1, "conflict", "differs", "n:1")
PENDING = PendingKey(b"p", 2, "not served")


class FlakyJournal(Journal):
    """A journal whose disk is full for a while."""

    full = False

    def record(self, name: str, advance: Advance) -> Totals:
        if self.full:
            raise JournalError("full")
        return super().record(name, advance)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FlakyJournal]:
    with FlakyJournal.open(tmp_path / "journal.db") as opened:
        assert isinstance(opened, FlakyJournal)
        opened.create("job", Setup("s", "t", None, None, "error"), 2, "id")
        opened.record("job", Advance(totals=Totals(Keys(scanned=100, migrated=100), bytes=1000, moved=1)))
        yield opened


def test_cumulative_counts_are_added_once(journal: FlakyJournal) -> None:
    job = FakeJob(
        [
            FakeCheckpoint(FakeCounts(10, 10, bytes=50), [Mark(0, 8, False), Mark(1, 1, False)]),
            FakeCheckpoint(
                FakeCounts(30, 28, pending=1, failed=1, bytes=90),
                [Mark(0, 0, True), Mark(1, 5, False)],
                failures=[FAILURE],
                pending=[PENDING],
            ),
        ]
    )
    recorder = Recorder(journal, "job", job.as_job())
    recorder.save()
    assert journal.totals("job") == Totals(Keys(scanned=110, migrated=110), bytes=1050, moved=1)
    job.now.moved = 4
    recorder.save()
    recorder.finish()  # the same counts once more add nothing
    expected = Totals(Keys(scanned=130, migrated=128, pending=1, failed=1), bytes=1090, moved=5)
    assert journal.totals("job") == expected
    assert journal.marks("job") == [Mark(0, 0, True), Mark(1, 5, False)]
    assert (recorder.partitions_done, recorder.partitions, recorder.keys) == (1, 2, expected.keys)


def test_live_figures_are_those_of_the_journal_and_what_came_since(journal: FlakyJournal) -> None:
    job = FakeJob([FakeCheckpoint(FakeCounts(20, 19, failed=1), failures=[FAILURE])])
    recorder = Recorder(journal, "job", job.as_job())
    snapshot = FakeSnapshot(FakeCounts(25, 23, failed=2, bytes=7), moved=3)
    before = recorder.live(snapshot)  # type: ignore[arg-type]
    assert before == Totals(Keys(scanned=125, migrated=123, failed=2), bytes=1007, moved=4)
    recorder.save()
    after = recorder.live(snapshot)  # type: ignore[arg-type]
    assert after == before


def test_a_checkpoint_that_was_not_written_is_kept(journal: FlakyJournal) -> None:
    first = FakeCheckpoint(FakeCounts(10, 9, failed=1), [Mark(0, 8, False)], failures=[FAILURE])
    second = FakeCheckpoint(FakeCounts(20, 18, pending=1, failed=1), [Mark(0, 0, True)], pending=[PENDING])
    job = FakeJob([first, second])
    recorder = Recorder(journal, "job", job.as_job())
    journal.full = True
    for _ in range(3):
        with pytest.raises(JournalError):
            recorder.save()
    assert job.taken == 1  # no newer one is taken while it waits
    assert journal.totals("job").keys == Keys(scanned=100, migrated=100)
    journal.full = False
    recorder.finish()
    assert journal.totals("job").keys == Keys(scanned=120, migrated=118, pending=1, failed=1)
    assert journal.failures("job", 9) == [FAILURE]
    assert journal.pending("job", 9) == [PENDING]
    assert journal.marks("job")[0] == Mark(0, 0, True)


def test_finishing_with_a_full_disk_raises(journal: FlakyJournal) -> None:
    recorder = Recorder(journal, "job", FakeJob([]).as_job())
    journal.full = True
    with pytest.raises(JournalError):
        recorder.finish()


def test_the_scanned_fraction_is_over_all_partitions(journal: FlakyJournal) -> None:
    # Of two partitions one is done; the other (index 1) stands at half of its share.
    half = 0b11
    job = FakeJob([FakeCheckpoint(partitions=[Mark(0, 0, True), Mark(1, half, False)])])
    recorder = Recorder(journal, "job", job.as_job())
    assert recorder.scanned_fraction == 0.0
    recorder.save()
    assert recorder.scanned_fraction == pytest.approx(0.75)


def test_a_key_that_is_taken_up_again_is_counted_once(journal: FlakyJournal) -> None:
    counts = Totals(Keys(scanned=3, migrated=1))
    journal.record("job", Advance(counts, failures=[FAILURE], pending=[PENDING]))
    names = [FAILURE.key, PENDING.key]
    job = FakeJob([FakeCheckpoint(FakeCounts(0, 1, failed=1), resolved=names, failures=[FAILURE])])
    recorder = Recorder(journal, "job", job.as_job())
    for taken_up in (FakeCounts(0, 0), FakeCounts(0, 0, failed=1), FakeCounts(0, 1, failed=1)):
        live = recorder.live(FakeSnapshot(taken_up))  # type: ignore[arg-type]
        assert live.keys.done == live.keys.scanned == 103
    recorder.save()
    assert journal.totals("job").keys == Keys(scanned=103, migrated=102, failed=1)
    assert live.keys == journal.totals("job").keys
