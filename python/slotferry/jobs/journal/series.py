"""How a job went over time: a thinned series of its figures, kept with the job, and who owned which slot.

Invariant: a job has at most `MOST_ROWS` rows (half a megabyte), however long it runs: where there are more,
every second one goes, and rows come half as often. A journal that can't be written costs rows and no run.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from slotferry.errors import JournalError
from slotferry.jobs.journal.row_checks import parsing
from slotferry.model.events import Event, Progress

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.jobs.journal.reader import JournalReader

MOST_ROWS = 4_000
_FIRST_SECONDS, _SECONDS = 0.5, 5.0  # between two rows: at first, and later on
_ROWS_AT_FIRST = 60

Ranges = Sequence[tuple[int, int, str]]
"""(first slot, last slot, node)."""


@dataclass(frozen=True)
class SeriesRow:
    """The job at one instant (`at`, seconds since 1970), in run number `run`.

    `done` keys have an outcome, over all runs; a `phase` is `copy`, `follow`, or of a verification `compare`
    and `sweep`: each counts its own keys. The lag is None where no source is followed.
    """

    at: float
    run: int
    phase: str
    state: str
    done: int
    bytes: int
    pending: int
    failed: int
    lag_seconds: float | None
    lag_bytes: int | None


class SeriesWriter:
    """Hears a run's events and writes a row every few seconds; used by the thread that owns the journal."""

    def __init__(self, journal: Journal, job: str, run: int) -> None:
        self._journal = journal
        self._job = job
        self._run = run
        self._thread = threading.get_ident()
        self._begun = self._written = time.monotonic()
        self._begun_at = time.time()
        self._next = 0.0
        self._row: SeriesRow | None = None
        self._phase = "copy"
        self._slower = 1.0
        self._rows = count_rows(journal, job)

    def begin(self, phase: str) -> None:
        """Write how it is before anything is done in this run, which begins with `phase`."""
        before = self._journal.totals(self._job)
        keys = before.keys
        row = (phase, "connecting", keys.done, before.bytes, keys.pending, keys.failed, None, None)
        self._phase = phase
        self._write(SeriesRow(self._now(), self._run, *row))

    def hear(self, event: Event) -> None:
        """Take an event; write a row if one is due."""
        if not isinstance(event, Progress) or threading.get_ident() != self._thread:
            return
        self._phase = _phase(event, self._phase)
        before, self._row = self._row, _row(event, self._now(), self._run, self._phase)
        now = time.monotonic()
        changed = before is not None and (before.state, before.phase) != (self._row.state, self._row.phase)
        if now >= self._next or (changed and now >= self._written + _FIRST_SECONDS * self._slower):
            self._write(self._row)

    def finish(self) -> None:
        """Write how it is at the end."""
        if self._row is not None:
            self._write(replace(self._row, at=self._now()))

    def _now(self) -> float:
        """Return the time of a row: it never steps back in a run, though the clock may."""
        return self._begun_at + time.monotonic() - self._begun

    def _write(self, row: SeriesRow) -> None:
        self._written = now = time.monotonic()
        wait = min(_SECONDS, max(_FIRST_SECONDS, (now - self._begun) / _ROWS_AT_FIRST))
        self._next = now + wait * self._slower
        with contextlib.suppress(JournalError):
            add_row(self._journal, self._job, row)
            self._rows += 1
            if self._rows > MOST_ROWS:
                thin_out(self._journal, self._job)
                self._slower *= 2
                self._rows = count_rows(self._journal, self._job)


def _phase(event: Progress, before: str) -> str:
    """Return the phase of an event. One that pauses or waits goes on with that `before`."""
    if event.purpose == "verify":
        return "compare" if event.side == "source" else "sweep"
    if event.state == "following":
        return "follow"
    # What is copied to its end says `following` where it would say `running`.
    return (
        "follow" if before == "follow" and event.follow is not None and event.state != "running" else "copy"
    )


def _row(event: Progress, at: float, run: int, phase: str) -> SeriesRow:
    return SeriesRow(
        at=at,
        run=run,
        phase=phase,
        state=event.state,
        done=event.done_keys,
        bytes=event.bytes,
        pending=event.keys.pending,
        failed=event.keys.failed,
        lag_seconds=None if event.follow is None else event.follow.lag_seconds,
        lag_bytes=None if event.follow is None else event.follow.lag_bytes,
    )


def add_row(journal: Journal, job: str, row: SeriesRow) -> None:
    """Add a row. Raises `JournalError`."""
    with journal.transaction() as execute:
        execute(
            "INSERT OR REPLACE INTO series "
            "(job, at, run, phase, state, done, bytes, pending, failed, lag_seconds, lag_bytes) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (job, *astuple(row)),
        )


def thin_out(journal: Journal, job: str) -> None:
    """Let every second row go; the first one stays. Raises `JournalError`."""
    with journal.transaction() as execute:
        execute(
            "DELETE FROM series WHERE job = ?1 AND at IN (SELECT at FROM (SELECT at, "
            "row_number() OVER (ORDER BY run, at) AS number FROM series WHERE job = ?1) "
            "WHERE number % 2 = 0)",
            (job,),
        )


def count_rows(journal: JournalReader, job: str) -> int:
    """Return how many rows a job has."""
    return int(journal.select("SELECT count(*) FROM series WHERE job = ?", job)[0][0])


def series(journal: JournalReader, job: str) -> list[SeriesRow]:
    """Return the rows of a job, oldest first: none where an older Slotferry ran it."""
    rows = journal.select(
        "SELECT at, run, phase, state, done, bytes, pending, failed, lag_seconds, lag_bytes "
        "FROM series WHERE job = ? ORDER BY run, at",
        job,
    )
    return [SeriesRow(*row) for row in rows]


def keep_owners(journal: Journal, job: str, ranges: Ranges) -> None:
    """Remember who owns which slots of the target. A journal that can't be written is let be."""
    with contextlib.suppress(JournalError), journal.transaction() as execute:
        execute("INSERT OR REPLACE INTO slot_owners (job, ranges) VALUES (?, ?)", (job, json.dumps(ranges)))


def owners(journal: JournalReader, job: str) -> list[tuple[int, int, str]]:
    """Return who owned which slots at last; nothing where that is not known."""
    rows = journal.select("SELECT ranges FROM slot_owners WHERE job = ?", job)
    if not rows:
        return []
    with parsing(journal.path, "slot_owners", f"job {job!r}"):
        return [(int(first), int(last), str(node)) for first, last, node in json.loads(rows[0][0])]


def failed_by_slot(journal: JournalReader, job: str) -> dict[int, int]:
    """Return how many keys are failed or pending in each slot that has some."""
    return dict(journal.select("SELECT slot, count(*) FROM unsettled WHERE job = ? GROUP BY slot", job))
