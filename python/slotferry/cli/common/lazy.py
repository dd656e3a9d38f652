"""Groups whose commands are imported when they are asked for: none waits for the code of the others.

Invariant: `--help` of a group knows every command, and imports none.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from slotferry.cli.common.command import Command


class Home(NamedTuple):
    """Where a command is, and the line that its group's `--help` has for it."""

    module: str
    attribute: str
    summary: str


class LazyGroup(click.Group):
    """A group that knows its commands by where they are."""

    command_class = Command

    def __init__(self, *args: Any, homes: Mapping[str, Home], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order in which they are declared."""
        return [*self._homes, *(name for name in super().list_commands(ctx) if name not in self._homes)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and None where there is none of that name."""
        if cmd_name in self._homes and cmd_name not in self.commands:
            home = self._homes[cmd_name]
            command: click.Command = getattr(importlib.import_module(home.module), home.attribute)
            command.short_help = home.summary
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant; of one that there is not, say which is nearest.

        A command may have a name of two words beside one that is called by the first of them.
        """
        if (two := " ".join(args[:2])) in self._homes and len(args) > 1:
            return two, self.get_command(ctx, two), args[2:]
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"no such command {args[0]!r}; did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(name)) for name in self.list_commands(ctx)])

    def _summary(self, name: str) -> str:
        home = self._homes.get(name)
        return self.commands[name].get_short_help_str(limit=100) if home is None else home.summary
