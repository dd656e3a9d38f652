"""Options that say which keys are taken, what they are called at the target, and from which databases.

Invariant: rules of the command line stay in the order in which they stand there, whatever their kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.options.passwords import File
from slotferry.cli.options.types import Lines, byte_count, databases, duration, slot_ranges, type_names

_RULE_OPTIONS = ("rules", "strip_prefix", "rewrite", "add_prefix")
_ORDER = "slotferry.order"

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class OrderedCommand(Command):
    """A command that knows in which order its options were given."""

    def make_parser(self, ctx: click.Context) -> Any:
        """Return click's parser, which also notes the order."""
        parser = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_and_note(args: list[str]) -> Any:
            values, rest, order = parse(args)
            ctx.meta[_ORDER] = [parameter.name for parameter in order]
            return values, rest, order

        parser.parse_args = parse_and_note  # type: ignore[method-assign]
        return parser


def _all(*options: Decorator) -> Decorator:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


rule_options = _all(
    click.option(
        "--rewrite",
        metavar="RULE",
        type=Lines(),
        multiple=True,
        help="'PATTERN => TEMPLATE': replace what the pattern finds in a key; $1 is its first group. May be "
        "repeated: rules are applied in order, each to the result of the one before.",
    ),
    click.option(
        "--add-prefix", metavar="PREFIX", type=Lines(), multiple=True, help="Put this before every key."
    ),
    click.option(
        "--strip-prefix",
        metavar="PREFIX",
        type=Lines(),
        multiple=True,
        help="Take this off keys that begin so.",
    ),
    click.option(
        "--rules", type=File, multiple=True, help="Rules from a TOML file, such as 'slotferry check' saves."
    ),
)

name_options = _all(
    click.option(
        "--match",
        metavar="GLOB",
        type=Lines(),
        multiple=True,
        help="Only keys that match this glob; repeated: or that one.",
    ),
    click.option(
        "--match-regex",
        metavar="PATTERN",
        type=Lines(),
        multiple=True,
        help="Only keys in which this pattern is found (Rust regex, on bytes).",
    ),
    click.option(
        "--exclude", metavar="GLOB", type=Lines(), multiple=True, help="No keys that match this glob."
    ),
    click.option(
        "--exclude-regex",
        metavar="PATTERN",
        type=Lines(),
        multiple=True,
        help="No keys in which this pattern is found.",
    ),
    click.option(
        "--slots",
        metavar="RANGES",
        type=slot_ranges,
        help="Only keys that go to these slots of the target, such as 0-5460,12000.",
    ),
)

value_options = _all(
    click.option(
        "--type",
        "type_",
        metavar="TYPE,...",
        type=type_names,
        envvar="SLOTFERRY_TYPE",
        help="Only keys of this type: string, hash, list, set, zset, stream; or of one of several.",
    ),
    click.option("--exclude-type", metavar="TYPE,...", type=type_names, help="No keys of these types."),
    click.option(
        "--min-size",
        metavar="SIZE",
        type=byte_count,
        help="Only keys that take so much of the source's memory.",
    ),
    click.option("--max-size", metavar="SIZE", type=byte_count, help="Only keys that take no more of it."),
    click.option("--without-ttl", is_flag=True, help="Only keys without a TTL."),
    click.option(
        "--min-ttl",
        metavar="DURATION",
        type=duration,
        help="Only keys that live so long yet, or have no TTL.",
    ),
)

selection_options = _all(rule_options, name_options, value_options)

database_options = _all(
    click.option(
        "--db", metavar="N,...", type=databases, help="Databases to copy.  [default: that of SOURCE]"
    ),
    click.option("--all-dbs", is_flag=True, help="Copy every database that holds keys."),
    click.option(
        "--map-db",
        metavar="N=WAY",
        type=Lines(),
        multiple=True,
        help="Where a database goes: 2=prefix:db2: or 2={db2}: (before its keys), or 2=0.  [default: to the "
        "same number, which takes Valkey 9 with cluster-databases]",
    ),
)

migration_options = _all(
    click.option(
        "--keys-from",
        type=click.Path(path_type=str),
        metavar="FILE",
        help="Only the keys that this file lists, one a line, as 'jobs failures' prints them; - is stdin.",
    ),
    click.option(
        "--on-collision",
        type=click.Choice(["refuse", "record", "unchecked"]),
        default="refuse",
        show_default=True,
        help="Two keys that would get one name: refuse before anything is written, record them and let "
        "--on-conflict decide, or do not look beforehand.",
    ),
    click.option(
        "--keep-eviction-metadata",
        is_flag=True,
        help="Carry over idle times or access frequencies, whichever the target evicts by.",
    ),
    click.option(
        "--functions/--no-functions",
        default=True,
        show_default=True,
        help="Copy function libraries to every primary; --on-conflict holds for them as well.",
    ),
)


def selection_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Take what `selection_options` added out of `parameters`; return it as fields of `Options`.

    Raises `UsageError` for a rule or a rule file that makes no sense.
    """
    names = ("match", "match_regex", "exclude", "exclude_regex", "slots")
    values = ("type_", "exclude_type", "min_size", "max_size", "without_ttl", "min_ttl")
    settings = {name: parameters.pop(name) for name in (*names, *values)}
    settings["type"] = settings.pop("type_")
    for name in ("slots", "exclude_type"):
        settings[name] = settings[name] or ()
    settings["rules"] = take_rules(parameters)
    return settings


def database_settings(parameters: dict[str, Any]) -> dict[str, Any]:
    """Take what `database_options` added out of `parameters`; return it as fields of `Options`."""
    from slotferry.errors import UsageError

    chosen, everything = parameters.pop("db"), parameters.pop("all_dbs")
    if chosen is not None and everything:
        raise UsageError("--db and --all-dbs are both given", hint="leave one of them out")
    return {"db": "all" if everything else chosen, "map_db": parameters.pop("map_db")}


def take_rules(parameters: dict[str, Any]) -> tuple[Any, ...]:
    """Take what `rule_options` added out of `parameters` and return the rules in their order.

    Those of the environment and of a config file come first, kind by kind.
    """
    from slotferry.model.rules import AddPrefix, Rewrite, StripPrefix, load_rules

    makers: dict[str, Callable[[Any], tuple[Any, ...]]] = {
        "rules": load_rules,
        "strip_prefix": lambda text: (StripPrefix(text),),
        "rewrite": lambda text: (Rewrite.parse(text),),
        "add_prefix": lambda text: (AddPrefix(text),),
    }
    context = click.get_current_context()
    on_line = [
        name
        for name in _RULE_OPTIONS
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]
    values = {name: list(parameters.pop(name)) for name in _RULE_OPTIONS}
    order = [name for name in _RULE_OPTIONS if name not in on_line for _ in values[name]]
    order += [name for name in context.meta.get(_ORDER, ()) if name in on_line]
    return tuple(rule for name in order for rule in makers[name](values[name].pop(0)))
