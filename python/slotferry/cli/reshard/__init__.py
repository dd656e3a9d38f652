"""`slotferry reshard`: one file a command, and here what they share.

Invariant: `plan` and `status` change nothing; `apply`, `run` and `fix` hold the cluster's lock while they do.
"""

from __future__ import annotations

import click

from slotferry.cli.reshard.apply import apply
from slotferry.cli.reshard.fix import fix
from slotferry.cli.reshard.plan import plan
from slotferry.cli.reshard.run import run
from slotferry.cli.reshard.status import status

_EXAMPLES = """\
\b
Examples:
  slotferry reshard plan redis+cluster://node1:7000 --by bytes -o plan.json
  slotferry reshard apply plan.json redis+cluster://node1:7000 --window 01:00-05:00
  slotferry reshard run --config jobs.toml
  slotferry reshard status redis+cluster://node1:7000
  slotferry reshard fix redis+cluster://node1:7000 --apply
"""


@click.group(epilog=_EXAMPLES)
def reshard() -> None:
    """Balance a cluster: plan slot moves, apply them in a window, mend what others left open."""


for _command in (plan, apply, run, status, fix):
    reshard.add_command(_command)
