"""`slotferry reshard`: one file a command, and here what they share.

Invariant: `plan` and `status` change nothing; `apply`, `run` and `fix` hold the cluster's lock while they do.
"""

from __future__ import annotations

import click

from slotferry.cli.common.lazy import LazyGroup

_COMMANDS = ("plan", "apply", "run", "status", "fix")
_EXAMPLES = """\
\b
Examples:
  slotferry reshard plan redis+cluster://node1:7000 --by bytes -o plan.json
  slotferry reshard apply plan.json redis+cluster://node1:7000 --window 01:00-05:00
  slotferry reshard run --config jobs.toml
  slotferry reshard status redis+cluster://node1:7000
  slotferry reshard fix redis+cluster://node1:7000 --apply
"""


@click.group(
    cls=LazyGroup,
    homes={name: f"slotferry.cli.reshard.{name}:{name}" for name in _COMMANDS},
    epilog=_EXAMPLES,
)
def reshard() -> None:
    """Balance a cluster: plan slot moves, apply them in a window, repair what others left open."""
