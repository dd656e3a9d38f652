"""`slotferry reshard`: one file a command, and here what they share.

Invariant: `plan` and `status` change nothing; `apply`, `run` and `fix` hold the cluster's lock while they do.
"""

from __future__ import annotations

import click

from slotferry.cli.reshard.apply import apply
from slotferry.cli.reshard.plan import plan

_EXAMPLES = """\
\b
Examples:
  slotferry reshard plan redis+cluster://node1:7000 --by bytes -o plan.json
  slotferry reshard apply plan.json redis+cluster://node1:7000 --window 01:00-05:00
"""


@click.group(epilog=_EXAMPLES)
def reshard() -> None:
    """Balance a cluster: plan slot moves, apply them in a window, mend what others left open."""


for _command in (plan, apply):
    reshard.add_command(_command)
