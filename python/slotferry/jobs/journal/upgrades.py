"""How a journal of an older version becomes one of this version.

Invariant: each step is one transaction and is done once, whichever process is first. A row that is not as it
was written stays so, to be refused: only sound rows are rewritten.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from slotferry.jobs.journal.row_checks import column_names, count_what_is_there, sound

_WITH_SIDES = ("unsettled", "notes")
_DIFFERENCES = "'missing', 'extra', 'misplaced', 'different', 'type', 'ttl', 'payload'"
_BETWEEN = "' <> '"  # until version 4, what stood between the sides in the text of a difference
_COMPARES = "verify "  # until version 4, how the purpose of a verification began


def give_databases(connection: sqlite3.Connection, schema: str) -> None:
    """From version 1 to 2: partitions and unsettled keys get the database of their job's source URL."""
    with _step(connection) as version:
        if version != 1:
            return
        connection.create_function("database_of", 1, _database_of, deterministic=True)
        statements = {s.split()[2]: s for s in schema.split(";") if s.strip()}
        for table, columns in (
            ("partitions", "job, idx, cursor, done"),
            ("unsettled", "id, job, key, slot, outcome, kind, message, node"),
        ):
            connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
            connection.execute(statements[table])
            connection.execute(
                f"INSERT INTO {table} ({columns}, db) "  # noqa: S608
                f"SELECT {columns}, (SELECT database_of(setup) FROM jobs WHERE name = job) FROM old_{table}"
            )
            connection.execute(f"DROP TABLE old_{table}")
        connection.execute("PRAGMA user_version = 2")


def add_sides(connection: sqlite3.Connection) -> None:
    """Give differences a column for what each side holds; to be called before rows get their checksums."""
    with _step(connection):
        for table in _WITH_SIDES:
            for column in {"source", "target"} - set(column_names(connection, table)):
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} TEXT")


def divide_texts(connection: sqlite3.Connection) -> None:
    """To version 4: what stood in one text of a difference, or of a job's purpose, is put into its columns.

    The checksums of `row_checks.protect` are to be there.
    """
    with _step(connection) as before:
        if before >= 4:
            return
        for table in _WITH_SIDES:
            connection.execute(
                f"UPDATE {table} SET source = substr(message, 1, instr(message, {_BETWEEN}) - 1), "  # noqa: S608
                f"target = substr(message, instr(message, {_BETWEEN}) + 4), message = '' "
                f"WHERE kind IN ({_DIFFERENCES}) AND instr(message, {_BETWEEN}) "
                f"AND {sound(connection, table)}"
            )
        connection.create_function("divided_setup", 1, _divided_setup, deterministic=True)
        connection.execute(f"UPDATE jobs SET setup = divided_setup(setup) WHERE {sound(connection, 'jobs')}")  # noqa: S608
        connection.execute("PRAGMA user_version = 4")


def count_rows(connection: sqlite3.Connection) -> None:
    """From version 4 to 5: it is written down how many rows each job has in each table."""
    with _step(connection) as version:
        if version != 4:
            return
        count_what_is_there(connection)
        connection.execute("PRAGMA user_version = 5")


@contextmanager
def _step(connection: sqlite3.Connection) -> Iterator[int]:
    """Hold the file alone; what is done meanwhile is done whole or not at all. Gives the file's version."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        ((version,),) = connection.execute("PRAGMA user_version").fetchall()
        yield int(version)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _database_of(setup: str) -> int:
    """Return the database that a setup's source has, as `Endpoint.identity` writes it."""
    found = re.search(r"[/=]([0-9]+)$", json.loads(setup)["source"])
    return int(found[1]) if found else 0


def _divided_setup(text: str) -> str:
    """Return a setup whose purpose is a word; one that can't be read is left to be refused."""
    try:
        setup = json.loads(text)
        purpose = setup["purpose"]
        if purpose.startswith(_COMPARES):
            setup |= {"purpose": "verify", "comparison": purpose.removeprefix(_COMPARES)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return text
    return json.dumps(setup)
