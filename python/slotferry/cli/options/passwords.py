"""Where the password of a party comes from: one order for every command.

Invariant: what stands on the command line goes before the password in the URL, that before the environment,
that before a config file; an empty variable is not set. What loses is not read, and a password is never an
argument.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from slotferry.errors import UsageError

if TYPE_CHECKING:
    from slotferry.model.address import Password, Side
    from slotferry.net.endpoints import Endpoint

_STDIN = "slotferry.stdin"
_WAYS = ("password_file", "password_command")

File = click.Path(dir_okay=False, path_type=Path)


def password_options(side: str, whose: str = "") -> list[Any]:
    """Return the options that give a side's password."""
    whose = whose or f"The {side}'s password"
    return [
        click.option(
            f"--{side}-password-file",
            type=File,
            help=f"{whose} is this file's first line; - is stdin. A file that changes is read again.",
        ),
        click.option(
            f"--{side}-password-command",
            metavar="COMMAND",
            help=f"{whose} is the first line that this command prints. It is run without a shell, and "
            "again when the login is refused.",
        ),
    ]


def take_password(party: Side, parameters: dict[str, Any]) -> Password | None:
    """Take what `password_options` added out of `parameters`; return the password that counts.

    None where that is the URL's, or there is none. Raises `UsageError` for a file, a command or a URL that
    can't be used.
    """
    context = click.get_current_context()
    names = {way: f"{party.lower()}_{way}" for way in _WAYS}
    given = {way: parameters.pop(name) for way, name in names.items()}
    origins = {way: context.get_parameter_source(name) for way, name in names.items()}

    def of(origin: ParameterSource) -> dict[str, Any]:
        return {way: value for way, value in given.items() if origins[way] is origin}

    url = context.params.get("source" if party == "Sentinel" else party)
    return find_password(
        party,
        url,
        command_line=of(ParameterSource.COMMANDLINE),
        environment=of(ParameterSource.ENVIRONMENT),
        config=of(ParameterSource.DEFAULT_MAP),
    )


def find_password(
    party: Side,
    url: str | None,
    *,
    command_line: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Password | None:
    """Return the password that counts, None where it is the URL's or there is none. Raises `UsageError`.

    The mappings hold `password_file` and `password_command` as each place gives them.
    """
    if command_line:
        return _given(party, command_line, "on the command line")
    if url is not None and _has_password(party, url):
        return None
    if environment:
        return _given(party, environment, "in the environment")
    if variable := os.environ.get(f"SLOTFERRY_{party.upper()}_PASSWORD"):
        return variable
    return _given(party, config, "in the config file") if config else None


def _has_password(party: Side, url: str) -> bool:
    from slotferry.net.endpoints import Endpoint, file_endpoint

    if party != "target" and file_endpoint(url) is not None:
        return False
    if party == "Sentinel":
        endpoint: Endpoint = Endpoint.parse(url, "source")
        return endpoint.service is not None and endpoint.service.password is not None
    return Endpoint.parse(url, party).password is not None


def _given(party: Side, ways: Mapping[str, Any], where: str) -> Password:
    from slotferry.net.password_command import PasswordCommand

    if len(ways) > 1:
        side = party.lower()
        raise UsageError(
            f"--{side}-password-file and --{side}-password-command are both given {where}",
            hint="leave one of them out",
        )
    if "password_command" in ways:
        return PasswordCommand(party, ways["password_command"])
    path = ways["password_file"]
    return _of_stdin(party) if str(path) == "-" else _of_file(party, path)


def _of_file(party: Side, path: Path) -> Password:
    """Read the file now: it is the time to complain. What can be read but once is not asked again."""
    from slotferry.net.credentials import PasswordFile
    from slotferry.net.endpoints import read_password_file

    password = read_password_file(party, path) if _is_stream(path) else None
    if password is not None:
        return password
    file = PasswordFile(party, path)
    file()
    return file


def _is_stream(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False  # who reads it says what is wrong


def _of_stdin(party: Side) -> str:
    from slotferry.net.endpoints import first_line

    context = click.get_current_context()
    option = f"--{party.lower()}-password-file"
    other = context.meta.setdefault(_STDIN, option)
    if str(context.params.get("keys_from")) == "-":
        other = "--keys-from"
    if context.params.get("source") == "-":
        other = "SOURCE"
    if other != option:
        raise UsageError(
            f"{other} and {option} both read stdin", hint="give one of them as a file or with a command"
        )
    if sys.stdin.isatty():
        password = click.prompt(
            f"{party} password", hide_input=True, err=True, default="", show_default=False
        )
        return str(password)
    try:
        password = first_line(sys.stdin.buffer.readline(64 << 10))
    except UnicodeDecodeError:
        raise UsageError(f"the {party} password on stdin is not UTF-8", hint="give it as UTF-8") from None
    if not password:
        raise UsageError(f"stdin holds no {party} password", hint="print it on the first line")
    return password
