"""What every command does: it looks at its environment variables, and names options as they were given.

Invariant: what is wrong is blamed on where it stands: an option of the command line, a variable, or a key of
the config file. A variable that no command knows is told of, and changes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from slotferry.cli.common.help_groups import write_options
from slotferry.errors import OptionError

_PREFIX = "SLOTFERRY_"
_CONFIG = "slotferry.cli.config"
_OWN = frozenset(
    {
        "SLOTFERRY_DEBUG",
        *(f"SLOTFERRY_{party}_PASSWORD" for party in ("SOURCE", "TARGET", "SENTINEL", "CLUSTER")),
    }
)
# What Kubernetes sets for a service of that name, and what our tests are steered by.
_OTHERS = re.compile(
    r"SLOTFERRY(_\w+)?_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_[0-9]+_\w+)?)|SLOTFERRY_TEST_\w+"
)


class Command(click.Command):
    """A command of ours."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; raise what it raises, in the words of the command line."""
        for warning in unknown_variables(ctx):
            click.echo(warning, err=True)
        try:
            return super().invoke(ctx)
        except OptionError as error:
            raise error.named(lambda name: _as_given(ctx, name)) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options under headings, the common ones first."""
        write_options(self, ctx, formatter)


def note_config(ctx: click.Context, path: Path, table: str) -> None:
    """Remember which table of which file the defaults are from."""
    ctx.meta[_CONFIG] = f"[{table}] of the config file {path}"


def blamed(error: click.BadParameter) -> str | None:
    """Return the message of a wrong value that does not stand on the command line; None where it does."""
    if error.ctx is None or error.param is None:
        return None
    source = error.ctx.get_parameter_source(str(error.param.name))
    if source is ParameterSource.ENVIRONMENT:
        return f"the environment variable {_variable(error.ctx, error.param)}: {error.message}"
    if source is ParameterSource.DEFAULT_MAP:
        return f"{_in_config(error.ctx, error.param)}: {error.message}"
    return None


def unknown_variables(ctx: click.Context) -> Iterator[str]:
    """Yield a warning for each variable with our prefix that no command knows."""
    given = {name for name in os.environ if name.startswith(_PREFIX) and not _OTHERS.fullmatch(name)}
    given -= _OWN | _variables(ctx.command)
    if not given:
        return
    import difflib  # and every command's code, which is loaded here alone

    known = _OWN | _all_variables(ctx.find_root().command, ctx)
    shortened = sorted(variable.removeprefix(_PREFIX) for variable in known)
    for name in sorted(given - known):
        near = difflib.get_close_matches(name.removeprefix(_PREFIX), shortened, n=1)
        hint = f"did you mean {_PREFIX}{near[0]}?" if near else f"see '{ctx.command_path} --help'"
        yield f"slotferry: the environment variable {name} is not known and does nothing\n  hint: {hint}"


def _all_variables(command: click.Command, ctx: click.Context) -> set[str]:
    found = _variables(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            found |= set() if inner is None else _all_variables(inner, ctx)
    return found


def _variables(command: click.Command) -> set[str]:
    """Return the variables that a command reads."""
    prefix = command.context_settings.get("auto_envvar_prefix")
    found: set[str] = set()
    for parameter in command.params:
        found |= {parameter.envvar} if isinstance(parameter.envvar, str) else set(parameter.envvar or ())
        if prefix is not None and isinstance(parameter, click.Option):
            found.add(f"{prefix}_{str(parameter.name).upper()}")
    return found


def _as_given(ctx: click.Context, name: str) -> str:
    """Return what people know the option by that Python knows as `name`, and where it was given."""
    parameter = next((one for one in ctx.command.params if name in _names(one)), None)
    if parameter is None:
        return f"--{name.replace('_', '-')}"
    source = ctx.get_parameter_source(str(parameter.name))
    if source is ParameterSource.ENVIRONMENT:
        return _variable(ctx, parameter)
    return _in_config(ctx, parameter) if source is ParameterSource.DEFAULT_MAP else parameter.opts[0]


def _names(parameter: click.Parameter) -> tuple[str, ...]:
    return (str(parameter.name), *(option.lstrip("-").replace("-", "_") for option in parameter.opts))


def _variable(ctx: click.Context, parameter: click.Parameter) -> str:
    names = [parameter.envvar] if isinstance(parameter.envvar, str) else list(parameter.envvar or ())
    names.append(f"{ctx.auto_envvar_prefix}_{str(parameter.name).upper()}")
    return next((name for name in names if os.environ.get(name)), names[0])


def _in_config(ctx: click.Context, parameter: click.Parameter) -> str:
    key = parameter.opts[0].lstrip("-")
    return f"{key!r} in {ctx.meta.get(_CONFIG, 'the config file')}"
