"""The journal of reshards: tables of their own in the file that the migrations use.

Invariant: a slot is written down as open before it is opened, so that after `kill -9` it is known whose it
is. Where the file and the cluster disagree, the cluster is right. No credential is ever stored.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from slotferry.jobs.journal.file import explained, open_database
from slotferry.jobs.journal.row_checks import check_rows, parsing, protect
from slotferry.redaction import json_text
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.plan.model import Plan
from slotferry.reshard.report import Report, is_left_open

_NAMES = ("reshard_jobs", "reshard_slots", "reshard_runs", "reshard_steps")
_TABLES = """
CREATE TABLE IF NOT EXISTS reshard_jobs (
    name TEXT PRIMARY KEY,
    cluster TEXT NOT NULL,
    plan TEXT NOT NULL,
    digest TEXT NOT NULL,
    status TEXT NOT NULL,
    keys INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS reshard_slots (
    job TEXT NOT NULL REFERENCES reshard_jobs ON DELETE CASCADE,
    slot INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'moved', 'left')),
    reason TEXT NOT NULL DEFAULT '',
    copied_from TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (job, slot)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reshard_runs (
    job TEXT NOT NULL REFERENCES reshard_jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    status TEXT NOT NULL,
    summary TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reshard_steps (
    job TEXT NOT NULL REFERENCES reshard_jobs ON DELETE CASCADE,
    run INTEGER NOT NULL,
    at INTEGER NOT NULL,
    slots INTEGER NOT NULL,
    keys INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job, run, at)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class ReshardRecord:
    """A job as the journal knows it; times are seconds since 1970. `status` may also be `running`."""

    name: str
    cluster: str
    plan: Plan
    status: str
    keys: int
    bytes: int
    conflicts: int
    created: float
    updated: float
    runs: int


@dataclass(frozen=True)
class ReshardRun:
    """One run of a job. `why` says how it ended early, where it did."""

    number: int
    host: str
    pid: int
    started: float
    ended: float | None
    status: str
    why: str


@dataclass(frozen=True)
class ReshardStep:
    """What a run moved within one second, which began at `at` (since 1970)."""

    run: int
    at: int
    slots: int
    keys: int
    bytes: int


class ReshardJournal:
    """An open journal. Belongs to the thread that opened it; a context manager that closes it."""

    def __init__(self, path: Path, *, is_checked: bool = False) -> None:
        """Open the file, making what is missing. Raises `JournalError`.

        With `is_checked` the file is not read as a whole.
        """
        self.path = path
        self._connection: sqlite3.Connection = open_database(path, is_checked=is_checked)
        with explained(path):
            for statement in _TABLES.split(";"):
                self._connection.execute(statement)
            columns = self._connection.execute("PRAGMA table_info(reshard_slots)").fetchall()
            if all(name != "copied_from" for _, name, *_ in columns):  # a journal of an older version
                self._connection.execute(
                    "ALTER TABLE reshard_slots ADD COLUMN copied_from TEXT NOT NULL DEFAULT ''"
                )
            protect(self._connection, _NAMES, path)

    def __enter__(self) -> ReshardJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def jobs(self) -> list[ReshardRecord]:
        """Return every job, the one that changed last first."""
        rows = self._select("SELECT name FROM reshard_jobs ORDER BY updated DESC, name")
        return [record for (name,) in rows if (record := self.job(name)) is not None]

    def job(self, name: str) -> ReshardRecord | None:
        """Return the job of that name, or None. Raises `JournalError` where a row of it is damaged."""
        with explained(self.path):
            check_rows(self._connection, _NAMES, self.path, name)
        rows = self._select(
            "SELECT cluster, plan, status, keys, bytes, conflicts, created, updated, "
            "(SELECT count(*) FROM reshard_runs WHERE job = name) FROM reshard_jobs WHERE name = ?",
            name,
        )
        if not rows:
            return None
        cluster, plan, *rest = rows[0]
        with parsing(self.path, "reshard_jobs", f"name {name!r}"):
            return ReshardRecord(name, cluster, Plan.from_json(plan, name="the plan"), *rest)

    def has(self, name: str) -> bool:
        """Return whether there is a job of that name, be it damaged."""
        return bool(self._select("SELECT 1 FROM reshard_jobs WHERE name = ?", name))

    def slots(self, name: str, state: str) -> list[int]:
        """Return the job's slots in that state: `open`, `moved` or `left`."""
        rows = self._select(
            "SELECT slot FROM reshard_slots WHERE job = ? AND state = ? ORDER BY slot", name, state
        )
        return [slot for (slot,) in rows]

    def runs(self, name: str) -> list[ReshardRun]:
        """Return the job's runs in order."""
        rows = self._select(
            "SELECT number, host, pid, started, ended, status, summary FROM reshard_runs "
            "WHERE job = ? ORDER BY number",
            name,
        )
        with parsing(self.path, "reshard_runs", f"job {name!r}"):
            return [
                ReshardRun(number, host, pid, started, ended, status, _why(summary))
                for number, host, pid, started, ended, status, summary in rows
            ]

    def steps(self, name: str) -> list[ReshardStep]:
        """Return what was moved in which second, in order: not more rows than slots that were moved."""
        rows = self._select(
            "SELECT run, at, slots, keys, bytes FROM reshard_steps WHERE job = ? ORDER BY run, at", name
        )
        return [ReshardStep(*row) for row in rows]

    def reasons(self, name: str) -> dict[str, str]:
        """Return the slots that were left, or left open, as ranges, by reason."""
        rows = self._select(
            "SELECT reason, slot FROM reshard_slots WHERE job = ? AND reason <> '' ORDER BY slot", name
        )
        grouped: dict[str, list[int]] = {}
        for reason, slot in rows:
            grouped.setdefault(reason, []).append(slot)
        return {reason: format_ranges(slots) for reason, slots in grouped.items()}

    def discard(self, name: str) -> bool:
        """Forget a job and all that belongs to it; return whether there was one."""
        with self._transaction() as execute:
            return bool(execute("DELETE FROM reshard_jobs WHERE name = ?", (name,)).rowcount)

    def open_slots(self) -> dict[int, str]:
        """Return the slots that some job of ours may have left open, with the job's name."""
        self._check_slots()
        return dict(self._select("SELECT slot, job FROM reshard_slots WHERE state = 'open'"))

    def copied_from(self) -> list[tuple[str, int, str]]:
        """Return (job, slot, process) of the open slots that may have been copied before they were opened."""
        self._check_slots()
        return self._select(
            "SELECT job, slot, copied_from FROM reshard_slots WHERE state = 'open' AND copied_from <> '' "
            "ORDER BY job, slot"
        )

    def forget_copies(self, slots: Iterable[tuple[str, int]]) -> None:
        """Write down that of these (job, slot) there are no copies any more."""
        with self._transaction() as execute:
            for job, slot in slots:
                execute("UPDATE reshard_slots SET copied_from = '' WHERE job = ? AND slot = ?", (job, slot))

    def begin(self, name: str, plan: Plan) -> tuple[int, bool]:
        """Begin a run of a job, new or not; return its number and whether it goes on with the same plan."""
        now = time.time()
        with self._transaction() as execute:
            row = execute("SELECT digest FROM reshard_jobs WHERE name = ?", (name,)).fetchone()
            resumed = row is not None and row[0] == plan.digest
            if row is None:
                execute(
                    "INSERT INTO reshard_jobs (name, cluster, plan, digest, status, created, updated) "
                    "VALUES (?, ?, ?, ?, 'running', ?, ?)",
                    (name, plan.cluster, plan.to_json(), plan.digest, now, now),
                )
            elif not resumed:
                # What the old plan left open stays written down: the cluster says what became of it.
                execute("DELETE FROM reshard_slots WHERE job = ? AND state <> 'open'", (name,))
                execute("DELETE FROM reshard_steps WHERE job = ?", (name,))
                execute(
                    "UPDATE reshard_jobs SET plan = ?, digest = ?, cluster = ?, keys = 0, bytes = 0, "
                    "conflicts = 0 WHERE name = ?",
                    (plan.to_json(), plan.digest, plan.cluster, name),
                )
            execute(
                "UPDATE reshard_runs SET status = 'interrupted' WHERE job = ? AND status = 'running'", (name,)
            )
            execute("UPDATE reshard_jobs SET status = 'running', updated = ? WHERE name = ?", (now, name))
            (number,) = execute(
                "SELECT coalesce(max(number), 0) + 1 FROM reshard_runs WHERE job = ?", (name,)
            ).fetchone()
            execute(
                "INSERT INTO reshard_runs (job, number, host, pid, started, status) "
                "VALUES (?, ?, ?, ?, ?, 'running')",
                (name, number, socket.gethostname(), os.getpid(), now),
            )
        return int(number), resumed

    def set_open(self, name: str, slots: Mapping[int, str]) -> None:
        """Write down that the slots are about to be opened, with the process that each may be copied from."""
        with self._transaction():
            self._connection.executemany(
                "INSERT INTO reshard_slots (job, slot, state, copied_from) VALUES (?, ?, 'open', ?) "
                "ON CONFLICT (job, slot) DO UPDATE SET state = 'open', reason = '', "
                "copied_from = excluded.copied_from",
                ((name, slot, process) for slot, process in slots.items()),
            )

    def settle(self, name: str, moved: Iterable[int], left: dict[int, str], keys: int, size: int) -> None:
        """Write down what became of slots, known as open or not. One that is left open stays so here."""
        became = [(name, slot, "moved", "") for slot in moved]
        slots = len(became)
        became += [
            (name, slot, "open" if is_left_open(reason) else "left", reason) for slot, reason in left.items()
        ]
        with self._transaction() as execute:
            # A repair may have forgotten them, since nothing was open any more.
            self._connection.executemany(
                "INSERT INTO reshard_slots (job, slot, state, reason) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (job, slot) DO UPDATE SET state = excluded.state, reason = excluded.reason",
                became,
            )
            execute(
                "UPDATE reshard_jobs SET keys = keys + ?, bytes = bytes + ?, updated = ? WHERE name = ?",
                (keys, size, time.time(), name),
            )
            if slots:
                execute(
                    "INSERT INTO reshard_steps (job, run, at, slots, keys, bytes) "
                    "SELECT job, number, ?, ?, ?, ? FROM reshard_runs WHERE job = ? "
                    "ORDER BY number DESC LIMIT 1 "
                    "ON CONFLICT (job, run, at) DO UPDATE SET slots = slots + excluded.slots, "
                    "keys = keys + excluded.keys, bytes = bytes + excluded.bytes",
                    (int(time.time()), slots, keys, size, name),
                )

    def forget_open(self, slots: Iterable[int]) -> None:
        """Write down that nothing is open there any more, as the cluster says."""
        with self._transaction():
            self._connection.executemany(
                "DELETE FROM reshard_slots WHERE slot = ? AND state = 'open'", ((slot,) for slot in slots)
            )

    def end(self, name: str, number: int, report: Report) -> None:
        """Write down how a run ended; the job's status is its last run's."""
        now = time.time()
        with self._transaction() as execute:
            execute(
                "UPDATE reshard_runs SET ended = ?, status = ?, summary = ? WHERE job = ? AND number = ?",
                (now, report.status, json_text(report.to_dict()), name, number),
            )
            execute(
                "UPDATE reshard_jobs SET status = ?, conflicts = ?, updated = ? WHERE name = ?",
                (report.status, report.conflicts, now, name),
            )

    def _check_slots(self) -> None:
        with explained(self.path):
            check_rows(self._connection, ("reshard_slots",), self.path)

    def _select(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _why(summary: str | None) -> str:
    """Return what a run's summary says about why it ended."""
    summary_fields = {} if summary is None else json.loads(summary)
    error = summary_fields.get("error") or {}
    return str(error.get("message") or summary_fields.get("reason") or "")
