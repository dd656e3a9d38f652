"""The command reference, in Markdown, from the commands' own `--help`: run as a module, it is printed.

Invariant: the page says what `--help` says and nothing else; it is made at each build of the site and is in
no commit, so it can't go stale.
"""

from __future__ import annotations

from collections.abc import Iterator

import click

from slotferry.cli import cli

_WIDTH = 100

_HEAD = """\
# Commands

What each command says with `--help`. Every option of `migrate` and `verify` can also be given
[in the environment or in a file](connect.md#options-in-the-environment-or-in-a-file).
"""


def commands(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield the command, and below it each of its commands, in order."""
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None and not below.hidden:
                yield from commands(below, _context(below, name, context))


def root() -> tuple[click.Command, click.Context]:
    """Return the command `slotferry`, with the context in which its help is printed."""
    return cli, _context(cli, "slotferry", None)


def page() -> str:
    """Return the page, in Markdown."""
    sections = [_section(command, context) for command, context in commands(*root())]
    return "\n".join([_HEAD, *sections])


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    context = click.Context(command, info_name=name, parent=parent, **command.context_settings)
    context.terminal_width = _WIDTH
    return context


def _section(command: click.Command, context: click.Context) -> str:
    level = "##" if context.parent is None or context.parent.parent is None else "###"
    return f"{level} {context.command_path}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(page(), nl=False)
