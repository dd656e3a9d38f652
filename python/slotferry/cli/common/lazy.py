"""Groups whose commands are imported when they are asked for: none waits for the code of the others.

Invariant: `--help` and the shell's completion still know every command.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from slotferry.cli.common.command import Command


class LazyGroup(click.Group):
    """A group that knows its commands by where they are."""

    command_class = Command

    def __init__(self, *args: Any, homes: Mapping[str, str], **settings: Any) -> None:
        """`homes` gives for the name of a command its `module:attribute`."""
        super().__init__(*args, **settings)
        self._homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in order."""
        return sorted({*super().list_commands(ctx), *self._homes})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, and None where there is none of that name."""
        if cmd_name in self._homes and cmd_name not in self.commands:
            module, _, attribute = self._homes[cmd_name].partition(":")
            self.add_command(getattr(importlib.import_module(module), attribute), cmd_name)
        return super().get_command(ctx, cmd_name)
