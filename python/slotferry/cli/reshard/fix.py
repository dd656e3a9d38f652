"""`slotferry reshard fix`: says what it would do, and does it with `--apply`.

Invariant: without `--apply` nothing is changed. A key that differs between two nodes is decided by a person.
The first Ctrl-C or SIGTERM finishes the slots in hand, the second stops at once; the next fix does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.common.ending import signals
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
from slotferry.text import count_of, differing_keys

_EXAMPLES = """\
\b
Examples:
  slotferry reshard fix redis+cluster://node1:7000
  slotferry reshard fix redis+cluster://node1:7000 --apply
  slotferry reshard fix redis+cluster://node1:7000 --apply --keep owner
"""


@click.command(
    "fix",
    cls=Command,
    context_settings=SETTINGS,
    epilog=_EXAMPLES,
    short_help="Repair open slots, misplaced keys, slots without owner.",
)
@cluster_argument
@click.option("--apply", "really", is_flag=True, help="Do it; without it, only say what would be done.")
@click.option(
    "--keep",
    type=click.Choice(["ask", "owner", "other"]),
    default="ask",
    show_default=True,
    help="Of a key that two nodes hold with different values: keep both and ask, or the slot owner's, or the "
    "other node's. Both versions are written to a file in any case.",
)
@click.option(
    "--cancel-moves", is_flag=True, help="Cancel slot migrations that the servers do by themselves."
)
@click.option("--conflicts", type=FILE, help="That file.  [default: fix-conflicts.jsonl beside the journal]")
@click.option(
    "--journal",
    type=FILE,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@json_option
@login_options
def fix(
    cluster: str,
    really: bool,
    keep: Any,
    cancel_moves: bool,
    conflicts: Path | None,
    journal: Path | None,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Repair the slots of CLUSTER: close open ones, move misplaced keys back, give slots without owner one.

    Whoever left them so: our jobs or others', interrupted or failed over. Nothing else may be moving slots
    meanwhile. No key is lost: where two nodes hold one with different values, both are kept and written down.
    """
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.jobs.control.hangup import looking
    from slotferry.report.reshard.tables import finding_lines
    from slotferry.reshard.repair import fix as mending
    from slotferry.reshard.repair.health import look

    connector = take_connector(cluster, parameters)
    cancel = CancelRequest()
    if not really:
        with signals(cancel), looking(cancel, connector):
            health = look(connector)
        for line in health.findings if as_json else []:
            click.echo(json_text(line.to_dict()))
        if not as_json:
            click.echo("\n".join(finding_lines(health.findings, with_action=True)))
            if health.steps:
                click.echo("nothing was changed; do it with --apply")
        return ExitCode.OK if health.ok else ExitCode.INCOMPLETE

    def say(line: str) -> None:
        click.echo(
            json_text({"type": "notice", "message": line}) if as_json else f"slotferry: {line}",
            err=not as_json,
        )

    with signals(cancel):
        report = mending.fix(
            connector,
            journal=journal,
            keep=keep,
            conflicts=conflicts,
            cancel_moves=cancel_moves,
            say=say,
            cancel=cancel,
        )
    if as_json:
        click.echo(json_text(report.to_dict()))
        return report.exit_code
    click.echo(f"{count_of(report.repaired, 'slot')} repaired")
    for slot, reason in sorted(report.left.items()):
        click.echo(f"  slot {slot}: {reason}")
    if report.conflicts:
        click.echo(
            f"{differing_keys(report.conflicts)} between two nodes; both versions are in {report.file}; "
            "decide with --keep owner or --keep other"
        )
    click.echo("\n".join(finding_lines(report.remaining)))
    return report.exit_code
