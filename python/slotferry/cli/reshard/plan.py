"""`slotferry reshard plan`: what would move, and what it would cost.

Invariant: nothing is changed; the plan's file is whole or absent. Ctrl-C and SIGTERM end it at once.
"""

from __future__ import annotations

import json
import shlex
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
    parse_weights,
    policy_options,
    take_connector,
)
from slotferry.output_file import OutputFile

if TYPE_CHECKING:
    from slotferry.report.page.content import Page
    from slotferry.reshard.plan.model import Plan

_EXAMPLES = """\
\b
Examples:
  slotferry reshard plan redis+cluster://node1:7000
  slotferry reshard plan redis+cluster://node1:7000 --by bytes -o plan.json
  slotferry reshard plan redis+cluster://node1:7000 --add node4:7000 --weight node4:7000=2 -o plan.json
  slotferry reshard plan redis+cluster://node1:7000 --drain node4:7000 -o plan.json
"""


@click.command(
    "plan",
    cls=Command,
    context_settings=SETTINGS,
    epilog=_EXAMPLES,
    short_help="Show which slot moves would balance a cluster.",
)
@cluster_argument
@policy_options
@click.option("-o", "--output", type=FILE, help="Write the plan (JSON) to this file, for 'reshard apply'.")
@json_option
@html_option
@login_options
def plan(
    cluster: str,
    weights: tuple[str, ...],
    output: Path | None,
    as_json: bool,
    html: Path | None,
    **parameters: Any,
) -> None:
    """Show the fewest slot moves that balance CLUSTER; change nothing.

    CLUSTER is redis+cluster://[user:password@]host:port,host:port, rediss+cluster://... (TLS), or the redis://
    URL of one node. A NODE is a primary's host:port or the beginning of its id. The password is best given in
    SLOTFERRY_CLUSTER_PASSWORD, a file or by a command; given more than once, the order is as for 'migrate'.
    """
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.jobs.control.hangup import looking
    from slotferry.report.reshard.tables import plan_table
    from slotferry.reshard.plan.model import Policy
    from slotferry.reshard.plan.planner import make_plan

    file = None if output is None else OutputFile(output, "plan", "-o")
    page = PageFile(html)
    connector = take_connector(cluster, parameters)
    policy = Policy(weights=parse_weights(weights), **parameters)
    cancel = CancelRequest()
    with signals(cancel), looking(cancel, connector):
        made = make_plan(connector, policy)
    if file is not None:
        file.write([made.to_json()])
    page.write(lambda: _page(made))
    if page.lost is not None:
        raise page.lost
    if as_json:
        click.echo(json.dumps(made.to_dict()))
        return
    click.echo(plan_table(made))
    if not made.balanced:
        command = ["slotferry", "reshard", "apply", str(output), cluster_shown(cluster)]
        click.echo(
            f"apply it with '{shlex.join(command)}'" if output else "to apply it, give it -o plan.json"
        )


def _page(made: Plan) -> Page:
    from slotferry.report.page.resharding import plan_page

    return plan_page(made)


def cluster_shown(cluster: str) -> str:
    """Return the URL with its user and without its password, for a line that a person copies."""
    from urllib.parse import quote

    from slotferry.net.endpoints import Endpoint

    endpoint = Endpoint.parse(cluster, "cluster")
    user = f"{quote(endpoint.username, safe='')}@" if endpoint.username else ""
    return f"{endpoint.scheme}://{user}{','.join(map(str, endpoint.addresses))}"
