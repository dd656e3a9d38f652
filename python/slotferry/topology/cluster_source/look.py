"""One look at all primaries of a cluster: who owns which slot, and which slots are on their way.

Invariant: an owner is a node's own word, told on the connection that also told its `run_id`, since a server
shows open slots only of itself (Redis Cluster specification, "CLUSTER NODES"); of two that claim a slot the
newer epoch counts. Slots of which two looks do not prove that one process owned them from the first to the
second are in doubt.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

from slotferry._core import SLOTS
from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net.address_map import AddressMap
from slotferry.net.cluster_nodes import ClusterNode, cluster_nodes
from slotferry.net.connector import Connector
from slotferry.net.link import lost, not_ready
from slotferry.topology.clusters import are_one_cluster, mixed_target
from slotferry.topology.discovery import ServerFacts, server_facts

_AT_ONCE = 16
_CLOSE_SECONDS = 2.5
NodeKey = tuple[str, str]
"""Node id and run id: one process in one place of a cluster."""


@dataclass(frozen=True)
class NodeLook:
    """A primary by its own word; `open` are the slots that are on their way to it or from it."""

    node_id: str
    run_id: str
    address: Address
    epoch: int
    slots: frozenset[int]
    open: frozenset[int]
    server: ServerFacts | None = None
    """None where it is known from the journal alone."""

    @property
    def key(self) -> NodeKey:
        """What a cursor is bound to."""
        return (self.node_id, self.run_id)


@dataclass(frozen=True)
class ClusterLook:
    """All primaries that answered, sorted by address, and the ids of all nodes that they know.

    `begun` and `ended` are when they were asked, by this process's monotonic clock; None: by another one.
    """

    nodes: tuple[NodeLook, ...]
    node_ids: frozenset[str] = frozenset()
    begun: float | None = None
    ended: float | None = None

    @cached_property
    def owners(self) -> Sequence[NodeLook | None]:
        """The owner of each slot; None: nobody claims it."""
        owners: list[NodeLook | None] = [None] * SLOTS
        for node in sorted(self.nodes, key=lambda node: node.epoch):
            for slot in node.slots:
                owners[slot] = node
        return owners

    @cached_property
    def open(self) -> frozenset[int]:
        """The slots that are on their way, by the word of either end."""
        return frozenset().union(*(node.open for node in self.nodes))

    @property
    def missing(self) -> list[int]:
        """The slots that nobody claims."""
        return [slot for slot, owner in enumerate(self.owners) if owner is None]

    @cached_property
    def by_key(self) -> dict[NodeKey, NodeLook]:
        """Each primary by what cursors are bound to."""
        return {node.key: node for node in self.nodes}

    def owned(self, node: NodeLook) -> list[int]:
        """Return the slots that are this node's, where another may claim some as well."""
        return [slot for slot in sorted(node.slots) if self.owners[slot] is node]


def in_doubt(before: ClusterLook, now: ClusterLook) -> set[int]:
    """Return the slots of which these two looks do not prove that one process owned them all the while.

    A slot that left its owner and came back between both has raised the epoch of that owner, which imported
    it ("Configuration handling"): all slots of a node with a new epoch are in doubt. Only where both looks
    lie close together, so that there was no time for both ways, is a new epoch explained by what the node
    has gained.
    """
    is_close = (
        before.begun is not None and now.ended is not None and now.ended - before.begun < _CLOSE_SECONDS
    )
    doubts = set(before.open | now.open)
    doubts.update(
        slot
        for slot, (old, new) in enumerate(zip(before.owners, now.owners, strict=True))
        if old is None or new is None or old.key != new.key
    )
    for node in now.nodes:
        old = before.by_key.get(node.key)
        if old is None or old.epoch == node.epoch or (is_close and node.slots - old.slots):
            continue
        doubts |= node.slots
    return doubts


def look_at_cluster(connector: Connector, known: Iterable[Address] = ()) -> ClusterLook:
    """Ask every primary that a node of the cluster knows, from `known` ones and the endpoint's on.

    Raises the last error where no primary answers, and `MixedTargetError` where the addresses lead to two
    clusters.
    """
    begun = time.monotonic()
    waiting = list(dict.fromkeys([*known, *connector.endpoint.addresses]))
    asked: set[Address] = set()
    nodes: dict[str, NodeLook] = {}
    ids: set[str] = set()
    first: Address | None = None
    failure: SlotferryError | None = None
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while waiting:
            asked.update(waiting)
            answers = list(
                zip(waiting, pool.map(lambda address: _ask(connector, address), waiting), strict=True)
            )
            waiting = []
            for address, answer in answers:
                if isinstance(answer, SlotferryError):
                    failure = answer
                    continue
                node, others = answer
                seen = {other.id for other in others}
                if first is not None and not are_one_cluster(ids, seen):
                    raise mixed_target(first, address, "source")
                first, ids = first or address, ids | seen
                if node is not None:
                    nodes.setdefault(node.node_id, node)
                waiting += _primaries(others, address, connector.address_map, asked | set(waiting))
    if not nodes:
        raise failure or lost("source", "has no primary that answers", "see whether its nodes run")
    shown = tuple(sorted(nodes.values(), key=lambda node: node.address))
    return ClusterLook(shown, frozenset(ids), begun, time.monotonic())


def _primaries(
    nodes: Sequence[ClusterNode], asked: Address, known: AddressMap, passed: set[Address]
) -> Iterator[Address]:
    for node in nodes:
        if "master" in node.flags and node.is_alive and not node.is_itself and node.port:
            address = known.named(node.host, node.port, asked)
            if address not in passed:
                passed.add(address)
                yield address


def _ask(
    connector: Connector, address: Address
) -> tuple[NodeLook | None, tuple[ClusterNode, ...]] | SlotferryError:
    """Return what a node says of itself, if it is a primary, and all nodes that it knows."""
    try:
        with connector.open(address) as node:
            server = server_facts(node)
            if not server.cluster:
                raise not_ready(
                    "source",
                    f"is not a cluster at {node.name} (cluster-enabled is off there)",
                    "use redis:// for a server that stands alone",
                )
            nodes = node.need_parsed(cluster_nodes, "CLUSTER", "NODES")
    except SlotferryError as error:
        return error
    itself = next((other for other in nodes if other.is_itself), None)
    if itself is None or "master" not in itself.flags:
        return None, nodes
    open_slots = frozenset(itself.migrating) | frozenset(itself.importing)
    return (
        NodeLook(itself.id, server.run_id, address, itself.epoch, itself.slots, open_slots, server),
        nodes,
    )
