"""Making a plan: what the cluster holds, what balance is wanted, and the fewest moves between the two.

Invariant: making a plan changes nothing at any node.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from slotferry.errors import RefusedError, UsageError
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Cluster, Member, read_still_cluster
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.plan.balance import Move, balance
from slotferry.reshard.plan.joining import with_joining
from slotferry.reshard.plan.measure import Weights, measure
from slotferry.reshard.plan.model import Holding, Plan, PlannedNode, Policy, Transfer


def make_plan(connector: Connector, policy: Policy) -> Plan:
    """Return the fewest moves that give every primary its share by `policy`.

    Raises `UsageError` for a node that the cluster does not have and for shares that make no sense,
    `SlotferryError` where the cluster can't be read or is not whole.
    """
    cluster = read_still_cluster(connector)
    _check_whole(cluster)
    fingerprint = cluster.fingerprint
    cluster, joins = with_joining(connector, cluster, policy.add)
    shares = node_shares(cluster, policy)
    weights = measure(connector, cluster, by=policy.by, samples=policy.samples)
    names = {member.id: str(member) for member in cluster.members.values()}
    values, remarks = weights.of(policy.by), []
    if not sum(values):
        remarks.append(f"no slot has any {policy.by}: balanced by slots instead")
        values = weights.of("slots")
    result = balance(
        cluster.owners,
        values,
        shares,
        threshold=policy.threshold,
        max_moves=policy.max_moves,
        names=names,
    )
    plan = _assemble(connector, cluster, policy, shares, weights, result.moves, [*remarks, *result.remarks])
    return replace(plan, fingerprint=fingerprint, joins=tuple(joins))


def node_shares(cluster: Cluster, policy: Policy) -> dict[str, float]:
    """Return each primary's share by id. Raises `UsageError` for shares that make no sense."""
    drained = {cluster.find(name).id for name in policy.drain}
    added = {_find_added(cluster, name).id for name in policy.add}
    given = {cluster.find(name).id: weight for name, weight in policy.weights.items()}
    if both := drained & (added | {node for node, weight in given.items() if weight > 0}):
        name = cluster.members[both.pop()]
        raise UsageError(f"{name} is to be drained and to take slots", hint="leave out one of the two")
    for node, weight in given.items():
        if not 0 <= weight < float("inf"):
            raise UsageError(
                f"the weight {weight} of {cluster.members[node]} makes no sense", hint="give 0 or more"
            )
    shares = {}
    for member in cluster.primaries:
        if member.id in drained:
            shares[member.id] = 0.0
        elif member.slots or member.id in added or given.get(member.id):
            shares[member.id] = float(given.get(member.id, 1))
    if not any(shares.values()):
        if drained and not given:
            raise UsageError(
                "every primary is to be drained, and nobody is left to take the slots",
                hint="leave out one --drain, or add a node with --add",
            )
        raise UsageError("the weights add up to nothing", hint="give one node at least a weight above 0")
    return shares


def _find_added(cluster: Cluster, name: str) -> Member:
    try:
        return cluster.find(name)
    except UsageError as error:
        raise UsageError(
            error.message,
            hint=f"let it join first: redis-cli --cluster add-node {name} {cluster.primaries[0]}",
        ) from None


def _check_whole(cluster: Cluster) -> None:
    """Refuse to plan on a cluster that needs mending first."""
    if cluster.uncovered:
        raise RefusedError(
            f"the slots {format_ranges(cluster.uncovered)} have no owner",
            hint="see 'slotferry reshard status', repair it with 'slotferry reshard fix', then plan again",
        )
    down = sorted({str(cluster.members[o]) for o in cluster.owners if o and cluster.members[o].is_down})
    if down:
        raise RefusedError(
            f"{', '.join(down)} owns slots and is down", hint="wait for its failover or start it again"
        )


def _assemble(
    connector: Connector,
    cluster: Cluster,
    policy: Policy,
    shares: Mapping[str, float],
    weights: Weights,
    moves: Sequence[Move],
    remarks: list[str],
) -> Plan:
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for move in moves:
        grouped[move.source, move.target].append(move.slot)
    after = {move.slot: move.target for move in moves}
    owned = {name: cluster.slots_of(name) for name in shares}
    later: dict[str, list[int]] = defaultdict(list)
    for slot, owner in enumerate(cluster.owners):
        later[after.get(slot, str(owner))].append(slot)
    whole = sum(shares.values())

    def holding(slots: Sequence[int]) -> Holding:
        return Holding(
            len(slots),
            sum(weights.keys[slot] for slot in slots),
            sum(weights.bytes[slot] for slot in slots),
            sum(weights.load[slot] for slot in slots),
        )

    def node(member: Member) -> PlannedNode:
        return PlannedNode(
            id=member.id,
            address=str(member),
            nodes=(member.id, *(replica.id for replica in cluster.replicas_of(member.id))),
            share=shares[member.id] / whole,
            slots=format_ranges(owned[member.id]),
            before=holding(owned[member.id]),
            after=holding(later[member.id]),
        )

    keys = sum(weights.keys)
    return Plan(
        cluster=connector.endpoint.target_identity,
        created=time.time(),
        policy=policy,
        fingerprint=cluster.fingerprint,
        nodes=tuple(node(member) for member in cluster.primaries if member.id in shares),
        transfers=tuple(
            Transfer(
                source,
                target,
                format_ranges(slots),
                sum(weights.keys[slot] for slot in slots),
                sum(weights.bytes[slot] for slot in slots),
            )
            for (source, target), slots in sorted(grouped.items())
        ),
        remarks=tuple(remarks),
        estimated=weights.sampled < keys,
    )
