"""Options and values that the commands of `slotferry reshard` share.

Invariant: a value that is accepted here is one that the planes below accept, and what is refused is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.options.passwords import take_password
from slotferry.cli.options.sides import address_map_option, tls_options
from slotferry.errors import UsageError

if TYPE_CHECKING:
    from slotferry.net.connector import Connector

SETTINGS = {"auto_envvar_prefix": "SLOTFERRY"}
FILE = click.Path(dir_okay=False, path_type=Path)

json_option = click.option(
    "--json", "as_json", is_flag=True, envvar="SLOTFERRY_JSON", help="JSON lines on stdout, each with a type."
)
cluster_argument = click.argument("cluster", envvar="SLOTFERRY_CLUSTER")


def login_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add how the cluster's nodes are reached: password, TLS files and address map."""
    return tls_options("cluster")(address_map_option(command))


def take_connector(cluster: str, parameters: dict[str, Any]) -> Connector:
    """Take the login options out of `parameters` and return what opens the cluster's nodes."""
    from slotferry.api.resharding import connect
    from slotferry.net.endpoints import Tls

    tls = Tls(*(parameters.pop(f"cluster_{name}") for name in ("ca", "cert", "key", "sni", "insecure")))
    password = take_password("cluster", parameters)
    return connect(cluster, password=password, tls=tls, address_map=parameters.pop("address_map"))


def percent(value: str | float) -> float:
    """Return the part that `2%` or `0.02` means."""
    text = str(value).strip()
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(%?)", text)
    part = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < part < 1:
        raise click.BadParameter(f"{value!r} is not a part between 0% and 100%; write it like 2%")
    return part


def parse_weights(values: tuple[str, ...]) -> Mapping[str, float]:
    """Return the weights that `node=2` and so on give. Raises `UsageError`."""
    weights: dict[str, float] = {}
    for value in values:
        node, equals, number = value.rpartition("=")
        if not equals or not node or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", number):
            raise UsageError(
                f"the weight {value!r} makes no sense", hint="write it like --weight host:7000=2"
            )
        if node in weights:
            raise UsageError(f"the node {node} has two weights", hint="leave one of them out")
        weights[node] = float(number)
    return weights


def policy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what says which balance is wanted."""
    options = [
        click.option(
            "--by",
            type=click.Choice(["slots", "keys", "bytes", "load"]),
            default="slots",
            show_default=True,
            help="What is to be even: slots, keys, bytes of memory (sampled), or CPU load (SLOT-STATS).",
        ),
        click.option(
            "--weight", "weights", multiple=True, metavar="NODE=NUMBER", help="A node's part, 1 by default."
        ),
        click.option(
            "--add",
            multiple=True,
            metavar="NODE",
            help="Give slots to this primary, which has none. An empty node that is no member yet joins "
            "when the plan is applied.",
        ),
        click.option("--drain", multiple=True, metavar="NODE", help="Take all slots from this primary."),
        click.option(
            "--max-moves", type=click.IntRange(1), metavar="NUMBER", help="Move at most so many slots."
        ),
        click.option(
            "--threshold",
            type=percent,
            default="2%",
            show_default=True,
            metavar="PERCENT",
            help="How far from its share a node may be.",
        ),
        click.option(
            "--samples",
            type=click.IntRange(0),
            default=100,
            show_default=True,
            metavar="NUMBER",
            help="Keys a slot to size for bytes; 0 sizes all.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command
