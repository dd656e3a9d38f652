"""Checksums and counts of the journal's rows: what is not as it was written, or gone, is refused.

Invariant: every row of a protected table carries the CRC-32 of its columns, kept by triggers of the
connection (so they bind no other program), whichever statement writes the row. A column that is NULL does
not count: one that is added later has to be so in the rows that are there. How many rows a job has in each
counted table stands in `row_counts`, as of the end of each transaction.
"""

from __future__ import annotations

import re
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slotferry.errors import JournalError, RefusedError, UsageError

COUNTED = (
    *("runs", "notes", "story", "big_keys", "target_nodes", "target_counts", "doubts", "follow"),
    *("cutovers", "cutover_reports", "changed_settings", "libraries", "series", "slot_owners"),
    "partition_counts",
)
"""Tables whose rows are counted; those of partitions and of unsettled keys by figures of the job itself."""

_TYPES = {"INTEGER": "'integer'", "REAL": "'real', 'integer'", "TEXT": "'text'", "BLOB": "'blob'"}
DISCARD_HINT = (
    "start the job over with --restart or forget it with 'slotferry jobs discard', or name another file with "
    "--journal"
)


class DamagedRowError(JournalError):
    """A row of the journal is not as it was written; the rows of other jobs may be sound."""


def damaged_row(path: Path, table: str, row: str, what: str) -> DamagedRowError:
    """Return the error for one row; `row` says which."""
    return DamagedRowError(
        f"the journal {path} is damaged: in the table {table}, the row {row} {what}", hint=DISCARD_HINT
    )


def missing_rows(path: Path, table: str, job: str, count: int) -> DamagedRowError:
    """Return the error for rows of a job that are not there any more."""
    return DamagedRowError(
        f"the journal {path} is damaged: the table {table} lacks {count:,} rows of the job {job}",
        hint=DISCARD_HINT,
    )


@contextmanager
def parsing(path: Path, table: str, row: str) -> Iterator[None]:
    """Turn what goes wrong while a row's values are understood into `DamagedRowError`."""
    try:
        yield
    except JournalError:
        raise
    except (UsageError, RefusedError) as error:
        raise damaged_row(path, table, row, f"can't be read: {error.message}") from None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        raise damaged_row(path, table, row, "can't be read") from None


def protect(connection: sqlite3.Connection, tables: Sequence[str], path: Path) -> None:
    """Give the tables their checksums, and this connection what keeps them.

    Rows that have none yet (of an older version) are looked at and sealed as they are. Raises `JournalError`
    for a row with a value of another type than its column's.
    """
    for table in tables:
        name = f"checksum_{table}"
        columns = column_names(connection, table)
        connection.create_function(name, 2 * len(columns), _Checksum(tuple(columns)), deterministic=True)
        if not _has_checksums(connection, table):
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not _has_checksums(connection, table):  # else another process was faster
                    _check_types(connection, table, path)
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER")
                    connection.execute(f"UPDATE {table} SET checksum = {_call(table, columns)}")  # noqa: S608
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        key = " AND ".join(f"{column} IS NEW.{column}" for column in _key(connection, table))
        for event, what in (("INSERT", "INSERT"), ("UPDATE", f"UPDATE OF {', '.join(columns)}")):
            connection.execute(
                f"CREATE TEMP TRIGGER {table}_{event} AFTER {what} ON main.{table} BEGIN "  # noqa: S608
                f"UPDATE {table} SET checksum = {_call(table, columns, 'NEW.')} WHERE {key}; END"
            )


def count_rows(connection: sqlite3.Connection) -> None:
    """Let this connection count rows; `keep_counts` is to be called before each commit."""
    # Else a row that REPLACE takes away is not counted off.
    connection.execute("PRAGMA recursive_triggers = ON")
    connection.execute(
        "CREATE TEMP TABLE row_changes (job TEXT, name TEXT, rows INTEGER, PRIMARY KEY (job, name)) "
        "WITHOUT ROWID"
    )
    for table in COUNTED:
        for event, row, change in (("INSERT", "NEW", 1), ("DELETE", "OLD", -1)):
            mine = f"({row}.job, '{table}')"
            connection.execute(
                f"CREATE TEMP TRIGGER {table}_{event}_count AFTER {event} ON main.{table} BEGIN "  # noqa: S608
                f"INSERT INTO row_changes SELECT {row}.job, '{table}', 0 "
                f"WHERE NOT EXISTS (SELECT 1 FROM row_changes WHERE (job, name) = {mine}); "
                f"UPDATE row_changes SET rows = rows + {change} WHERE (job, name) = {mine}; END"
            )
    counts = "; ".join(_first_count(table, "NEW.name") for table in COUNTED)
    connection.execute(f"CREATE TEMP TRIGGER jobs_count AFTER INSERT ON main.jobs BEGIN {counts}; END")


def count_what_is_there(connection: sqlite3.Connection) -> None:
    """Write down how many rows each job has: in a journal of which nobody has counted them yet."""
    for table in COUNTED:
        connection.execute(f"{_first_count(table, 'jobs.name')} FROM jobs")


