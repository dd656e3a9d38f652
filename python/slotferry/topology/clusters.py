"""Whether servers are nodes of one cluster: by the ids of the nodes that each of them knows.

Invariant: an address says nothing of it. A cluster has no id of its own, but its nodes have (Redis Cluster
specification, "Nodes handshake"), and two nodes of one cluster know some node in common, however far one lags
behind.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from slotferry.errors import MixedTargetError
from slotferry.model.address import Address

NodeIds = AbstractSet[str]
"""The ids of the nodes that one node names in CLUSTER SLOTS; empty where it names none."""


def are_one_cluster(known: NodeIds, others: NodeIds) -> bool:
    """Whether two such sets are of one cluster; nothing is said against it where one is empty."""
    return not known or not others or not known.isdisjoint(others)


def mixed_target(first: Address, other: Address, side: str = "target") -> MixedTargetError:
    """Return the error for two addresses of a target, or of a cluster, that lead to two clusters."""
    return MixedTargetError(
        f"the {side}'s nodes {first} and {other} belong to two clusters: neither knows a node of the other's",
        hint="name nodes of one cluster, and check what its nodes announce and --address-map",
    )
