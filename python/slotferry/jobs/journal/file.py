"""The journal's file: its tables, how it is made and opened, and what its errors mean.

Invariant: a file that is not ours, is damaged or is newer than we are is refused and left as it is; a new
one is for its owner alone. Rows carry checksums (row_checks.py).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slotferry.errors import JournalError
from slotferry.jobs.journal import upgrades
from slotferry.jobs.journal.row_checks import count_rows, protect

APPLICATION_ID = 0x534C4F54  # "SLOT": tells our files from other programs' SQLite files
SCHEMA_VERSION = 5
TABLES = (
    *("jobs", "partitions", "unsettled", "runs", "notes", "story", "big_keys"),
    *("target_nodes", "target_counts", "doubts", "follow"),
    *("cutovers", "cutover_reports", "changed_settings", "libraries"),
    *("series", "slot_owners", "partition_counts", "row_counts", "cluster_sources"),
)
_FIRST_TABLES = ("jobs", "partitions", "unsettled", "runs")
"""Those that a journal of any version has."""

_BUSY_SECONDS = 10.0
_NOT_DAMAGE = (
    "full",
    "locked",
    "busy",
    "disk I/O",
    "unable to open",
    "readonly",
    "out of memory",
    "interrupted",
)

_SCHEMA = """
CREATE TABLE jobs (
    name TEXT PRIMARY KEY,
    setup TEXT NOT NULL,
    partition_count INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    status TEXT NOT NULL,
    scanned INTEGER NOT NULL DEFAULT 0,
    migrated INTEGER NOT NULL DEFAULT 0,
    unchanged INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    expired INTEGER NOT NULL DEFAULT 0,
    vanished INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    moved INTEGER NOT NULL DEFAULT 0,
    ask INTEGER NOT NULL DEFAULT 0,
    retries INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE TABLE partitions (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    db INTEGER NOT NULL,
    idx INTEGER NOT NULL,
    cursor TEXT NOT NULL,
    done INTEGER NOT NULL,
    PRIMARY KEY (job, db, idx)
) WITHOUT ROWID;
CREATE TABLE unsettled (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key BLOB NOT NULL,
    slot INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('pending', 'failed')),
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    node TEXT NOT NULL,
    db INTEGER NOT NULL,
    source TEXT,
    target TEXT,
    UNIQUE (job, db, key)
);
CREATE TABLE runs (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    resumed INTEGER NOT NULL,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started REAL NOT NULL,
    ended REAL,
    status TEXT NOT NULL,
    keys TEXT,
    elapsed REAL,
    error_kind TEXT,
    error_message TEXT,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
"""

# What came after the first release: added to older files, whose version stays, when they are opened.
_ADDED = """
CREATE TABLE IF NOT EXISTS notes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    key BLOB NOT NULL,
    slot INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    node TEXT NOT NULL,
    db INTEGER NOT NULL DEFAULT 0,
    source TEXT,
    target TEXT,
    UNIQUE (job, db, key)
);
CREATE TABLE IF NOT EXISTS story (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    run INTEGER NOT NULL,
    at REAL NOT NULL,
    last REAL NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    count INTEGER NOT NULL,
    UNIQUE (job, run, kind, message)
);
CREATE TABLE IF NOT EXISTS target_nodes (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    node_id TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (job, node_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS target_counts (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    expired INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS doubts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    kind TEXT NOT NULL,
    node TEXT NOT NULL,
    slots TEXT NOT NULL,
    message TEXT NOT NULL,
    UNIQUE (job, kind, node, slots)
);
CREATE TABLE IF NOT EXISTS big_keys (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    db INTEGER NOT NULL,
    key BLOB NOT NULL,
    position TEXT NOT NULL,
    PRIMARY KEY (job, db, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS follow (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    phase TEXT NOT NULL,
    replication_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    db INTEGER NOT NULL,
    in_doubt INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS cutovers (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    began REAL NOT NULL,
    ended REAL,
    step TEXT NOT NULL,
    fence INTEGER,
    outcome TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cutover_reports (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    number INTEGER NOT NULL,
    report TEXT NOT NULL,
    PRIMARY KEY (job, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS libraries (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (job, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changed_settings (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    job TEXT NOT NULL,
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    before TEXT NOT NULL,
    made TEXT NOT NULL,
    UNIQUE (job, node, name)
);
CREATE TABLE IF NOT EXISTS series (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    at REAL NOT NULL,
    run INTEGER NOT NULL,
    phase TEXT NOT NULL,
    state TEXT NOT NULL,
    done INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    pending INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    lag_seconds REAL,
    lag_bytes INTEGER,
    PRIMARY KEY (job, at)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS partition_counts (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    db INTEGER NOT NULL,
    partitions INTEGER NOT NULL,
    PRIMARY KEY (job, db)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cluster_sources (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    layout TEXT NOT NULL,
    doubts TEXT NOT NULL,
    look TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS slot_owners (
    job TEXT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    ranges TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS row_counts (
    job TEXT NOT NULL REFERENCES jobs ON DELETE CASCADE,
    name TEXT NOT NULL,
    rows INTEGER NOT NULL,
    PRIMARY KEY (job, name)
) WITHOUT ROWID;
"""


def open_database(path: Path, *, is_checked: bool = False) -> sqlite3.Connection:
    """Open the journal at `path`, making it (0600) and its folder (0700) where they are missing.

    Raises `JournalError`. The connection is in autocommit mode: transactions are begun by name.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_file(path)
    except OSError as error:
        raise JournalError(
            f"the journal {path} can't be opened for writing: {error.strerror}",
            hint="name a file that can be written with --journal or SLOTFERRY_JOURNAL",
        ) from None
    with explained(path):
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection, path, is_checked=is_checked)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_file(path: Path) -> None:
    """Make the file where there is none, and see whether one that is there can be written.

    One that is there is not opened: closing it would give back all locks that this process has on it,
    SQLite's too, so that another process would take the log away under a run that uses it.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        if not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into `JournalError`."""
    try:
        yield
    except UnicodeDecodeError as error:  # a damaged name in a message of SQLite
        raise _damaged(path, "a text is not UTF-8") from error
    except sqlite3.Error as error:
        text = str(error)
        if "decode" in text:
            raise _damaged(path, "a text is not UTF-8") from error
        if not any(cause in text for cause in _NOT_DAMAGE):
            raise _damaged(path, text.splitlines()[0] if text else type(error).__name__) from error
        raise JournalError(
            f"the journal {path} can't be used: {text}",
            hint="check its permissions and the free space, or name another file with --journal",
        ) from error


def _damaged(path: Path, text: str) -> JournalError:
    return JournalError(
        f"the journal {path} is damaged or no journal: {text}",
        hint="move it away or name another file with --journal; the migration then starts over",
    )


def _prepare(connection: sqlite3.Connection, path: Path, *, is_checked: bool) -> None:
    """Check that the file is ours and sound, and give an empty one its tables."""
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")  # after a power cut an older checkpoint is as true
    if _is_empty(connection):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        if _is_empty(connection):  # else another process was faster
            for statement in _SCHEMA.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("PRAGMA user_version = 2")
        connection.execute("COMMIT")
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise JournalError(
            f"{path} is a SQLite file of another program", hint="name another file with --journal"
        )
    if _pragma(connection, "user_version") == 1:
        upgrades.give_databases(connection, _SCHEMA)
    version = _pragma(connection, "user_version")
    if version not in range(2, SCHEMA_VERSION + 1):
        raise JournalError(
            f"the journal {path} has version {version}, and this Slotferry knows version {SCHEMA_VERSION}",
            hint="use the newer Slotferry that wrote it, or name another file with --journal",
        )
    if not is_checked:
        _check(connection, path)
    for table in _FIRST_TABLES:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            raise _damaged(path, f"it has no table {table}")
    for statement in _ADDED.split(";"):
        connection.execute(statement)
    if version != SCHEMA_VERSION:
        upgrades.add_sides(connection)
    protect(connection, TABLES, path)
    if version != SCHEMA_VERSION:
        # Who knows no checksums, no sides, or no counts must not write rows any more.
        upgrades.divide_texts(connection)
        upgrades.count_rows(connection)
    count_rows(connection)


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Read all of the file; takes a second for a million keys. Raises `JournalError` for a damaged one."""
    if (check := _pragma(connection, "integrity_check(1)")) != "ok":
        raise _damaged(path, str(check).splitlines()[-1])
    if orphan := connection.execute("PRAGMA foreign_key_check").fetchone():
        raise _damaged(path, f"a row of the table {orphan[0]} belongs to no job")


def _is_empty(connection: sqlite3.Connection) -> bool:
    return not connection.execute("SELECT name FROM sqlite_master").fetchall()


def _pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
