"""`slotferry jobs list`: the jobs of a journal, of every kind.

Invariant: looking changes nothing; the other direction of a verification is not a job of its own.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.jobs.commands import (
    job_dict,
    journal_option,
    journal_path,
    json_option,
    open_journal,
    settings,
)
from slotferry.redaction import json_text
from slotferry.text import format_age, local_time
from slotferry.verify.jobs import shown_jobs

KINDS = ("migrate", "verify", "reshard")
_EXAMPLES = """\
\b
Examples:
  slotferry jobs list
  slotferry jobs list --state interrupted --state failed
  slotferry jobs list --kind verify --limit 5
  slotferry jobs list --json | jq -r 'select(.status != "completed").job'
"""


@click.command("list", cls=Command, context_settings=settings, epilog=_EXAMPLES)
@journal_option
@click.option(
    "--state", "states", multiple=True, metavar="STATUS", help="Only jobs of this status; may be repeated."
)
@click.option("--kind", "kinds", multiple=True, type=click.Choice(KINDS), help="Only these; may be repeated.")
@click.option("--limit", type=click.IntRange(1), metavar="NUMBER", help="Only so many, the newest.")
@json_option
def list_jobs(
    journal: Path | None, states: tuple[str, ...], kinds: tuple[str, ...], limit: int | None, as_json: bool
) -> None:
    """List the jobs, the one that changed last first.

    STATUS is as the list shows it: running, completed, failed, interrupted, following, and so on.
    """
    from slotferry.cli.jobs.following import shown_status
    from slotferry.report.columns import align

    path = journal_path(journal)
    if not path.exists():
        if not as_json:
            click.echo(f"no jobs: there is no journal {path}", err=True)
        return
    wanted = {state.strip().lower().replace(" ", "_").replace("-", "_") for state in states}
    found = [
        (updated, record)
        for updated, record in all_jobs(path)
        if (not kinds or record["kind"] in kinds) and (not wanted or wanted & _states(record))
    ][:limit]
    if as_json:
        for _, record in found:
            click.echo(json_text(record))
        return
    if not found:
        which = " like that" if states or kinds else ""
        click.echo(f"no jobs{which} in {path}", err=True)
        return
    heads = (
        "JOB",
        "KIND",
        "STATUS",
        "SCANNED",
        "PENDING",
        "FAILED",
        "DIFFER",
        "SLOTS",
        "RUNS",
        "AGE",
        "CHANGED",
    )
    now = time.time()
    rows = [
        (
            *(str(record[name]) for name in ("job", "kind")),
            shown_status(record),
            *_figures(record),
            str(record["runs"]),
            format_age(now - updated),
            local_time(updated),
        )
        for updated, record in found
    ]
    click.echo("\n".join(align([heads, *rows], numbers=(3, 4, 5, 6, 7, 8, 9))))


def all_jobs(path: Path) -> list[tuple[float, dict[str, Any]]]:
    """Return when each job changed last, and its object of type `job`: the newest first."""
    from slotferry.cli.jobs.following import following
    from slotferry.cli.reshard import recorded

    opened = open_journal(path, is_checked=True)
    if opened is None:
        return []
    with opened:
        found = [
            (record.updated, {**job_dict(path, opened, record), **following(path, record)})
            for record in shown_jobs(opened.jobs())
        ]
    found += recorded.job_dicts(path)
    return sorted(found, key=lambda changed: -changed[0])


def _states(record: dict[str, Any]) -> set[str]:
    """Return what a job's status may be called: that of the journal, and that of its run."""
    return {str(record["status"]), *([str(record["state"])] if record.get("state") else [])}


def _figures(record: dict[str, Any]) -> tuple[str, ...]:
    if record["kind"] == "reshard":
        return "", "", "", "", f"{record['slots']['moved']:,}/{record['slots']['planned']:,}"
    scanned, pending, failed = (f"{record['keys'][name]:,}" for name in ("scanned", "pending", "failed"))
    found = record.get("differences")
    if found is None:
        return scanned, pending, failed, "", ""
    return scanned, pending, "", f"{sum(found.values()):,}", ""
