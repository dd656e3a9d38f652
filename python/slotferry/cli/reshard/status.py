"""`slotferry reshard status`: open slots, strayed keys, slots without an owner, moves under way, our jobs.

Invariant: nothing is changed. Exit code 0 means that nothing is wrong, 3 that something is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.common.ending import signals
from slotferry.cli.options.page_file import PageFile, html_option
from slotferry.cli.reshard.options import (
    FILE,
    SETTINGS,
    cluster_argument,
    json_option,
    login_options,
    take_connector,
)
from slotferry.errors import ExitCode
from slotferry.redaction import json_text

if TYPE_CHECKING:
    from slotferry.report.page.content import Page
    from slotferry.reshard.repair.health import Health

_EXAMPLES = """\
\b
Examples:
  slotferry reshard status redis+cluster://node1:7000
  slotferry reshard status redis+cluster://node1:7000 --json | jq 'select(.type == "finding")'
"""


@click.command(
    "status",
    cls=Command,
    context_settings=SETTINGS,
    epilog=_EXAMPLES,
    short_help="Say what is wrong with a cluster's slots.",
)
@cluster_argument
@click.option(
    "--journal",
    type=FILE,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@json_option
@html_option
@login_options
def status(cluster: str, journal: Path | None, as_json: bool, html: Path | None, **parameters: Any) -> int:
    """Say what is wrong with the slots of CLUSTER, and which reshard jobs are unfinished; change nothing."""
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.jobs.control.hangup import looking
    from slotferry.jobs.names import default_journal_path
    from slotferry.report.reshard.tables import finding_lines, primary_lines
    from slotferry.reshard.repair.health import look

    connector, page = take_connector(cluster, parameters), PageFile(html)
    cancel = CancelRequest()
    with signals(cancel), looking(cancel, connector):
        health = look(connector)
    jobs = _unfinished(journal or default_journal_path(), set(health.cluster.members))
    page.write(lambda: _page(health, jobs))
    if page.lost is not None:
        raise page.lost
    code = ExitCode.OK if health.ok else ExitCode.INCOMPLETE
    if as_json:
        lines = [
            *({"type": "job", **job} for job in jobs),
            *(finding.to_dict() for finding in health.findings),
            {"type": "summary", "status": "ok" if health.ok else "incomplete", "unfinished_jobs": len(jobs)},
        ]
        for line in lines:
            click.echo(json_text(line))
        return code
    click.echo("\n".join(primary_lines(health.cluster, health.holders)))
    for job in jobs:
        click.echo(f"job {job['job']}: {job['status']}, {job['moved']:,} of {job['slots']:,} slots moved")
    click.echo("\n".join(finding_lines(health.findings)))
    if health.steps:
        click.echo("repair it with 'slotferry reshard fix --apply', or go on with the job that left it so")
    return code


def _page(health: Health, jobs: list[dict[str, Any]]) -> Page:
    from slotferry.report.page.resharding import status_page

    return status_page(health, jobs)


def _unfinished(path: Path, nodes: set[str]) -> list[dict[str, Any]]:
    """Return the jobs of this cluster that are not done; a journal that is not there is not made."""
    from slotferry.cli.reshard.recorded import job_status
    from slotferry.reshard.journal import ReshardJournal

    if not path.exists():
        return []
    with ReshardJournal(path) as journal:
        return [
            {
                "job": record.name,
                "status": job_status(path, journal, record),
                "slots": record.plan.slots,
                "moved": len(journal.slots(record.name, "moved")),
                "open": len(journal.slots(record.name, "open")),
                "runs": record.runs,
            }
            for record in journal.jobs()
            if record.status not in ("completed", "balanced")
            and nodes & {node.id for node in record.plan.nodes}
        ]