def _first_count(table: str, job: str) -> str:
    return (
        f"INSERT OR REPLACE INTO row_counts (job, name, rows) SELECT {job}, '{table}', "  # noqa: S608
        f"(SELECT count(*) FROM {table} WHERE job = {job})"
    )


def keep_counts(connection: sqlite3.Connection) -> None:
    """Write down how the transaction has changed the number of rows."""
    if connection.execute("SELECT 1 FROM row_changes LIMIT 1").fetchone():
        connection.execute(
            "UPDATE row_counts SET rows = row_counts.rows + (SELECT c.rows FROM row_changes AS c "
            "WHERE c.job = row_counts.job AND c.name = row_counts.name) "
            "WHERE (job, name) IN (SELECT job, name FROM row_changes WHERE rows != 0)"
        )
        connection.execute("DELETE FROM row_changes")


def check_counts(connection: sqlite3.Connection, path: Path, job: str) -> None:
    """Look for rows that are gone, which no checksum tells. Raises `DamagedRowError`.

    What was in doubt, or how far something had come, would be taken for done. The caller's transaction makes
    it one look.
    """
    expected = dict(connection.execute("SELECT name, rows FROM row_counts WHERE job = ?", (job,)).fetchall())
    for table in COUNTED:
        if table not in expected:
            raise missing_rows(path, "row_counts", job, len(COUNTED) - len(expected))
        ((count,),) = connection.execute(f"SELECT count(*) FROM {table} WHERE job = ?", (job,)).fetchall()  # noqa: S608
        if count < expected[table]:
            raise missing_rows(path, table, job, expected[table] - count)


def check_rows(
    connection: sqlite3.Connection, tables: Sequence[str], path: Path, job: str | None = None
) -> None:
    """Compare the checksums of a job's rows, or of all. Raises `DamagedRowError` where one differs."""
    for table in tables:
        columns, key = column_names(connection, table), _key(connection, table)
        owner = "job" if "job" in columns else "name"
        mine = "" if job is None else f"{owner} = ? AND "
        found = connection.execute(
            f"SELECT {', '.join(f'CAST({column} AS BLOB)' for column in key)} FROM {table} "  # noqa: S608
            f"WHERE {mine}NOT {sound(connection, table)} LIMIT 1",
            () if job is None else (job,),
        ).fetchone()
        if found is not None:
            row = ", ".join(f"{column} {_shown(value)}" for column, value in zip(key, found, strict=True))
            raise damaged_row(path, table, row, "has changed since it was written")


def sound(connection: sqlite3.Connection, table: str) -> str:
    """Return the SQL condition that holds for rows which are as they were written."""
    return f"(checksum IS {_call(table, column_names(connection, table))})"


class _Checksum:
    """The CRC-32 of a row's values, each given as its SQLite type and itself."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns

    def __call__(self, *values: object) -> int:
        parts: list[bytes] = []
        for column, kind, value in zip(self._columns, values[::2], values[1::2], strict=True):
            if value is not None:
                raw = value if isinstance(value, bytes) else repr(value).encode()
                parts += (f"{column} {kind} {len(raw)} ".encode(), raw)
        return zlib.crc32(b"".join(parts))


def _call(table: str, columns: Sequence[str], row: str = "") -> str:
    """Return the SQL that computes the checksum of a row. Text goes as bytes: it may be damaged."""
    values = (
        f"typeof({row}{column}), CASE typeof({row}{column}) WHEN 'text' THEN CAST({row}{column} AS BLOB) "
        f"ELSE {row}{column} END"
        for column in columns
    )
    return f"checksum_{table}({', '.join(values)})"


def column_names(connection: sqlite3.Connection, table: str) -> list[str]:
    """Return the columns that count, by name: in which order a table has them depends on its history."""
    return sorted(name for _, name, *_ in _table_info(connection, table) if name != "checksum")


def _key(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, _, _, _, primary in _table_info(connection, table) if primary]


def _has_checksums(connection: sqlite3.Connection, table: str) -> bool:
    return any(name == "checksum" for _, name, *_ in _table_info(connection, table))


def _check_types(connection: sqlite3.Connection, table: str, path: Path) -> None:
    wrong = [
        f"{name} IS NOT NULL AND typeof({name}) NOT IN ({_TYPES[declared]})"
        for _, name, declared, *_ in _table_info(connection, table)
    ]
    found = connection.execute(
        f"SELECT CAST({_key(connection, table)[0]} AS BLOB) FROM {table} WHERE {' OR '.join(wrong)} LIMIT 1"  # noqa: S608
    ).fetchone()
    if found is not None:
        raise damaged_row(path, table, _shown(found[0]), "has a value of another type")


def _table_info(connection: sqlite3.Connection, table: str) -> list[tuple[int, str, str, int, object, int]]:
    return connection.execute(f"PRAGMA table_info({table})").fetchall()


def _shown(value: bytes | None) -> str:
    text = "NULL" if value is None else value.decode("utf-8", "backslashreplace")
    return text if re.fullmatch(r"[0-9]+", text) else repr(text[:100])
