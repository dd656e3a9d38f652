"""Nodes that are to join the cluster: looked at when a plan is made, met when it is applied.

Invariant: only an empty node that knows no other one joins. Making a plan changes neither it nor the cluster.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from slotferry.errors import RefusedError, SlotferryError, UsageError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.cluster_nodes import cluster_nodes
from slotferry.net.connector import Connector
from slotferry.net.link import lost, not_ready
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import nodes_of
from slotferry.reshard.cluster.wire import Wire, is_error, refused, text_of
from slotferry.topology.product import Product

_WAIT_SECONDS = 60.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Joining:
    """A node that is to join: its id, and its address (`host:port`) as the other nodes reach it."""

    id: str
    address: str


def with_joining(
    connector: Connector, cluster: Cluster, names: Iterable[str]
) -> tuple[Cluster, list[Joining]]:
    """Return the cluster as it will be, and who is to join: those of `names` that are no members yet.

    Raises `UsageError` for a node that can't be reached, `RefusedError` for one that can't join.
    """
    members = dict(cluster.members)
    known = {name for m in members.values() for name in (str(m.address), str(m.peer))}
    joins = []
    for name in names:
        address = _address(name)
        if address is None or str(address) in known:
            continue  # whether it is a primary is asked where the plan is made
        member = look_at(connector, address)
        if member.id not in members:
            members[member.id] = member
            joins.append(Joining(member.id, str(address)))
    return replace(cluster, members=members), joins


def look_at(connector: Connector, announced: Address) -> Member:
    """Return a node that may join. Raises as `with_joining`."""
    try:
        with Wire(connector, connector.address_map.reach(announced)) as wire:
            return _look(wire, announced)
    except SlotferryError as error:
        if error.kind != "target_lost":
            raise
        raise UsageError(
            f"{announced} is no member of the cluster, and can't be asked to join: {error.message}",
            hint="check the address; start it with cluster-enabled yes",
        ) from None


def _look(wire: Wire, announced: Address) -> Member:
    fields = _fields(wire, "server", "cluster")
    if fields.get("cluster_enabled") != "1":
        raise RefusedError(
            f"{announced} can't join the cluster: it is a standalone server",
            hint="start it with cluster-enabled yes",
        )
    nodes = nodes_of(wire)
    if len(nodes) > 1:
        raise RefusedError(
            f"{announced} can't join the cluster: it belongs to another one, of {len(nodes)} nodes",
            hint="name an empty node; CLUSTER RESET there makes it forget the other cluster",
        )
    (member,) = nodes.values()
    if member.slots:
        raise RefusedError(
            f"{announced} can't join the cluster: it owns {len(member.slots):,} slots",
            hint="name an empty node; CLUSTER RESET there takes them from it",
        )
    if keys := _fields(wire, "keyspace"):
        raise RefusedError(
            f"{announced} can't join the cluster: it holds keys in {', '.join(sorted(keys))}",
            hint="copy them with 'slotferry migrate' if they are needed, and empty it",
        )
    product = Product.of(fields)
    return replace(member, peer=announced, product=product.family, version=product.version, answered=True)


def _fields(wire: Wire, *sections: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for section in sections:  # one by one: several at once are known since Redis 7.0
        fields |= wire.need_parsed(replies.info, "INFO", section)
    return fields


def meet(connector: Connector, cluster: Cluster, joins: Sequence[Joining], check: Callable[[], None]) -> None:
    """Let the nodes join, and wait until they and the primaries know each other, and they serve.

    A node that has just joined answers CLUSTERDOWN for some time (`CLUSTER_WRITABLE_DELAY` of the servers):
    slots that it gets before would be served by nobody.
    `check` raises to end the wait. Raises `SlotferryError`.
    """
    new = {join.id for join in joins}
    old = [member for member in cluster.primaries if member.id not in new]
    for join in joins:
        announced = _address(join.address)
        member = None if announced is None else look_at(connector, announced)
        if announced is None or member is None or member.id != join.id:
            raise RefusedError(
                f"{join.address} is another node than the one that was planned to join",
                hint="make a new plan with 'slotferry reshard plan'",
            )
        with Wire(connector, member.address) as wire:
            bus = _bus_port(wire)
        with Wire(connector, old[0].address) as wire:
            reply = wire.call("CLUSTER", "MEET", _ip(announced.host), announced.port, *bus)
            if is_error(reply):
                if reply.startswith((b"-NOPERM", b"-NOAUTH")):
                    raise refused(str(old[0]), "CLUSTER MEET", reply)
                raise not_ready(
                    "cluster", f"does not let {join.address} join: {text_of(reply)}", "see its log"
                )
    wanted = {member.id for member in old} | new
    deadline = time.monotonic() + _WAIT_SECONDS
    todo = [*(member.address for member in old), *(cluster.members[node].address for node in sorted(new))]
    with Wire(connector, old[0].address) as wire:
        is_up = _serves(wire)
    while todo:
        with Wire(connector, todo[0]) as wire:
            if _knows(nodes_of(wire), wanted) and (_serves(wire) or not is_up):
                todo.pop(0)
                continue
        check()
        if time.monotonic() > deadline:
            raise lost(
                "cluster",
                f"does not get to know {', '.join(join.address for join in joins)}: ask {todo[0]}",
                "see whether the nodes reach each other's bus ports, then run the same command again",
            )
        time.sleep(_LOOK_SECONDS)


def _knows(nodes: Mapping[str, Member], wanted: set[str]) -> bool:
    return all(node in nodes and not nodes[node].is_down for node in wanted)


def _serves(wire: Wire) -> bool:
    """Whether a node takes the cluster for one that is up."""
    return wire.need_parsed(replies.info, "CLUSTER", "INFO").get("cluster_state") == "ok"


def _bus_port(wire: Wire) -> list[int]:
    """Return the port of a lone node's bus, where it says it."""
    described = wire.need_parsed(lambda reply: cluster_nodes(reply, only_itself=True), "CLUSTER", "NODES")
    return [node.bus_port for node in described if node.bus_port is not None]


def _ip(host: str) -> str:
    """Return the IP of a host, which is what CLUSTER MEET takes."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise UsageError(f"the host {host} is not known: {error}", hint="name the node by its IP") from None


def _address(name: str) -> Address | None:
    host, _, port = name.strip().rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        return None
    return Address(host.strip("[]"), int(port))
