"""Checks before anything is written, whether both sides are fit for this migration.

Invariant: no probe changes anything. A right is probed with the command itself, on a key that does not
matter: ACL is what a server checks first (protocol.md, Redirects and errors), so NOPERM tells, and any other
reply means that the right is there. RESTORE is probed with an empty payload, which no server takes. (ACL
DRYRUN would need a right of its own, which a user made for a migration rarely has.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from redis.exceptions import NoPermissionError, ResponseError

from slotferry.admin import Connector, Node, unfit
from slotferry.discovery import SourceFacts, TargetFacts, Topology
from slotferry.endpoints import Side
from slotferry.errors import SlotferryError, SourceUnfitError, TargetUnfitError

_PROBE_KEY = "slotferry:preflight"
_Command = tuple[str | int, ...]


def find_problems(
    source: Connector, source_facts: SourceFacts, target: Connector, target_facts: TargetFacts
) -> list[SlotferryError]:
    """Return all that stands against the migration, the gravest first; empty when both sides are fit.

    Raises `SourceLostError` or `TargetLostError` where a server goes away meanwhile.
    """
    problems = list(_unfit_servers(source_facts, target_facts, target.endpoint.database))
    if not problems:
        problems += _missing_source_rights(source, source_facts)
        problems += _missing_target_rights(target, target_facts)
    return problems


def _unfit_servers(source: SourceFacts, target: TargetFacts, database: int) -> Iterator[SlotferryError]:
    servers = (target.seed, *(primary.server for primary in target.primaries))
    if any(server.run_id == source.server.run_id for server in servers):
        yield SourceUnfitError(
            f"source and target are the same server, {source.server.node}",
            hint="name the cluster to migrate into as the target",
        )
        return
    if source.server.cluster:
        yield source_is_cluster(source.server.node)
    if not target.seed.cluster:
        yield TargetUnfitError(
            f"the target {target.seed.node} is no cluster (cluster-enabled is off there)",
            hint="name a node of the cluster to migrate into",
        )
        return
    if target.topology.missing:
        yield TargetUnfitError(
            f"the target cluster of {target.seed.node} has slots that no primary serves: "
            f"{_describe_ranges(target.topology)}",
            hint="assign them, for example with 'redis-cli --cluster fix', and check 'CLUSTER SLOTS'",
        )
        return
    for primary in target.primaries:
        if primary.state != "ok":
            yield TargetUnfitError(
                f"the target primary {primary.server.node} says cluster_state:{primary.state}",
                hint="look at CLUSTER INFO and CLUSTER NODES there and wait until the cluster is ok",
            )
    if target.database_refusal:
        yield TargetUnfitError(
            f"the target cluster has no database {database}: {target.database_refusal}",
            hint="use database 0, or a Valkey 9 cluster with cluster-databases set high enough",
        )


def source_is_cluster(node: str) -> SourceUnfitError:
    """Return the error for a source that is itself a cluster."""
    return SourceUnfitError(
        f"the source {node} is a node of a cluster",
        hint="name a standalone server as the source; moving data between clusters is not supported",
    )


def _describe_ranges(topology: Topology, limit: int = 10) -> str:
    gaps = [str(first) if first == last else f"{first}-{last}" for first, last in topology.missing]
    return ", ".join(gaps[:limit]) + (f" and {len(gaps) - limit} more ranges" if len(gaps) > limit else "")


def _missing_source_rights(connector: Connector, facts: SourceFacts) -> list[SlotferryError]:
    probes: list[_Command] = [
        ("SCAN", 0, "COUNT", 1),
        ("DUMP", _PROBE_KEY),
        _ttl_probe(facts.server.has_pexpiretime),
        ("TIME",),
    ]
    with connector.open() as node:
        if connector.endpoint.database:
            node.need("SELECT", connector.endpoint.database)
        return _denials("source", {node.name: _denied(node, probes)})


def _missing_target_rights(connector: Connector, facts: TargetFacts) -> list[SlotferryError]:
    probes: list[_Command] = [
        ("RESTORE", _PROBE_KEY, 0, ""),
        ("ASKING",),
        ("DUMP", _PROBE_KEY),
        _ttl_probe(facts.has_pexpiretime),
        *([] if facts.has_pexpiretime else [("TIME",)]),
    ]
    denied = {}
    for address in facts.topology.primaries:
        with connector.open(address) as node:
            denied[node.name] = _denied(node, probes)
    return _denials("target", denied)


def _ttl_probe(has_pexpiretime: bool) -> _Command:
    return ("PEXPIRETIME" if has_pexpiretime else "PTTL", _PROBE_KEY)


def _is_denied(node: Node, command: _Command) -> bool:
    """Whether the user may not run `command` at all; a key pattern that keeps out the probe key is fine."""
    try:
        node.call(*command)
    except NoPermissionError as error:
        return re.search(r"run the '", str(error)) is not None
    except ResponseError:
        return False
    return False


def _denied(node: Node, probes: Sequence[_Command]) -> tuple[str, ...]:
    return tuple(str(command[0]) for command in probes if _is_denied(node, command))


def _denials(side: Side, denied: Mapping[str, tuple[str, ...]]) -> list[SlotferryError]:
    """Return one problem for all nodes (by name) that deny the same commands."""
    problems = []
    for commands in dict.fromkeys(filter(None, denied.values())):
        nodes = ", ".join(node for node, missing in denied.items() if missing == commands)
        problems.append(
            unfit(
                side,
                f"user may not run {', '.join(commands)} at {nodes} (NOPERM)",
                f"grant it there: ACL SETUSER <user> {' '.join('+' + name.lower() for name in commands)}",
            )
        )
    return problems
