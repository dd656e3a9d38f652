"""The journal: one SQLite file that holds jobs, partitions, unsettled keys and runs.

Invariant: a checkpoint is written in one transaction, so what the file says is always true together: the
marks, the counts, and which keys are pending or failed. A key is unsettled at most once per job. No
credential is ever stored. A row that is not as it was written is refused (row_checks.py). Cursors are
unsigned 64-bit numbers, which SQLite has none of: they are kept as decimal text.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from slotferry.errors import JournalError, SlotferryError
from slotferry.jobs.journal.file import TABLES, explained, open_database
from slotferry.jobs.journal.row_checks import DISCARD_HINT, check_rows, parsing
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.follow import FollowMark
from slotferry.model.history import Happening

_CHUNK_KEYS = 50_000
_CHUNK_BYTES = 2 << 20  # of names
COMPLETED = frozenset({"completed", "completed_with_failures", "completed_with_differences"})
"""How a run may have ended that came to the end of its work."""

_FAILED_KEY = "key, slot, kind, message, node, db, source, target"
_OF_A_PASS = (
    *("unsettled", "notes", "big_keys", "partitions"),
    *("target_nodes", "target_counts", "doubts"),
)

_RECORD_COUNTS = """
UPDATE jobs SET scanned = scanned + ?, migrated = migrated + ?, unchanged = unchanged + ?,
    skipped = skipped + ?, expired = expired + ?, vanished = vanished + ?, pending = pending + ?,
    failed = failed + ?, bytes = bytes + ?, moved = moved + ?, ask = ask + ?, retries = retries + ?,
    updated = ?
WHERE name = ?
"""

_RESET_JOB = """
UPDATE jobs SET setup = ?, partition_count = ?, run_id = ?, status = 'running', scanned = 0, migrated = 0,
    unchanged = 0, skipped = 0, expired = 0, vanished = 0, pending = 0, failed = 0, bytes = 0, moved = 0,
    ask = 0, retries = 0, updated = ?
WHERE name = ?
"""


Purpose = Literal["migrate", "verify"]


@dataclass(frozen=True)
class Setup:
    """What a job was started with and what every run of it has to share.

    `comparison` says what a verification looks at; None for a migration.
    """

    source: str
    target: str
    match: str | None
    type: str | None
    on_conflict: str
    field_ttl: str = "error"
    wait_replicas: int = 0
    purpose: Purpose = "migrate"
    filters: str | None = None
    rules: str | None = None
    databases: str | None = None
    map_db: str | None = None
    keys_from: str | None = None
    eviction_metadata: str | None = None
    follow: str | None = None
    comparison: str | None = None

    def differences(self, command: Setup) -> list[str]:
        """Return one text for each field where `command` differs from what the journal has."""
        return [
            f"{f.name.replace('_', '-')}: the journal has {_shown(mine)}, the command says {_shown(theirs)}"
            for f in fields(self)
            if (mine := getattr(self, f.name)) != (theirs := getattr(command, f.name))
        ]


@dataclass(frozen=True)
class JobRecord:
    """A job as the journal knows it; times are seconds since 1970. `status` may also be `running`."""

    name: str
    setup: Setup
    partition_count: int
    run_id: str
    status: str
    totals: Totals
    created: float
    updated: float
    runs: int


@dataclass(frozen=True)
class RunRecord:
    """One run of a job: `keys` are the job's at its end, None while it runs or where it was killed."""

    number: int
    resumed: bool
    host: str
    pid: int
    started: float
    ended: float | None
    status: str
    keys: Keys | None
    elapsed_seconds: float | None
    error_kind: str | None
    error_message: str | None


@dataclass(frozen=True)
class Mark:
    """A partition's low-water mark: SCAN goes on at `cursor`, unless `done`."""

    index: int
    cursor: int
    done: bool
    database: int = 0


@dataclass(frozen=True)
class PendingKey:
    """A key whose slot stayed unavailable."""

    key: bytes
    slot: int
    reason: str
    database: int = 0


@dataclass(frozen=True)
class Advance:
    """What a checkpoint adds to the one before: `totals` are increments, their pending and failed unused.

    All of it belongs to one `database` of the source.
    """

    totals: Totals = field(default_factory=Totals)
    marks: Sequence[Mark] = ()
    resolved: Sequence[bytes] = ()
    failures: Sequence[FailedKey] = ()
    pending: Sequence[PendingKey] = ()
    notes: Sequence[FailedKey] = ()
    database: int = 0
    big_positions: Sequence[tuple[bytes, str]] = ()
    follow: FollowMark | None = None


