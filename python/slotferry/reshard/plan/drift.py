"""Whether a cluster is still what a plan was made for.

Invariant: what the plan itself does to the cluster is no drift, nor is a failover within a shard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from slotferry.errors import RefusedError
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.plan.model import Plan, PlannedNode
from slotferry.text import slots_in


def plan_shards(plan: Plan, cluster: Cluster, *, strict: bool = True) -> dict[str, Member]:
    """Return who leads each node of the plan now, by the plan's id. Raises where none of them is there."""
    shards = {node.id: member for node in plan.nodes if (member := cluster.shard_of(node.nodes)) is not None}
    if strict and not any(set(node.nodes) & cluster.members.keys() for node in plan.nodes):
        raise RefusedError(
            f"the plan is for another cluster: {plan.cluster}", hint="give it the cluster that it was made of"
        )
    return shards


def drift_of(plan: Plan, cluster: Cluster) -> RefusedError | None:
    """Return how the cluster differs from what the plan started from, beyond what the plan itself does."""
    if plan.fingerprint == cluster.fingerprint:
        return None
    shards = plan_shards(plan, cluster)
    hint = "look at a new plan, or let 'slotferry reshard apply --replan' make it and go on with it"
    for node in plan.nodes:
        if node.id not in shards and (node.slots or any(node.id == t.target for t in plan.transfers)):
            return RefusedError(
                f"the cluster has changed since the plan was made: {node.address} is no primary of it now",
                hint=hint,
            )
    goes = {move.slot: move.target for move in plan.moves()}
    wrong: dict[str, list[int]] = {}
    for node in plan.nodes:
        for slot in slots_in(node.slots):
            fine = {shards[end].id for end in (node.id, goes.get(slot, node.id)) if end in shards}
            owner = cluster.owners[slot]
            if owner is None and _is_given_up(slot, node, goes, shards):
                continue
            if owner not in fine:
                wrong.setdefault(str(cluster.members[owner]) if owner else "nobody", []).append(slot)
    if not wrong:
        return None
    owner, slots = next(iter(wrong.items()))
    return RefusedError(
        f"the cluster has changed since the plan was made: slots {_shown(slots)} are served by {owner}",
        hint=hint,
    )


def _is_given_up(slot: int, node: PlannedNode, goes: Mapping[int, str], shards: Mapping[str, Member]) -> bool:
    """Whether a run was killed after the source had given the slot up, and before the target claimed it."""
    target = shards.get(goes.get(slot, ""))
    return target is not None and target.importing.get(slot) in node.nodes


def _shown(slots: Sequence[int]) -> str:
    text = format_ranges(slots)
    return text if len(text) <= 60 else f"{text[:57]}..."
