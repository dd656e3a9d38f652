"""Options that every command with a source and a target has: passwords, TLS files, addresses.

Invariant: what is taken out of the parameters here is all that these options added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import click

from slotferry.cli.options.passwords import File, password_options, take_password

_JobSide = Literal["source", "target"]


def tls_options(side: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that gives a command the password and TLS options of that side."""
    options = [
        *password_options(side),
        click.option(
            f"--{side}-ca", type=File, help="CA certificates (PEM) to trust instead of the system's."
        ),
        click.option(f"--{side}-cert", type=File, help="Client certificate (PEM)."),
        click.option(f"--{side}-key", type=File, help="Its private key (PEM)."),
        click.option(f"--{side}-sni", metavar="NAME", help="Server name to ask for and to check."),
        click.option(f"--{side}-insecure", is_flag=True, help="Do not check the server's certificate."),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _split_entries(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Take apart what the environment or the config file gives in one text."""
    return tuple(part for value in values for part in value.replace(",", " ").split())


address_map_option = click.option(
    "--address-map",
    metavar="ANNOUNCED=REACHABLE",
    multiple=True,
    callback=_split_entries,
    help="Where an address that a server announces is reached from here (NAT): host:port=host:port, "
    "or host=host for every port. Can be given several times.",
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the login at Sentinels and the address map."""
    options = [
        click.option("--sentinel-username", metavar="USER", help="ACL user at the source's Sentinels."),
        *password_options("sentinel", "The password there"),
        address_map_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def side_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Take what `tls_options` and `network_options` added out of `parameters`, as fields of `Options`.

    Raises `UsageError` for a password file that can't be used.
    """
    from slotferry.net.endpoints import Tls

    settings: dict[str, Any] = {}
    for side in get_args(_JobSide):
        tls = (parameters.pop(f"{side}_{name}") for name in ("ca", "cert", "key", "sni", "insecure"))
        settings[f"{side}_tls"] = Tls(*tls)
        settings[f"{side}_password"] = take_password(side, parameters)
    if "address_map" in parameters:
        settings["sentinel_password"] = take_password("Sentinel", parameters)
        settings["sentinel_username"] = parameters.pop("sentinel_username")
        settings["address_map"] = parameters.pop("address_map")
    return settings
