"""`slotferry rewrite`: what rules make of keys, before any are moved.

Invariant: nothing is written; the source is asked for names alone, the target for its topology.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.options.passwords import File
from slotferry.cli.options.selection import (
    OrderedCommand,
    database_options,
    database_settings,
    name_options,
    rule_options,
    take_rules,
)
from slotferry.cli.options.sides import network_options, side_settings, tls_options
from slotferry.cli.options.types import size

if TYPE_CHECKING:
    from slotferry.jobs.options import Options
    from slotferry.migrate.before.collisions import Findings
    from slotferry.topology.discovery import Topology

_EXAMPLES = """\
\b
Examples:
  slotferry rewrite test redis://old:6379 redis://new1:7000 --rewrite '^user:(\\d+):(.*)$ => user:{$1}:$2'
  slotferry rewrite test redis://old:6379 redis://new1:7000 --all-dbs --map-db 2=prefix:db2:
  redis-cli --scan | slotferry rewrite test --keys-from - --rules rules.toml

\b
Exit codes:
  0  no two keys get one name      3  some do
  2  usage                         4, 5, 6  as of migrate
"""


@click.group()
def rewrite() -> None:
    """Try rules that rewrite keys."""


@rewrite.command(
    "test", cls=OrderedCommand, context_settings={"auto_envvar_prefix": "SLOTFERRY"}, epilog=_EXAMPLES
)
@click.argument("source", required=False, envvar="SLOTFERRY_SOURCE")
@click.argument("target", required=False, envvar="SLOTFERRY_TARGET")
@rule_options
@name_options
@database_options
@click.option("--keys-from", type=File, help="Look at the keys in this file, one a line, or of stdin (-).")
@click.option(
    "--samples", type=click.IntRange(0, 100_000), default=10, show_default=True, help="Keys to show."
)
@click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="Budget; with many keys, less of it takes more passes.",
)
@click.option("--json", "as_json", is_flag=True, envvar="SLOTFERRY_JSON", help="JSON lines on stdout.")
@tls_options("source")
@tls_options("target")
@network_options
def test(
    source: str | None,
    target: str | None,
    keys_from: Path | None,
    samples: int,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Show what rules and databases' ways make of the keys of SOURCE.

    Samples with the slots before and after, how the keys spread over the primaries of TARGET, and which keys
    would get one name. Names alone are read and nothing is written.
    """
    from slotferry.errors import ExitCode, UsageError

    options = _options(parameters)
    if keys_from is not None:
        if source is not None:
            raise UsageError("SOURCE and --keys-from are both given", hint="leave one of them out")
        found, topology = _of_file(keys_from, options, samples), None
    elif source is None or target is None:
        raise UsageError("SOURCE and TARGET are missing", hint="name both, or give keys with --keys-from")
    else:
        found, topology = _of_servers(source, target, options, samples)
    for line in _json_lines(found, topology) if as_json else _text(found, topology, options):
        click.echo(line)
    return ExitCode.INCOMPLETE if found.collisions else ExitCode.OK


def _options(parameters: dict[str, Any]) -> Options:
    from slotferry.jobs.options import Options

    settings = side_settings(parameters) | database_settings(parameters)
    settings["rules"] = take_rules(parameters)
    parameters["slots"] = parameters["slots"] or ()
    return Options(dry_run=True, **settings, **parameters)


def _of_file(path: Path, options: Options, samples: int) -> Findings:
    from slotferry.migrate.before.collisions import survey_names
    from slotferry.migrate.key_list import KeyList
    from slotferry.topology.databases import Route, parse_map

    ways = {route.source: route for route in map(parse_map, options.map_db)}
    chosen = sorted(ways) if options.db in (None, "all") else [int(number) for number in options.db or ()]
    routes = [ways.get(number, Route(number, number)) for number in chosen] or [Route()]
    with closing(KeyList(path, options.selection)) as listed:
        return survey_names(listed.names(), options.selection, routes, samples, options.memory_limit)


def _of_servers(source: str, target: str, options: Options, samples: int) -> tuple[Findings, Topology]:
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.migrate.before.rehearsal import rehearse
    from slotferry.net.endpoints import parse_endpoint

    ends = [parse_endpoint(source, "source"), parse_endpoint(target, "target")]
    return rehearse(
        ends[0].with_credentials(options.source_password, options.source_tls),
        ends[1].with_credentials(options.target_password, options.target_tls),
        options,
        samples,
        CancelRequest(saves=False),
        lambda text: click.echo(f"slotferry: {text}", err=True),
    )


def _text(found: Findings, topology: Topology | None, options: Options) -> Sequence[str]:
    from slotferry.report.columns import align
    from slotferry.text import shorten_key

    def place(database: int, key: bytes) -> str:
        return (f"db {database}: " if database else "") + shorten_key(key, 60)

    rules = options.selection.describe_rules()
    lines = [f"{found.keys:,} keys, {found.renamed:,} of them get another name", f"rules: {rules or 'none'}"]
    if found.samples:
        heads = ("SLOT", "KEY", "NEW SLOT", "NEW KEY")
        rows = [
            (str(s.source_slot), place(s.database, s.source), str(s.target_slot), place(0, s.target))
            for s in found.samples
        ]
        lines += ["", *align([heads, *rows], numbers=(0, 2), indent="  ")]
    heaviest = max(range(len(found.slots_after)), key=found.slots_after.__getitem__)
    before, after = (sum(map(bool, slots)) for slots in (found.slots_before, found.slots_after))
    fullest = f"the fullest is {heaviest} with {found.slots_after[heaviest]:,} keys"
    lines += ["", f"slots with keys: {before:,} before, {after:,} after; {fullest}"]
    if topology is not None:
        heads = ("PRIMARY", "KEYS BEFORE", "AFTER", "SHARE")
        rows = [
            (node, f"{old:,}", f"{new:,}", f"{new / found.keys:.1%}" if found.keys else "")
            for node, old, new in found.by_primary(topology)
        ]
        lines += ["", *align([heads, *rows], numbers=(1, 2, 3), indent="  ")]
    if not found.collisions:
        return [*lines, "", "no two keys get one name"]
    more = "more than " if found.more else ""
    lines += ["", f"{more}{found.colliding_keys:,} keys share {len(found.collisions):,} names:"]
    lines += [f"  {collision}" for collision in found.collisions[:20]]
    if len(found.collisions) > 20:
        lines.append(f"  and {len(found.collisions) - 20:,} more names (--json lists all)")
    return lines


def _json_lines(found: Findings, topology: Topology | None) -> list[str]:
    from slotferry.migrate.before.collisions import as_dict
    from slotferry.text import show_key

    samples = [
        {
            "type": "sample",
            "database": sample.database,
            "source": show_key(sample.source),
            "source_slot": sample.source_slot,
            "target": show_key(sample.target),
            "target_slot": sample.target_slot,
        }
        for sample in found.samples
    ]
    primaries = [
        {"node": node, "keys_before": before, "keys_after": after}
        for node, before, after in (found.by_primary(topology) if topology else ())
    ]
    summary = {
        "type": "rewrite",
        "keys": found.keys,
        "renamed": found.renamed,
        "slots_before": sum(map(bool, found.slots_before)),
        "slots_after": sum(map(bool, found.slots_after)),
        "fullest_slot_keys": max(found.slots_after),
        "primaries": primaries,
        "collisions": len(found.collisions),
        "colliding_keys": found.colliding_keys,
        "more_collisions": found.more,
    }
    return [json.dumps(line) for line in (*samples, *map(as_dict, found.collisions), summary)]
