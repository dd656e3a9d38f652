"""Functions: libraries of the source on every primary of the target.

Invariant: a library is the source's whole or as it was; what differs is decided by the conflict policy before
anything is written. They travel as their code (FUNCTION LIST WITHCODE, FUNCTION LOAD) and not as a FUNCTION
DUMP, whose payload only servers of one version take. Cached scripts (SCRIPT LOAD) are no data: clients load
them again on NOSCRIPT.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from slotferry.errors import TargetNotReadyError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.node import Node
from slotferry.net.replies import NoPermissionError, ResponseError
from slotferry.topology.clusters import are_one_cluster, mixed_target
from slotferry.topology.discovery import SourceFacts, TargetFacts, read_topology

_LIST_HINT = "grant +function|list and +function|load, or leave functions out with --no-functions"


@dataclass(frozen=True)
class FunctionPlan:
    """Which libraries go where: `loads` are primary, library, code and whether it replaces another one."""

    libraries: int = 0
    loads: tuple[tuple[Address, str, bytes, bool], ...] = ()
    kept: int = 0
    drops: tuple[tuple[Address, str], ...] = ()
    """Primaries and libraries that the source has deleted since they were loaded from it."""
    digests: Mapping[str, str] | None = None
    """What the source's libraries are, by name; None where it does not let them be seen."""

    def __str__(self) -> str:
        kept = f", {self.kept} others of the target are left as they are" if self.kept else ""
        return f"{len(self.loads)} function libraries to load on primaries{kept}"


def plan_functions(
    source: Connector,
    source_facts: SourceFacts,
    target: Connector,
    target_facts: TargetFacts,
    on_conflict: str,
    notify: Callable[[str], None],
    known: Mapping[str, str] | None = None,
) -> FunctionPlan:
    """Compare libraries and return what is to be loaded. Raises `TargetNotReadyError` for what can't be.

    `known` are the digests of libraries that were loaded from this source before: those that it has no more
    are to be deleted, where the target still has them so.
    """
    try:
        wanted = _libraries_of_source(source, source_facts)
    except NoPermissionError:
        notify(f"the source user may not look at functions: none are copied; {_LIST_HINT}")
        return FunctionPlan()
    if wanted is None:
        return FunctionPlan()
    gone = {name: digest for name, digest in (known or {}).items() if name not in wanted}
    if not wanted and not gone:
        return FunctionPlan(digests={})
    loads, drops, kept = [], [], 0
    for address in target_facts.topology.primaries:
        with target.open(address) as node:
            try:
                present = _libraries(node)
            except NoPermissionError:
                raise TargetNotReadyError(
                    f"the target user may not look at functions at {node.name} (NOPERM), and the source has "
                    f"{len(wanted)} libraries",
                    hint=_LIST_HINT,
                ) from None
            if present is None:
                raise TargetNotReadyError(
                    f"the target {node.name} has no functions (they came with Redis 7.0), and the source has "
                    f"{len(wanted)} libraries",
                    hint="leave them out with --no-functions",
                )
            drops += [(address, name) for name in gone if _digest(present.get(name)) == gone[name]]
            for name, code in wanted.items():
                if name in present and present[name] == code:
                    continue
                if name in present and on_conflict == "error":
                    raise TargetNotReadyError(
                        f"the target {node.name} has another function library {name}",
                        hint="decide with --on-conflict replace or skip, or leave functions out with "
                        "--no-functions",
                    )
                if name in present and on_conflict == "skip":
                    kept += 1
                    continue
                loads.append((address, name, code, name in present))
    digests = {name: _digest(code) for name, code in wanted.items()}
    return FunctionPlan(len(wanted), tuple(loads), kept, tuple(drops), digests)


def load_functions(target: Connector, target_facts: TargetFacts, plan: FunctionPlan) -> None:
    """Do what the plan says. Raises `TargetNotReadyError` where a primary refuses or is another."""
    for address, name, code, replaces in plan.loads:
        with _opened(target, target_facts, address) as node:
            replace: tuple[str, ...] = ("REPLACE",) if replaces else ()
            try:
                node.call("FUNCTION", "LOAD", *replace, code)
            except ResponseError as error:
                if "already exists" in str(error):
                    continue  # loaded meanwhile by another run or by the primary before it
                raise TargetNotReadyError(
                    f"the target {node.name} does not take the function library {name}: {error}",
                    hint="leave functions out with --no-functions, and load it by hand",
                ) from None


def drop_functions(target: Connector, target_facts: TargetFacts, plan: FunctionPlan) -> None:
    """Delete what the plan says. Raises `TargetNotReadyError` where a primary refuses or is another."""
    for address, name in plan.drops:
        with _opened(target, target_facts, address) as node:
            try:
                node.call("FUNCTION", "DELETE", name)
            except NoPermissionError:
                raise TargetNotReadyError(
                    f"the target user may not delete the function library {name} at {node.name} (NOPERM), "
                    "as the source has done",
                    hint="grant +function|delete, or leave functions out with --no-functions",
                ) from None
            except ResponseError as error:
                if "not found" not in str(error):
                    raise TargetNotReadyError(
                        f"the target {node.name} does not delete the function library {name}: {error}",
                        hint="leave functions out with --no-functions, and delete it by hand",
                    ) from None


@contextmanager
def _opened(target: Connector, target_facts: TargetFacts, address: Address) -> Iterator[Node]:
    """Give a primary, if whoever answers there now is of the cluster that was looked at."""
    with target.open(address) as node:
        known = read_topology(node, target.address_map).node_ids
        if not are_one_cluster(target_facts.topology.node_ids, known):
            raise mixed_target(target_facts.topology.primaries[0], address)
        yield node


def _digest(code: bytes | None) -> str:
    """Return what tells a library's code from other code; empty for none."""
    return "" if code is None else hashlib.sha256(code).hexdigest()


def _libraries_of_source(source: Connector, facts: SourceFacts) -> dict[str, bytes] | None:
    """Return the code of each library of a server or a file, as `_libraries` does."""
    if facts.file is not None:
        return dict(facts.file.libraries)
    with source.open(None if facts.found is None else facts.found.address) as node:
        return _libraries(node)


def _libraries(node: Node) -> dict[str, bytes] | None:
    """Return the code of each library; None where the server knows no functions."""
    try:
        return node.parsed(_parse_libraries, "FUNCTION", "LIST", "WITHCODE")
    except NoPermissionError:
        raise
    except ResponseError:
        return None


def _parse_libraries(reply: Any) -> dict[str, bytes]:
    """Return what FUNCTION LIST WITHCODE says: a flat list of names and values for each library."""
    found = {}
    for entry in replies.array(reply):
        names = replies.array(entry)[::2]
        fields = dict(zip(replies.texts(names), entry[1::2], strict=False))
        name, code = replies.texts([fields.get(b"library_name"), fields.get(b"library_code")])
        found[replies.text(name)] = code
    return found
