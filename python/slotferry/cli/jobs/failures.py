"""`slotferry jobs failures`: the names of keys that a job did not settle, as `--keys-from` takes them.

Invariant: nothing but names goes to stdout, each on a line of its own, and nothing is changed.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from slotferry.cli.common.command import Command
from slotferry.cli.jobs.commands import journal_option, journal_path, opened_journal, settings
from slotferry.cli.jobs.verifications import differences, not_listed
from slotferry.cli.options.job_argument import job_argument
from slotferry.errors import UsageError
from slotferry.text import escape_key, show_key

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal

_EXAMPLES = """\
\b
Examples:
  slotferry jobs failures nightly > keys
  slotferry migrate redis://old:6379 redis://new1:7000 --keys-from keys --job rest
  slotferry jobs failures nightly --kind conflict
  slotferry jobs failures nightly --kind failed --kind pending --db 2 > keys
"""


@click.command(cls=Command, context_settings=settings, epilog=_EXAMPLES)
@job_argument
@journal_option
@click.option(
    "--kind",
    "kind",
    metavar="KIND",
    multiple=True,
    default=("failed",),
    help="failed (default) for all that failed, pending, or a kind of failure that 'jobs show' names, such "
    "as conflict or denied. May be repeated.",
)
@click.option("--db", type=click.IntRange(0), metavar="N", help="Only the keys of this database.")
def failures(job: str, journal: Path | None, kind: tuple[str, ...], db: int | None) -> None:
    """Print the names of a job's failed keys, one a line; of a verification, of those that differ.

    It is what --keys-from reads: UTF-8 as text; a backslash, and what can't be printed, escaped; "" for the
    empty key. The names are the source's: what only the target has is not among them.
    """
    path = journal_path(journal)
    with opened_journal(path, job) as opened:
        found = opened.unsettled_kinds(job)
        wanted = [entry for entry in found if not {entry[1], entry[2]}.isdisjoint(kind)]
        databases = sorted({database for database, _, _ in wanted if db in (None, database)})
        if len(databases) > 1:
            raise UsageError(
                f"these keys of {job} are in the databases {', '.join(map(str, databases))}",
                hint="a list of keys is for one database: choose it with --db",
            )
        # What a list holds is bytes: in another encoding, letters beyond ASCII would be other keys.
        write = show_key if codecs.lookup(sys.stdout.encoding).name == "utf-8" else _ascii
        record = opened.job(job)
        differing = None if record is None else differences(opened, record)
        for names in _names(opened, job, [entry for entry in wanted if entry[0] in databases]):
            click.echo("\n".join(map(write, names)))
    if "failed" in kind and (more := not_listed(job, differing)):
        click.echo(more, err=True)
    elif not databases and differing is not None and kind == ("failed",):
        click.echo(f"{job} has found no key that differs", err=True)
    elif not databases:
        others = sorted({reason or outcome for _, outcome, reason in found})
        known = f"; it has keys of the kinds {', '.join(others)}" if others else ""
        where = "" if db is None else f" in database {db}"
        click.echo(f"{job} has no keys of the kind {' or '.join(kind)}{where}{known}", err=True)


def _ascii(key: bytes) -> str:
    shown = show_key(key)
    return shown if shown.isascii() else escape_key(key)


def _names(opened: Journal, job: str, chosen: list[tuple[int, str, str]]) -> Iterator[list[bytes]]:
    for database, outcome, kind in chosen:
        if outcome == "failed":
            yield from opened.failed_keys(job, kind, database)
    for database in sorted({database for database, outcome, _ in chosen if outcome == "pending"}):
        yield from opened.unsettled_keys(job, with_failed=False, database=database)