class Journal:
    """An open journal. Belongs to the thread that opened it; a context manager that closes it."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open the journal at `path`, making it (0600) and its folder (0700) where they are missing.

        Raises `JournalError` for a file that can't be written, is damaged, belongs to another program or to
        a newer Slotferry.
        """
        return cls(path, open_database(path))

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    # Reading

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
            self._checked.add(name)
        return self._record(name)

    def forget_damaged(self, name: str) -> bool:
        """Forget the job, and return True, where it can't be read."""
        try:
            self.job(name)
        except JournalError:
            return self.discard(name)
        return False

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
        """Return the first `limit` failed keys."""
        rows = self.select(
            f"SELECT {_FAILED_KEY} FROM unsettled "  # noqa: S608
            "WHERE job = ? AND outcome = 'failed' ORDER BY id LIMIT ?",
            name,
            limit,
        )
        return [FailedKey(*row) for row in rows]

    def notes(self, name: str, limit: int) -> list[FailedKey]:
        """Return the first `limit` keys that are copied, but without something that a policy gave up."""
        rows = self.select(
            f"SELECT {_FAILED_KEY} FROM notes WHERE job = ? ORDER BY id LIMIT ?",  # noqa: S608
            name,
            limit,
        )
        return [FailedKey(*row) for row in rows]

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

    def pending(self, name: str, limit: int) -> list[PendingKey]:
        """Return the first `limit` pending keys."""
        rows = self.select(
            "SELECT key, slot, message, db FROM unsettled "
            "WHERE job = ? AND outcome = 'pending' ORDER BY id LIMIT ?",
            name,
            limit,
        )
        return [PendingKey(*row) for row in rows]

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
                f"SELECT {_FAILED_KEY} FROM unsettled AS one WHERE outcome = 'failed' "  # noqa: S608
                "AND (job = ?1 OR job = ?2 AND NOT EXISTS (SELECT 1 FROM unsettled WHERE job = ?3 "
                "AND key = one.key AND db = one.db AND outcome = 'failed')) "
                "AND (?4 IS NULL OR (kind = 'extra') = ?4) ORDER BY id LIMIT ?5",
                (names[0], names[1], names[0], extra, limit),
            )
            for row in rows:
                yield FailedKey(*row)

    def difference_counts(self, names: tuple[str, str]) -> dict[str, int]:
        """Return how many keys of two jobs failed with each kind, each key counted once."""
        rows = self.select(
            "SELECT kind, count(*) FROM unsettled AS one WHERE outcome = 'failed' "
            "AND (job = ? OR job = ? AND NOT EXISTS (SELECT 1 FROM unsettled WHERE job = ? "
            "AND key = one.key AND db = one.db AND outcome = 'failed')) GROUP BY kind ORDER BY kind",
            *(names[0], names[1], names[0]),
        )
        return dict(rows)

    def story(self, name: str) -> list[Happening]:
        """Return what happened in the job's runs since it was completed last, in order."""
        runs = self.runs(name)
        ended = [run.number for run in runs[:-1] if run.status in COMPLETED]
        since = max(ended, default=0)
        rows = self.select(
            "SELECT run, at, last, kind, message, count FROM story WHERE job = ? AND run > ? ORDER BY at, id",
            *(name, since),
        )
        told = [Happening(*row) for row in rows]
        for run in runs:
            if run.number > since:
                last = max((entry.last for entry in told if entry.run == run.number), default=run.started)
                told += _begin_and_end(run, last)
        return sorted(told, key=lambda happening: (happening.run, happening.at))

    # Writing

    def create(
        self,
        name: str,
        setup: Setup,
        partition_count: int,
        run_id: str,
        databases: Sequence[int] | Mapping[int, int] = (0,),
        *,
        nodes: bool = False,
        names: Iterable[tuple[bytes, int]] | None = None,
    ) -> None:
        """Add a job that has done nothing yet: so many partitions of each database, or as many as it says.

        With `nodes` its partitions are nodes, each from 0 on. With `names` (and slots) there are no
        partitions, and these keys of the one database are pending.
        """
        now = time.time()
        with self.transaction() as execute:
            execute(
                "INSERT INTO jobs (name, setup, partition_count, run_id, status, created, updated) "
                "VALUES (?, ?, ?, ?, 'running', ?, ?)",
                (name, json.dumps(asdict(setup)), partition_count, run_id, now, now),
            )
            if names is None:
                self._start_partitions(name, partition_count, databases, nodes)
            else:
                self._enter_names(name, next(iter(databases)), names)

    def reset(
        self,
        name: str,
        setup: Setup,
        partition_count: int,
        run_id: str,
        databases: Sequence[int] | Mapping[int, int] = (0,),
        *,
        nodes: bool = False,
        names: Iterable[tuple[bytes, int]] | None = None,
        follows_on: bool = False,
    ) -> None:
        """Let the job start over: no counts, no unsettled keys, every partition at its start; runs stay.

        With `follows_on` its place in the source's stream stays as well: what is copied anew does not say
        what was deleted meanwhile.
        """
        with self.transaction() as execute:
            execute(_RESET_JOB, (json.dumps(asdict(setup)), partition_count, run_id, time.time(), name))
            for table in _OF_A_PASS:
                execute(f"DELETE FROM {table} WHERE job = ?", (name,))  # noqa: S608
            if follows_on:
                execute("UPDATE follow SET phase = 'copying' WHERE job = ?", (name,))
            else:
                execute("DELETE FROM follow WHERE job = ?", (name,))
            if names is None:
                self._start_partitions(name, partition_count, databases, nodes)
            else:
                self._enter_names(name, next(iter(databases)), names)

    def begin_run(self, name: str, *, resumed: bool) -> int:
        """Add a run of this process and return its number. An earlier one without an end was killed."""
        with self.transaction() as execute:
            execute(
                "UPDATE runs SET status = 'interrupted', error_kind = 'killed', "
                "error_message = 'the process ended without a word' WHERE job = ? AND status = 'running'",
                (name,),
            )
            ((number,),) = execute(
                "SELECT coalesce(max(number), 0) + 1 FROM runs WHERE job = ?", (name,)
            ).fetchall()
            now = time.time()
            execute(
                "INSERT INTO runs (job, number, resumed, host, pid, started, status) "
                "VALUES (?, ?, ?, ?, ?, ?, 'running')",
                (name, number, resumed, socket.gethostname(), os.getpid(), now),
            )
            execute("UPDATE jobs SET status = 'running', updated = ? WHERE name = ?", (now, name))
        return int(number)

    def record(self, name: str, advance: Advance) -> Totals:
        """Write a checkpoint in one transaction and return the job's figures after it.

        A key of `resolved` is taken out first. A key that is unsettled already and is reported so again was
        scanned twice (SCAN may do that): it stays one key, and its second scan is not counted.
        """
        keys = advance.totals.keys
        figures = (advance.totals.bytes, advance.totals.moved, advance.totals.ask, advance.totals.retries)
        with self.transaction() as execute:
            settled = {
                outcome: self._delete(name, advance.database, advance.resolved, outcome)
                for outcome in ("pending", "failed")
            }
            pending = self._insert(
                name,
                advance.database,
                [(k.key, k.slot, "pending", "", k.reason, "", None, None) for k in advance.pending],
            )
            failed = self._insert(
                name,
                advance.database,
                [
                    (k.key, k.slot, "failed", k.kind, k.message, k.node, k.source, k.target)
                    for k in advance.failures
                ],
            )
            self._connection.executemany(
                "INSERT OR IGNORE INTO notes (job, db, key, slot, kind, message, node, source, target) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (name, advance.database, n.key, n.slot, n.kind, n.message, n.node, n.source, n.target)
                    for n in advance.notes
                ],
            )
            execute("DELETE FROM big_keys WHERE job = ? AND db = ?", (name, advance.database))
            self._connection.executemany(
                "INSERT INTO big_keys (job, db, key, position) VALUES (?, ?, ?, ?)",
                [(name, advance.database, key, position) for key, position in advance.big_positions],
            )
            twice = len(advance.pending) + len(advance.failures) - pending - failed
            scanned, migrated = keys.scanned - twice, keys.migrated
            unsettled = (pending - settled["pending"], failed - settled["failed"])
            if advance.follow is not None:
                # Following counts nothing; a key that it settles, or fails to copy, was counted by the scan.
                moved = scanned - migrated - keys.settled + keys.migrated - sum(unsettled)
                if self.totals(name).keys.migrated + migrated + moved >= 0:
                    migrated += moved
                else:
                    scanned -= moved
                self._write_follow(name, advance.follow)
            counts = (
                *(
                    scanned,
                    migrated,
                    keys.unchanged,
                    keys.skipped,
                    keys.expired,
                    keys.vanished,
                ),
                *unsettled,
            )
            execute(_RECORD_COUNTS, (*counts, *figures, time.time(), name))
            self._connection.executemany(
                "UPDATE partitions SET cursor = ?, done = ? WHERE job = ? AND db = ? AND idx = ?",
                [(str(mark.cursor), mark.done, name, advance.database, mark.index) for mark in advance.marks],
            )
        return self.totals(name)

    def _write_follow(self, name: str, mark: FollowMark) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO follow (job, phase, replication_id, position, db, in_doubt) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (name, mark.phase, *mark.position, mark.in_doubt),
        )

    def end_run(
        self, name: str, number: int, status: str, elapsed_seconds: float, error: SlotferryError | None
    ) -> None:
        """Write down how a run ended; the job's status is its last run's."""
        now = time.time()
        ending = (error.kind, error.message) if error else (None, None)
        keys = json.dumps(asdict(self.totals(name).keys))
        with self.transaction() as execute:
            execute(
                "UPDATE runs SET ended = ?, status = ?, keys = ?, elapsed = ?, error_kind = ?, "
                "error_message = ? WHERE job = ? AND number = ?",
                (now, status, keys, elapsed_seconds, *ending, name, number),
            )
            execute("UPDATE jobs SET status = ?, updated = ? WHERE name = ?", (status, now, name))

    def tell(self, name: str, happenings: Sequence[Happening]) -> None:
        """Add to the story; what is there already is counted on. Raises `JournalError`."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO story (job, run, at, last, kind, message, count) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (job, run, kind, message) "
                "DO UPDATE SET count = count + excluded.count, last = excluded.last",
                [(name, h.run, h.at, h.last, h.kind, h.message, h.count) for h in happenings],
            )

    def discard(self, name: str) -> bool:
        """Forget a job and all that belongs to it; return whether there was one."""
        with self.transaction() as execute:
            return execute("DELETE FROM jobs WHERE name = ?", (name,)).rowcount > 0

    def adopt(self, name: str, run_id: str) -> None:
        """Let a job without cursors go on with another server process."""
        with self.transaction() as execute:
            execute("UPDATE jobs SET run_id = ? WHERE name = ?", (run_id, name))

    def _enter_names(self, name: str, database: int, names: Iterable[tuple[bytes, int]]) -> None:
        rows = ((name, database, key, slot) for key, slot in names)
        count = self._connection.executemany(
            "INSERT OR IGNORE INTO unsettled (job, db, key, slot, outcome, kind, message, node) "
            "VALUES (?, ?, ?, ?, 'pending', '', 'listed, and not copied yet', '')",
            rows,
        ).rowcount
        self._connection.execute(
            "UPDATE jobs SET scanned = ?, pending = ? WHERE name = ?", (count, count, name)
        )

    def _start_partitions(
        self, name: str, count: int, databases: Sequence[int] | Mapping[int, int], nodes: bool
    ) -> None:
        counts = databases if isinstance(databases, Mapping) else dict.fromkeys(databases, count)
        self._connection.executemany(
            "INSERT INTO partitions (job, db, idx, cursor, done) VALUES (?, ?, ?, ?, 0)",
            [
                (name, database, index, "0" if nodes else str(index))
                for database, partitions in counts.items()
                for index in range(partitions)
            ],
        )

    def _delete(self, name: str, database: int, keys: Sequence[bytes], outcome: str) -> int:
        if not keys:
            return 0
        return self._connection.executemany(
            "DELETE FROM unsettled WHERE job = ? AND db = ? AND key = ? AND outcome = ?",
            [(name, database, key, outcome) for key in keys],
        ).rowcount

    def _insert(self, name: str, database: int, rows: Sequence[tuple[object, ...]]) -> int:
        if not rows:
            return 0
        return self._connection.executemany(
            "INSERT OR IGNORE INTO unsettled "
            "(job, db, key, slot, outcome, kind, message, node, source, target) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [(name, database, *row) for row in rows],
        ).rowcount

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

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Give what executes statements, of which all are written or none. Raises `JournalError`."""
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls some errors back by itself, such as a full disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _begin_and_end(run: RunRecord, last: float) -> list[Happening]:
    """Return a run's begin and end; of one that was killed, the end is when it told something `last`."""
    begun = f"run {run.number} {'resumed' if run.resumed else 'began'} on {run.host}"
    told = [Happening(run.number, run.started, run.started, "run", begun)]
    if run.status != "running":
        at = last if run.ended is None else run.ended
        why = f": {run.error_message}" if run.error_message else ""
        message = f"run {run.number} {run.status.replace('_', ' ')}{why}"
        told.append(Happening(run.number, at, at, "run", message))
    return told


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)
