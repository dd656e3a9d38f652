"""How the journal is written: one SQLite file that holds jobs, partitions, unsettled keys and runs.

Invariant: a checkpoint is written in one transaction, so what the file says is always true together: the
marks, the counts, and which keys are pending or failed. A key is unsettled at most once per job. No
credential is ever stored. Cursors are unsigned 64-bit numbers, which SQLite has none of: they are kept as
decimal text.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from slotferry.errors import JournalError, SlotferryError
from slotferry.jobs.journal.file import explained
from slotferry.jobs.journal.reader import JournalReader
from slotferry.jobs.journal.records import Advance, ClusterRecord, Setup
from slotferry.jobs.journal.row_checks import keep_counts
from slotferry.model.counts import Totals
from slotferry.model.follow import FollowMark
from slotferry.model.history import HistoryEntry
from slotferry.text import ranges_of

_OF_A_PASS = (
    *("unsettled", "notes", "big_keys", "partitions", "partition_counts"),
    *("target_nodes", "target_counts", "doubts", "cluster_sources"),
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


class Journal(JournalReader):
    """An open journal, to be read and written; a context manager that closes it."""

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
        keeps_collisions: bool = False,
    ) -> None:
        """Let the job start over: no counts, no unsettled keys, every partition at its start; runs stay.

        With `follows_on` its place in the source's stream stays as well: what is copied anew does not say
        what was deleted meanwhile. Both sides are compared then, since what was owed behind that place, or
        doubted, is forgotten. With `keeps_collisions` so do the names that several keys get: they are not
        looked for again.
        """
        with self.transaction() as execute:
            execute(_RESET_JOB, (json.dumps(asdict(setup)), partition_count, run_id, time.time(), name))
            for table in _OF_A_PASS:
                but = " AND kind != 'collision'" if keeps_collisions and table == "notes" else ""
                execute(f"DELETE FROM {table} WHERE job = ?{but}", (name,))  # noqa: S608
            if follows_on:
                execute("UPDATE follow SET phase = 'copying', in_doubt = 1 WHERE job = ?", (name,))
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
            self._write_notes(name, advance)
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

    def _write_notes(self, name: str, advance: Advance) -> None:
        """Write what is known of keys whose outcome it does not change; the transaction is the caller's."""
        self._connection.executemany(
            "INSERT OR IGNORE INTO notes (job, db, key, slot, kind, message, node, source, target) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (name, advance.database, n.key, n.slot, n.kind, n.message, n.node, n.source, n.target)
                for n in advance.notes
            ],
        )
        self._connection.execute("DELETE FROM big_keys WHERE job = ? AND db = ?", (name, advance.database))
        self._connection.executemany(
            "INSERT INTO big_keys (job, db, key, position) VALUES (?, ?, ?, ?)",
            [(name, advance.database, key, position) for key, position in advance.big_positions],
        )

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

    def tell(self, name: str, entries: Sequence[HistoryEntry]) -> None:
        """Add to the history; what is there already is counted on. Raises `JournalError`."""
        with self.transaction():
            self._connection.executemany(
                "INSERT INTO story (job, run, at, last, kind, message, count) VALUES (?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (job, run, kind, message) "
                "DO UPDATE SET count = count + excluded.count, last = excluded.last",
                [(name, h.run, h.at, h.last, h.kind, h.message, h.count) for h in entries],
            )

    def discard(self, name: str) -> bool:
        """Forget a job and all that belongs to it; return whether there was one."""
        with self.transaction() as execute:
            return execute("DELETE FROM jobs WHERE name = ?", (name,)).rowcount > 0

    def record_cluster(self, name: str, record: ClusterRecord, void: Sequence[int]) -> None:
        """Write what is known of a source that is a cluster; its `void` nodes are read no more."""
        layout, doubts = json.dumps(record.layout), json.dumps(ranges_of(record.doubts))
        with self.transaction() as execute:
            execute(
                "INSERT OR REPLACE INTO cluster_sources (job, layout, doubts, look) VALUES (?, ?, ?, ?)",
                (name, layout, doubts, record.look),
            )
            counts = execute(
                "SELECT db, count(*) FROM partitions WHERE job = ? GROUP BY db", (name,)
            ).fetchall()
            for number in void:
                for database, partitions in counts:
                    each = partitions // len(record.layout)
                    execute(
                        "UPDATE partitions SET done = 1 WHERE job = ? AND db = ? AND idx BETWEEN ? AND ?",
                        (name, database, number * each, (number + 1) * each - 1),
                    )

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
            "INSERT INTO partition_counts (job, db, partitions) VALUES (?, ?, ?)",
            [(name, database, partitions) for database, partitions in counts.items()],
        )
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

    def forget_damaged(self, name: str) -> bool:
        """Forget the job, and return True, where it can't be read."""
        try:
            self.job(name)
        except JournalError:
            return self.discard(name)
        return False

    @contextmanager
    def transaction(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """Give what executes statements, of which all are written or none. Raises `JournalError`."""
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                keep_counts(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite rolls some errors back by itself, such as a full disk.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
