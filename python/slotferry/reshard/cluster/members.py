"""The cluster as its own nodes describe it: who is a primary, who owns which slot, which slots are open.

Invariant: looking changes nothing. What a primary says of itself counts for more than what others say of it:
its own line of CLUSTER NODES is the only place that shows open slots (docs/protocol.md, Topology).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from slotferry._core import SLOTS
from slotferry.errors import SlotferryError, UsageError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.address_map import AddressMap
from slotferry.net.cluster_nodes import ClusterNode, cluster_nodes
from slotferry.net.connector import Connector
from slotferry.net.link import lost, not_ready
from slotferry.reshard.cluster.wire import Wire, format_ranges, is_error, refused, text_of
from slotferry.topology.clusters import are_one_cluster, mixed_target
from slotferry.topology.product import Product

_LOOKS, _LOOK_SECONDS = 20, 0.25  # while slots seem to be nobody's


@dataclass(frozen=True)
class Member:
    """One node. `address` is where we reach it, `peer` where the other nodes do (which MIGRATE needs).

    Only `address` goes through the address map: what the nodes tell each other is none of its business.

    `migrating` and `importing` map an open slot to the other end's node id; they are known only of nodes
    that answered for themselves (`answered`), and so is `view`: whose each slot is in its eyes, by node id.
    """

    id: str
    address: Address
    peer: Address
    flags: frozenset[str]
    primary_id: str | None
    epoch: int
    slots: frozenset[int]
    migrating: Mapping[int, str] = field(default_factory=dict)
    importing: Mapping[int, str] = field(default_factory=dict)
    product: str = ""
    version: tuple[int, ...] = ()
    answered: bool = False
    view: Mapping[str, frozenset[int]] = field(default_factory=dict)

    @property
    def is_primary(self) -> bool:
        """Whether it is a primary, down or not."""
        return "master" in self.flags

    @property
    def is_down(self) -> bool:
        """Whether the cluster takes it for failed, or does not know it yet."""
        return bool(self.flags & {"fail", "noaddr", "handshake"})

    def __str__(self) -> str:
        return str(self.address)


@dataclass(frozen=True)
class Cluster:
    """What was seen at one instant. `owners[slot]` is the id of the primary that serves it, or None."""

    members: Mapping[str, Member]
    owners: tuple[str | None, ...]
    disputes: tuple[tuple[int, str, str], ...] = ()

    @property
    def primaries(self) -> list[Member]:
        """The primaries that are up, by address."""
        found = [m for m in self.members.values() if m.is_primary and not m.is_down]
        return sorted(found, key=lambda member: member.address)

    @property
    def uncovered(self) -> list[int]:
        """The slots that nobody owns."""
        return [slot for slot, owner in enumerate(self.owners) if owner is None]

    @property
    def open_slots(self) -> list[int]:
        """The slots that are open on some node, in order."""
        return sorted({s for m in self.members.values() for s in (*m.migrating, *m.importing)})

    @property
    def fingerprint(self) -> str:
        """A digest of who owns what; two looks with the same one saw the same topology."""
        text = ";".join(f"{m.id}={format_ranges(m.slots)}" for m in sorted(self.members.values(), key=_id))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def slots_of(self, node_id: str) -> list[int]:
        """Return the slots that a node owns."""
        return [slot for slot, owner in enumerate(self.owners) if owner == node_id]

    def replicas_of(self, node_id: str) -> list[Member]:
        """Return a primary's replicas, by address."""
        found = [m for m in self.members.values() if m.primary_id == node_id]
        return sorted(found, key=lambda member: member.address)

    def shard_of(self, node_ids: Iterable[str]) -> Member | None:
        """Return the primary of the shard that the nodes belong to, whichever of them leads it now."""
        for node_id in node_ids:
            member = self.members.get(node_id)
            if member is not None and member.primary_id is not None:
                member = self.members.get(member.primary_id)
            if member is not None and member.is_primary and not member.is_down:
                return member
        return None

    def find(self, name: str) -> Member:
        """Return the primary named by `host:port` or by (the beginning of) its id. Raises `UsageError`."""
        wanted = name.strip().lower()
        found = [m for m in self.primaries if wanted in (str(m.address).lower(), str(m.peer).lower())]
        if not found and len(wanted) >= 6:
            found = [m for m in self.primaries if m.id.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        known = ", ".join(str(member) for member in self.primaries)
        others = [m for m in self.members.values() if wanted in (str(m.address).lower(), m.id)]
        if others and not others[0].is_primary:
            raise UsageError(f"the node {name} is a replica", hint=f"name a primary: {known}")
        raise UsageError(f"the cluster has no primary {name}", hint=f"its primaries are {known}")


def _id(member: Member) -> str:
    return member.id


def read_cluster(connector: Connector, *, known: Iterable[Address] = ()) -> Cluster:
    """Ask the first node that answers for the members, then each primary for itself.

    Raises `TargetLostError` where none answers, `TargetNotReadyError` where it is no cluster,
    `MixedTargetError` where an address leads to another one.
    """
    failure: SlotferryError | None = None
    seen: dict[str, Member] = {}
    for address in dict.fromkeys([*connector.endpoint.addresses, *known]):
        try:
            with Wire(connector, address) as wire:
                seen = _members(wire)
                break
        except SlotferryError as error:
            failure = failure or error
    if not seen:
        raise failure or lost("cluster", "has no known node", "name a node that runs")
    _check_seeds(connector, address, seen)
    for member in list(seen.values()):
        if member.is_primary and not member.is_down:
            seen[member.id] = _ask_itself(connector, member)
    return _assemble(seen)


def _check_seeds(connector: Connector, asked: Address, seen: Mapping[str, Member]) -> None:
    """Raise `MixedTargetError` where one of the endpoint's addresses leads to a cluster other than `seen`."""
    named = {member.address for member in seen.values()} | {asked}
    for address in connector.endpoint.addresses:
        if address in named:
            continue
        try:
            with Wire(connector, address) as wire:
                others = _members(wire)
        except SlotferryError as error:
            if error.kind == "target_not_ready":
                raise
            continue  # a node that is away says nothing
        if not are_one_cluster(seen.keys(), others.keys()):
            raise mixed_target(asked, address, "cluster")


def read_still_cluster(connector: Connector) -> Cluster:
    """`read_cluster`, but a slot that another tool is moving is not taken for nobody's.

    The nodes are asked one after the other: one may have given a slot away that another had not got yet.
    Only what is nobody's twice is so. Raises what `read_cluster` raises.
    """
    cluster = read_cluster(connector)
    for _ in range(_LOOKS):
        missing = set(cluster.uncovered)
        if not missing:
            break
        time.sleep(_LOOK_SECONDS)
        cluster = read_cluster(connector)
        if missing.intersection(cluster.uncovered):
            break
    return cluster


def _ask_itself(connector: Connector, member: Member) -> Member:
    try:
        with Wire(connector, member.address) as wire:
            own = _members(wire)
            fields = wire.need_parsed(replies.info, "INFO", "server")
    except SlotferryError as error:
        if error.kind == "target_not_ready":
            raise  # a right that is missing won't come by waiting
        return member
    if member.id not in own or "myself" not in own[member.id].flags:
        return member  # another server sits on that address by now
    product = Product.of(fields)
    view = {other.id: other.slots for other in own.values()}
    return replace(
        own[member.id],
        address=member.address,
        product=product.family,
        version=product.version,
        answered=True,
        view=view,
    )


def _assemble(seen: Mapping[str, Member]) -> Cluster:
    owners: list[str | None] = [None] * SLOTS
    disputes = []
    for member in sorted(seen.values(), key=lambda member: member.epoch):
        for slot in member.slots:
            before = owners[slot]
            if before is not None and seen[before].answered and member.answered:
                disputes.append((slot, before, member.id))
            # The higher epoch wins, as in the cluster itself; but nobody speaks for a node that answered.
            if before is None or member.answered or not seen[before].answered:
                owners[slot] = member.id
    return Cluster(dict(seen), tuple(owners), tuple(disputes))


def _members(wire: Wire) -> dict[str, Member]:
    text = wire.call("CLUSTER", "NODES")
    if is_error(text):
        if "cluster support disabled" in text_of(text):
            raise not_ready(
                "cluster",
                f"has a node without cluster mode: {wire.address} is a standalone server",
                "name a node of a cluster; to fill one from a standalone server use 'slotferry migrate'",
            )
        raise refused(str(wire.address), "CLUSTER NODES", text)
    endpoints = wire.need_parsed(
        lambda reply: _endpoints(reply, wire.address, wire.address_map), "CLUSTER", "SLOTS"
    )
    return wire.take(
        lambda reply: members(cluster_nodes(reply), wire.address, endpoints, wire.address_map),
        text,
        "CLUSTER NODES",
    )


def _endpoints(reply: object, asked: Address, address_map: AddressMap) -> dict[str, Address]:
    """Return where we reach the nodes: CLUSTER SLOTS knows names for clients that CLUSTER NODES does not."""
    found: dict[str, Address] = {}
    for entry in replies.cluster_slots(reply):
        for node in (entry.primary, *entry.replicas):
            found[node.id] = address_map.named(node.host, node.port, asked)
    return found


def members(
    nodes: Iterable[ClusterNode],
    asked: Address,
    endpoints: Mapping[str, Address],
    address_map: AddressMap | None = None,
) -> dict[str, Member]:
    """Return the members that lines of CLUSTER NODES describe, by id; `endpoints` is where we reach them."""
    known = address_map or AddressMap()
    found = {}
    for node in nodes:
        peer = Address(node.host or known.announced_host(asked), node.port)
        found[node.id] = Member(
            id=node.id,
            address=asked if node.is_itself else endpoints.get(node.id, known.reach(peer)),
            peer=peer,
            flags=node.flags,
            primary_id=node.primary_id,
            epoch=node.epoch,
            slots=node.slots,
            migrating=node.migrating,
            importing=node.importing,
        )
    return found
