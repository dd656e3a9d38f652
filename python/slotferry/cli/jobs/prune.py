"""`slotferry jobs prune`: jobs that nobody has touched for long are forgotten.

Invariant: nothing is forgotten without a yes; a job that runs, or that is needed to put something back, stays
and is told.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from slotferry.cli.common.command import Command
from slotferry.cli.jobs.commands import forget, journal_option, journal_path, json_option, settings
from slotferry.cli.options.types import duration
from slotferry.errors import ExitCode, RefusedError, UsageError
from slotferry.redaction import json_text
from slotferry.text import count_of, format_age

_EXAMPLES = """\
\b
Examples:
  slotferry jobs prune --older-than 30d
  slotferry jobs prune --older-than 30d --yes
"""


@click.command("prune", cls=Command, context_settings=settings, epilog=_EXAMPLES)
@click.option(
    "--older-than",
    type=duration,
    required=True,
    metavar="DURATION",
    help="Jobs that have not changed for so long, such as 30d.",
)
@click.option("--yes", is_flag=True, help="Forget them without a question.")
@journal_option
@json_option
def prune_jobs(older_than: float, yes: bool, journal: Path | None, as_json: bool) -> int:
    """Forget the jobs that have not changed for long, after a question or with --yes.

    An interrupted one can't be resumed any more then. What they have written to their targets stays. A job
    that runs is left alone.
    """
    from slotferry.cli.jobs.listing import all_jobs

    path, now = journal_path(journal), time.time()
    known = all_jobs(path) if path.exists() else []
    old = [
        (now - updated, record)
        for updated, record in known
        if now - updated > older_than and record["status"] != "running"
    ]
    if not old:
        click.echo("there is nothing so old", err=True)
        return ExitCode.OK
    if not yes:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError("there is no terminal to ask on", hint="give --yes")
        for age, record in old:
            click.echo(
                f"  {record['job']} ({record['kind']}, {record['status']}, {format_age(age)})", err=True
            )
        if not click.confirm(f"Forget {count_of(len(old), 'job')}?", err=True):
            return ExitCode.OK
    left = 0
    for _, record in old:
        try:
            forget(path, record["job"], record["kind"])
        except RefusedError as error:
            left += 1
            click.echo(f"slotferry: {record['job']} stays: {error.message}", err=True)
            continue
        name = record["job"]
        click.echo(json_text({"type": "discarded", "job": name}) if as_json else f"discarded {name}")
    return ExitCode.INCOMPLETE if left else ExitCode.OK
