"""What the journal says of jobs: their records, runs, marks, unsettled keys and history.

Invariant: a row that is not as it was written is refused (row_checks.py). Names of keys are read in chunks of
bounded size.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from slotferry.errors import JournalError
from slotferry.jobs.journal.file import TABLES, explained, open_database
from slotferry.jobs.journal.records import (
    COMPLETED,
    ClusterRecord,
    JobRecord,
    Mark,
    PendingKey,
    RunRecord,
    Setup,
)
from slotferry.jobs.journal.row_checks import (
    DISCARD_HINT,
    check_counts,
    check_rows,
    damaged_row,
    missing_rows,
    parsing,
    sound,
)
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.follow import FollowMark
from slotferry.model.history import HistoryEntry

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK_KEYS = 50_000
_CHUNK_BYTES = 2 << 20  # of names
_FAILED_KEY = "key, slot, kind, message, node, db, source, target"
_OF_KEYS = ("unsettled", "notes")


class JournalReader:
    """An open journal, as far as it is read. Belongs to the thread that opened it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: Path, *, is_checked: bool = False) -> Self:
        """Open the journal at `path`, making it (0600) and its folder (0700) where they are missing.

        With `is_checked` the file is not read as a whole, since this process has found it sound already.
        Raises `JournalError` for a file that can't be written, is damaged, belongs to another program or to
        a newer Slotferry.
        """
        return cls(path, open_database(path, is_checked=is_checked))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def jobs(self) -> list[JobRecord]:
        """Return every job, the one that changed last first. Raises `JournalError` for a damaged one."""
        with explained(self.path):
            check_rows(self._connection, ("jobs",), self.path)
        rows = self.select("SELECT name FROM jobs ORDER BY updated DESC, name")
        return [record for (name,) in rows if (record := self._record(name)) is not None]

    def has(self, name: str) -> bool:
        """Return whether there is a job of that name, be it damaged."""
        return bool(self.select("SELECT 1 FROM jobs WHERE name = ?", name))

    def job(self, name: str) -> JobRecord | None:
        """Return the job of that name, or None.

        Raises `JournalError` where a row of it is damaged, or it has a setting of a newer Slotferry.
        """
        if name not in self._checked:  # what this process writes itself need not be looked at again
            with explained(self.path):
                check_rows(self._connection, TABLES, self.path, name)
                self._check_counts(name)
            self._checked.add(name)
        return self._record(name)

    def look(self, name: str) -> JobRecord | None:
        """Return the job, to be shown. Raises as `job` does; of its keys, those are checked that are read."""
        with explained(self.path):
            check_rows(
                self._connection, [table for table in TABLES if table not in _OF_KEYS], self.path, name
            )
            self._check_counts(name)
        return self._record(name)

    def _check_counts(self, name: str) -> None:
        """Look for rows that are gone, which no checksum tells: a scan, or a key, would be taken for done."""
        self._connection.execute("BEGIN")  # one look: another process may write
        try:
            self._count_rows(name)
        finally:
            self._connection.execute("ROLLBACK")

    def _count_rows(self, name: str) -> None:
        missing = {
            "partitions": "SELECT sum(max(0, partitions - (SELECT count(*) FROM partitions AS p "
            "WHERE p.job = c.job AND p.db = c.db))) FROM partition_counts AS c WHERE job = ?",
            "unsettled": "SELECT pending + failed - (SELECT count(*) FROM unsettled WHERE job = name) "
            "FROM jobs WHERE name = ?",
        }
        for table, statement in missing.items():
            rows = self._connection.execute(statement, (name,)).fetchall()
            if rows and (rows[0][0] or 0) > 0:
                raise missing_rows(self.path, table, name, rows[0][0])
        if self.has(name):
            check_counts(self._connection, self.path, name)

    def _record(self, name: str) -> JobRecord | None:
        rows = self.select(
            "SELECT setup, partition_count, run_id, status, created, updated, "
            "(SELECT count(*) FROM runs WHERE job = name) FROM jobs WHERE name = ?",
            name,
        )
        if not rows:
            return None
        setup, partition_count, run_id, status, created, updated, runs = rows[0]
        return JobRecord(
            name,
            self._parse_setup(name, setup),
            partition_count,
            run_id,
            status,
            self.totals(name),
            created,
            updated,
            runs,
        )

    def _parse_setup(self, name: str, text: str) -> Setup:
        with parsing(self.path, "jobs", f"name {name!r}"):
            settings = json.loads(text)
            unknown = sorted(settings.keys() - {f.name for f in fields(Setup)})
            if unknown:
                raise JournalError(
                    f"the job {name} in {self.path} has a setting that this Slotferry does not know: "
                    f"{', '.join(unknown)[:200]}",
                    hint=f"use the newer Slotferry that wrote it, or {DISCARD_HINT}",
                )
            return Setup(**settings)

    def totals(self, name: str) -> Totals:
        """Return the job's figures over all its runs."""
        rows = self.select(
            "SELECT scanned, migrated, unchanged, skipped, expired, vanished, pending, failed, "
            "bytes, moved, ask, retries FROM jobs WHERE name = ?",
            name,
        )
        return Totals(Keys(*rows[0][:8]), *rows[0][8:])

    def runs(self, name: str) -> list[RunRecord]:
        """Return the job's runs in order."""
        rows = self.select(
            "SELECT number, resumed, host, pid, started, ended, status, keys, elapsed, error_kind, "
            "error_message FROM runs WHERE job = ? ORDER BY number",
            name,
        )
        with parsing(self.path, "runs", f"job {name!r}"):
            return [
                RunRecord(
                    *(number, bool(resumed), host, pid, started, ended, status),
                    keys=Keys(**json.loads(keys)) if keys else None,
                    elapsed_seconds=elapsed,
                    error_kind=kind,
                    error_message=message,
                )
                for number, resumed, host, pid, started, ended, status, keys, elapsed, kind, message in rows
            ]

    def marks(self, name: str) -> list[Mark]:
        """Return the marks of the job's partitions, by database and index."""
        rows = self.select(
            "SELECT idx, cursor, done, db FROM partitions WHERE job = ? ORDER BY db, idx", name
        )
        with parsing(self.path, "partitions", f"job {name!r}"):
            return [Mark(index, int(cursor), bool(done), database) for index, cursor, done, database in rows]

    def databases(self, name: str) -> list[int]:
        """Return the databases of the source that the job copies."""
        rows = self.select("SELECT DISTINCT db FROM partitions WHERE job = ? ORDER BY db", name)
        return [database for (database,) in rows]

    def failures(self, name: str, limit: int) -> list[FailedKey]:
        """Return the first `limit` failed keys. Raises `JournalError` for a damaged one."""
        return self._keys("unsettled", name, "AND outcome = 'failed'", limit)

    def notes(self, name: str, limit: int) -> list[FailedKey]:
        """Return the first `limit` keys that are copied, but without something that a policy gave up."""
        return self._keys("notes", name, "", limit)

    def _keys(self, table: str, name: str, which: str, limit: int) -> list[FailedKey]:
        rows = self.select(
            f"SELECT id, {sound(self._connection, table)}, {_FAILED_KEY} FROM {table} "  # noqa: S608
            f"WHERE job = ? {which} ORDER BY id LIMIT ?",
            *(name, limit),
        )
        return [self._failed(table, row) for row in rows]

    def _failed(self, table: str, row: tuple[Any, ...]) -> FailedKey:
        """Make a key of a row, of which id and soundness come first. Raises `JournalError` if damaged."""
        number, is_sound, *values = row
        if not is_sound:
            raise damaged_row(self.path, table, f"id {number}", "has changed since it was written")
        return FailedKey(*values)

    def count_notes(self, name: str, kind: str = "%") -> int:
        """Return how many keys `notes` has, of one kind or in all."""
        ((count,),) = self.select("SELECT count(*) FROM notes WHERE job = ? AND kind LIKE ?", name, kind)
        return int(count)

    def big_positions(self, name: str, database: int) -> list[tuple[bytes, str]]:
        """Return how far a database's unsettled keys are copied in parts, in the engine's words."""
        return self.select("SELECT key, position FROM big_keys WHERE job = ? AND db = ?", name, database)

    def follow_mark(self, name: str) -> FollowMark | None:
        """Return where the job goes on following; None where it has not begun to."""
        rows = self.select(
            "SELECT phase, replication_id, position, db, in_doubt FROM follow WHERE job = ?", name
        )
        if not rows:
            return None
        phase, replication_id, position, database, in_doubt = rows[0]
        return FollowMark(phase, replication_id, position, database, bool(in_doubt))

    def cluster_record(self, name: str) -> ClusterRecord | None:
        """Return what is known of the job's source where that is a cluster; None where nothing is."""
        rows = self.select("SELECT layout, doubts, look FROM cluster_sources WHERE job = ?", name)
        with parsing(self.path, "cluster_sources", f"job {name!r}"):
            for layout, doubts, look in rows:
                nodes = tuple((str(node), str(run)) for node, run in json.loads(layout))
                slots = (slot for first, last in json.loads(doubts) for slot in range(first, last + 1))
                return ClusterRecord(nodes, frozenset(slots), look)
        return None

    def pending(self, name: str, limit: int) -> list[PendingKey]:
        """Return the first `limit` pending keys."""
        rows = self._keys("unsettled", name, "AND outcome = 'pending'", limit)
        return [PendingKey(row.key, row.slot, row.message, row.database) for row in rows]

    def unsettled_keys(self, name: str, *, with_failed: bool, database: int = 0) -> Iterator[list[bytes]]:
        """Yield the names of a database's pending (and failed) keys there are now, in chunks of bounded size.

        Keys that become unsettled during the iteration, anew or for the first time, are not among them:
        ids only grow.
        """
        outcomes = ("pending", "failed" if with_failed else "pending")
        after = 0
        ((last,),) = self.select("SELECT coalesce(max(id), 0) FROM unsettled WHERE job = ?", name)
        while after < last:
            rows = self._select_names(
                "SELECT id, key FROM unsettled WHERE id > ? AND id <= ? AND job = ? AND db = ? "
                "AND outcome IN (?, ?) ORDER BY id LIMIT ?",
                *(after, last, name, database, *outcomes, _CHUNK_KEYS),
            )
            if not rows:
                return
            after = rows[-1][0]
            yield [key for _, key in rows]

    def failed_keys(self, name: str, kind: str, database: int = 0) -> Iterator[list[bytes]]:
        """Yield the names of a database's keys that failed with this kind now; in chunks of bounded size."""
        after = 0
        ((last,),) = self.select("SELECT coalesce(max(id), 0) FROM unsettled WHERE job = ?", name)
        while rows := self._select_names(
            "SELECT id, key FROM unsettled WHERE id > ? AND id <= ? AND job = ? AND outcome = 'failed' "
            "AND kind = ? AND db = ? ORDER BY id LIMIT ?",
            *(after, last, name, kind, database, _CHUNK_KEYS),
        ):
            after = rows[-1][0]
            yield [key for _, key in rows]

    def unsettled_kinds(self, name: str) -> list[tuple[int, str, str]]:
        """Return database, outcome (`failed`, `pending`) and kind of the keys that are unsettled."""
        return self.select(
            "SELECT DISTINCT db, outcome, kind FROM unsettled WHERE job = ? ORDER BY db, outcome, kind", name
        )

    def failed_of(
        self, names: tuple[str, str], limit: int = -1, *, extra: bool | None = None
    ) -> Iterator[FailedKey]:
        """Yield the failed keys of two jobs, each key once; with a `limit`, the first ones.

        With `extra`, only those of that kind, or only the others.
        """
        with explained(self.path):
            rows = self._connection.execute(
                f"SELECT id, {sound(self._connection, 'unsettled')}, {_FAILED_KEY} FROM unsettled AS one "  # noqa: S608
                "WHERE outcome = 'failed' "
                "AND (job = ?1 OR job = ?2 AND NOT EXISTS (SELECT 1 FROM unsettled WHERE job = ?3 "
                "AND key = one.key AND db = one.db AND outcome = 'failed')) "
                "AND (?4 IS NULL OR (kind = 'extra') = ?4) ORDER BY id LIMIT ?5",
                (names[0], names[1], names[0], extra, limit),
            )
            for row in rows:
                yield self._failed("unsettled", row)

    def difference_counts(self, names: tuple[str, str]) -> dict[str, int]:
        """Return how many keys of two jobs failed with each kind, each key counted once."""
        rows = self.select(
            "SELECT kind, count(*) FROM unsettled AS one WHERE outcome = 'failed' "
            "AND (job = ? OR job = ? AND NOT EXISTS (SELECT 1 FROM unsettled WHERE job = ? "
            "AND key = one.key AND db = one.db AND outcome = 'failed')) GROUP BY kind ORDER BY kind",
            *(names[0], names[1], names[0]),
        )
        return dict(rows)

    def history(self, name: str) -> list[HistoryEntry]:
        """Return what happened in the job's runs since it was completed last, in order."""
        runs = self.runs(name)
        ended = [run.number for run in runs[:-1] if run.status in COMPLETED]
        since = max(ended, default=0)
        rows = self.select(
            "SELECT run, at, last, kind, message, count FROM story WHERE job = ? AND run > ? ORDER BY at, id",
            *(name, since),
        )
        entries = [HistoryEntry(*row) for row in rows]
        for run in runs:
            if run.number > since:
                last = max((entry.last for entry in entries if entry.run == run.number), default=run.started)
                entries += _begin_and_end(run, last)
        return sorted(entries, key=lambda entry: (entry.run, entry.at))

    def has_cutovers(self, name: str) -> bool:
        """Whether a job has tried to cut over, or has left a setting of its source changed."""
        return bool(
            self.select(
                "SELECT 1 FROM cutovers WHERE job = ? UNION SELECT 1 FROM changed_settings WHERE job = ?",
                *(name, name),
            )
        )

    def select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Return the rows of a query. Raises `JournalError`."""
        with explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    def _select_names(self, statement: str, *values: object) -> list[tuple[int, bytes]]:
        """Return the first rows of ids and names, as many as are not too long together: one at least."""
        rows, left = [], _CHUNK_BYTES
        with explained(self.path), closing(self._connection.execute(statement, values)) as cursor:
            for number, name in cursor:
                rows.append((number, name))
                left -= len(name)
                if left <= 0:
                    break
        return rows


def _begin_and_end(run: RunRecord, last: float) -> list[HistoryEntry]:
    """Return a run's begin and end; of one that was killed, the end is when it told something `last`."""
    begun = f"run {run.number} {'resumed' if run.resumed else 'began'} on {run.host}"
    entries = [HistoryEntry(run.number, run.started, run.started, "run", begun)]
    if run.status != "running":
        at = last if run.ended is None else run.ended
        why = f": {run.error_message}" if run.error_message else ""
        message = f"run {run.number} {run.status.replace('_', ' ')}{why}"
        entries.append(HistoryEntry(run.number, at, at, "run", message))
    return entries
