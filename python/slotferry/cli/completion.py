"""`slotferry completion`: the script that completes commands and options in a shell.

Invariant: it prints and changes nothing.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_EXAMPLES = """\
\b
Examples:
  eval "$(slotferry completion bash)"
  slotferry completion zsh > ~/.zfunc/_slotferry
  slotferry completion fish > ~/.config/fish/completions/slotferry.fish
"""


@click.command(epilog=_EXAMPLES)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"this version of click has no completion for {shell}", context)
    root = context.find_root().command
    click.echo(maker(root, {}, "slotferry", "_SLOTFERRY_COMPLETE").source())
