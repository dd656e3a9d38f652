"""Which databases of the source are copied, and where each goes.

Invariant: two databases share one of the target only where `--map-db` says so; where a database can't go,
nothing is written at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slotferry._core import key_slot
from slotferry.errors import SlotferryError, SourceNotReadyError, TargetNotReadyError, UsageError
from slotferry.model.rules import as_bytes
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.net.replies import ResponseError
from slotferry.text import count_of, escape_key
from slotferry.topology.discovery import SourceFacts, TargetFacts, select_source

Databases = Sequence[int] | Literal["all"] | None
"""Numbers, `all` that hold keys, or None: the one that the source's URL names."""

_MAP_HINT = "write it like 2=prefix:db2:, 2={db2}: or 2=0"


@dataclass(frozen=True)
class Route:
    """The way of one database: `prefix` is put before its keys."""

    source: int = 0
    target: int = 0
    prefix: bytes = b""

    def __str__(self) -> str:
        prefix = f" with prefix {escape_key(self.prefix)}" if self.prefix else ""
        return f"database {self.source} to {self.target}{prefix}"


def parse_map(text: str) -> Route:
    """Return what `2=prefix:db2:`, `2={db2}:` or `2=0` says. Raises `UsageError`."""
    match = re.fullmatch(r"([0-9]{1,9})=(.+)", text, re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} maps no database", hint=_MAP_HINT)
    source, way = int(match[1]), match[2]
    if re.fullmatch(r"[0-9]{1,9}", way):
        return Route(source, int(way))
    if way.startswith("prefix:") and len(way) > len("prefix:"):
        return Route(source, 0, as_bytes(way.removeprefix("prefix:")))
    if way.startswith("{"):
        return Route(source, 0, as_bytes(way))
    raise UsageError(f"{text!r} maps database {source} to nowhere", hint=_MAP_HINT)


def check_databases(databases: Databases, mapped: Sequence[str]) -> None:
    """Raise `UsageError` where the two make no sense, whatever the servers hold."""
    routes = [parse_map(text) for text in mapped]
    for route in routes:
        if sum(other.source == route.source for other in routes) > 1:
            raise UsageError(f"database {route.source} is mapped twice", hint="leave one of them out")
    if databases is None or databases == "all":
        return
    if not databases:
        raise UsageError("no database is named", hint="write --db 0,2,5 or --all-dbs")
    for number in databases:
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise UsageError(f"{number!r} is not a database", hint="databases are numbers from 0 on")
        if list(databases).count(number) > 1:
            raise UsageError(f"database {number} is named twice", hint="leave one of them out")
    for route in routes:
        if route.source not in databases:
            raise UsageError(
                f"database {route.source} is mapped, and not among those to copy",
                hint=f"add it: --db {','.join(map(str, [*databases, route.source]))}",
            )


def plan_routes(
    source: Endpoint, target: Endpoint, databases: Databases, mapped: Sequence[str], facts: SourceFacts
) -> tuple[Route, ...]:
    """Return the way of each database to copy, in order. Raises `UsageError` or `SourceNotReadyError`."""
    ways = {route.source: route for route in map(parse_map, mapped)}
    if source.is_file and databases is not None and databases != "all":
        # As a URL names the database of a server.
        return tuple(Route(number, target.database) for number in databases)
    if databases is None:
        chosen: Sequence[int] = (source.database,)
    elif source.database:
        raise UsageError(
            f"the source's URL names database {source.database}, and so does --db or --all-dbs",
            hint="leave it out of the URL",
        )
    elif target.database:
        raise UsageError(
            f"the target's URL names database {target.database}, and several databases are copied",
            hint="leave it out of the URL; --map-db says where a database goes",
        )
    else:
        chosen = sorted(facts.databases) if databases == "all" else sorted(databases)
    for number in ways:
        if number not in chosen:
            raise UsageError(
                f"database {number} is mapped, and not among those to copy ({_listed(chosen)})",
                hint=f"copy it as well: --db {','.join(map(str, sorted([*chosen, number])))}",
            )
        if number not in facts.databases:
            raise SourceNotReadyError(
                f"database {number} is mapped, and the source {facts.server.node} has no keys there "
                f"(it has some in {_listed(sorted(facts.databases)) or 'no database'})",
                hint="correct the number, or leave it out",
            )
    default = target.database if databases is None else None
    return tuple(
        ways.get(number, Route(number, number if default is None else default)) for number in chosen
    ) or (Route(source.database, target.database),)


def check_routes(
    routes: Sequence[Route], source: Connector, target: Connector, facts: TargetFacts
) -> list[str]:
    """Select every database once; return what the user should know. Raises where one is not there."""
    for route in () if source.endpoint.is_file else routes:
        if route.source:  # where every connection begins no right to SELECT is needed
            with source.open() as node:
                select_source(node, route.source)
    for number in sorted({route.target for route in routes}):
        for address in facts.topology.primaries:
            with target.open(address) as node:
                if not number:
                    continue
                try:
                    node.call("SELECT", number)
                except ResponseError as error:
                    raise _no_such_target(routes, number, str(error)) from None
    return [
        f"all keys of database {route.source} go to slot {key_slot(route.prefix)}, and so to one primary: "
        f"the prefix {escape_key(route.prefix)} has a hash tag"
        for route in routes
        if re.match(rb"[^{]*\{[^}]+\}", route.prefix)
    ]


def total_keys(routes: Sequence[Route], facts: SourceFacts) -> int:
    """Return how many keys there are to scan."""
    if not facts.databases:
        return facts.keys
    return sum(facts.databases.get(route.source, 0) for route in routes)


def keys_elsewhere(facts: SourceFacts, chosen: Collection[int], before: str = "") -> str:
    """Return which databases of the source hold keys beside the `chosen` ones, behind `before`."""
    others = [
        f"database {n} holds {count_of(keys, 'key')}"
        for n, keys in sorted(facts.databases.items())
        if n not in chosen
    ]
    more = f" and {len(others) - 5} more" if len(others) > 5 else ""
    return f"{before}{', '.join(others[:5])}{more}" if others else ""


def may_collide(routes: Sequence[Route], renames: bool) -> bool:
    """Whether two keys of the source may get one name at the target."""
    if renames:
        return True
    by_target: Mapping[int, list[Route]] = {
        number: [route for route in routes if route.target == number]
        for number in {route.target for route in routes}
    }
    return any(len(sharing) > 1 for sharing in by_target.values())


def _no_such_target(routes: Sequence[Route], number: int, refusal: str) -> SlotferryError:
    lost = [route.source for route in routes if route.target == number]
    first = lost[0]
    return TargetNotReadyError(
        f"the target cluster has no database {number}, where database {_listed(lost)} is to go: {refusal}",
        hint=f"map it: --map-db {first}=prefix:db{first}: or --map-db {first}=0; or use a Valkey 9 cluster "
        "with cluster-databases set high enough",
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
