"""Takes one engine job's checkpoints to the journal.

Invariant: the engine hands the lists of a checkpoint over once, so a checkpoint that could not be written is
kept and written before a newer one is taken: nothing is lost to a full disk.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from slotferry.jobs.job_group import EngineJob, JobGroup
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark, PendingKey
from slotferry.jobs.partitions import scanned_fraction
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.follow import FollowMark
from slotferry.redaction import redact

if TYPE_CHECKING:
    from slotferry._core import Checkpoint, Failure, Snapshot


class Recorder:
    """Knows the figures of job `name`: as recorded, and up to an instant of the engine's `job`."""

    def __init__(self, journal: Journal, name: str, job: EngineJob, database: int = 0) -> None:
        self._journal = journal
        self._name = name
        self._job = job
        self._database = database
        self._marks = {(mark.database, mark.index): mark for mark in journal.marks(name)}
        self._committed = journal.totals(name)  # the journal's figures, over all engine jobs
        self._reached = Totals()  # this engine job's share of them
        self._unwritten: tuple[Advance, Totals] | None = None

    @property
    def keys(self) -> Keys:
        """The job's keys as far as they are recorded."""
        return self._committed.keys

    @property
    def totals(self) -> Totals:
        """All figures of the job as far as they are recorded."""
        return self._committed

    @property
    def partitions(self) -> int:
        """How many partitions the job has."""
        return len(self._marks)

    @property
    def partitions_done(self) -> int:
        """How many partitions are scanned to their end."""
        return sum(mark.done for mark in self._marks.values())

    @property
    def scanned_fraction(self) -> float:
        """Which part of the source is scanned and recorded, from 0.0 to 1.0."""
        if isinstance(self._job, JobGroup):  # of several nodes, whose cursors tell no part of the whole
            return self.partitions_done / len(self._marks) if self._marks else 1.0
        count = sum(database == self._database for database, _ in self._marks)
        parts = (1.0 if m.done else scanned_fraction(m.index, m.cursor, count) for m in self._marks.values())
        return sum(parts) / len(self._marks) if self._marks else 1.0

    @property
    def position(self) -> int:
        """The cursor of the first partition as recorded: of a file, the bytes that are done."""
        return max((mark.cursor for mark in self._marks.values()), default=0)

    def live(self, snapshot: Snapshot) -> Totals:
        """Return the job's figures at the instant of `snapshot`, recorded or not."""
        new = _figures(Keys.of(snapshot.counts), snapshot.counts.bytes, snapshot) - self._reached
        totals = self._committed + new
        return replace(totals, keys=_each_once(totals.keys, new.keys.failed))

    def save(self) -> None:
        """Write the checkpoint that is kept, or else the newest. Raises `JournalError` and keeps it."""
        if self._unwritten is None:
            self._unwritten = self._take()
        advance, reached = self._unwritten
        self._committed = self._journal.record(self._name, advance)
        self._marks.update(((mark.database, mark.index), mark) for mark in advance.marks)
        self._reached = reached
        self._unwritten = None

    def finish(self) -> None:
        """Write everything up to the engine job's end. Raises `JournalError`."""
        if self._unwritten is not None:
            self.save()
        self.save()

    def _take(self) -> tuple[Advance, Totals]:
        snapshot, checkpoint = self._job.snapshot(), self._job.checkpoint()
        database = self._database
        reached = _figures(Keys.of(checkpoint.counts), checkpoint.counts.bytes, snapshot)
        advance = Advance(
            totals=reached - self._reached,
            marks=[Mark(m.index, m.cursor, m.done, database) for m in checkpoint.partitions],
            resolved=checkpoint.resolved,
            failures=[_failed(failure, database) for failure in checkpoint.failures],
            pending=[PendingKey(p.key, p.slot, redact(p.reason), database) for p in checkpoint.pending],
            notes=[_failed(note, database) for note in checkpoint.notes],
            database=database,
            big_positions=checkpoint.big_positions,
            follow=_follow_mark(checkpoint),
        )
        return advance, reached


def _follow_mark(checkpoint: Checkpoint) -> FollowMark | None:
    if checkpoint.follow is None:
        return None
    position, in_doubt = checkpoint.follow
    copied = all(mark.done for mark in checkpoint.partitions)
    return FollowMark("following" if copied else "copying", *position, in_doubt)


def _each_once(keys: Keys, failed_again: int) -> Keys:
    """Return the counts without the old outcome of keys that have a new one which is not recorded yet.

    A key that is taken up again is not scanned again, and failed or was pending: until the checkpoint that
    takes it out of those it would be counted twice. Which of both it was is a guess until then: what fails
    now (`failed_again` keys) has failed before, the others were pending, as long as any were.
    """
    twice = max(0, keys.done - keys.scanned)
    failed = min(failed_again, twice)
    pending = min(keys.pending, twice - failed)
    return replace(keys, failed=max(0, keys.failed - twice + pending), pending=keys.pending - pending)


def _figures(keys: Keys, size: int, snapshot: Snapshot) -> Totals:
    return Totals(keys, size, snapshot.moved, snapshot.ask, snapshot.retries)


def _failed(failure: Failure, database: int) -> FailedKey:
    return FailedKey(
        key=failure.key,
        slot=failure.slot,
        kind=failure.kind,
        message=redact(failure.message),
        node=failure.node,
        database=database,
        source=None if failure.source is None else redact(failure.source),
        target=None if failure.target is None else redact(failure.target),
    )
