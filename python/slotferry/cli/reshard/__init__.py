"""`slotferry reshard`: one file a command, and here what they share.

Invariant: `plan` and `status` change nothing; `apply`, `run` and `fix` hold the cluster's lock while they do.
"""

from __future__ import annotations

import click

from slotferry.cli.common.lazy import Home, LazyGroup

_SUMMARIES = {
    "plan": "Show which slot moves would balance a cluster.",
    "apply": "Carry out a plan.",
    "run": "Run named jobs of a file, for schedulers.",
    "status": "Say what is wrong with a cluster's slots.",
    "fix": "Repair open slots, misplaced keys, slots without owner.",
}
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
    homes={name: Home(f"slotferry.cli.reshard.{name}", name, text) for name, text in _SUMMARIES.items()},
    epilog=_EXAMPLES,
)
def reshard() -> None:
    """Balance a cluster: plan slot moves, apply them in a window, repair what others left open."""
