"""What all ways of moving slots share: what they are given, what they return, and who is who at either end.

Invariant: `move` returns an outcome for each slot it was given. A slot that is `moved` is closed on both ends
and known to the target as its own; one that is `left` was not opened, or was closed again, unless its reason
says that it is open. One that is neither was not begun, since the run was told to stop, or
is open because the target is `full`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from slotferry.errors import RefusedError, SlotferryError
from slotferry.net.cluster_nodes import cluster_nodes
from slotferry.net.link import lost
from slotferry.reshard.cluster.members import Member, members
from slotferry.reshard.cluster.wire import Wire, slot_commands

MethodName = Literal["auto", "setslot", "atomic"]
OnProgress = Callable[[int, int], None]
"""Hears of keys and bytes as they arrive."""


@dataclass(frozen=True)
class Pair:
    """The two ends of a move, and the other primaries, which are told of it.

    `source_ids` and `target_ids` are all nodes of either shard: an open slot that names one of them was
    opened by us, before a failover.
    """

    source: Member
    target: Member
    others: tuple[Member, ...] = ()
    source_ids: frozenset[str] = frozenset()
    target_ids: frozenset[str] = frozenset()


@dataclass
class Moved:
    """What became of a group of slots: `moved`, or `left` with the reason, and what it took.

    Where the target was `full`, slots that are in neither are open still, to be rolled back.
    """

    moved: list[int] = field(default_factory=list)
    left: dict[int, str] = field(default_factory=dict)
    keys: int = 0
    bytes: int = 0
    full: SlotferryError | None = None


class Method(Protocol):
    """One way to move slots; an instance belongs to one pair of nodes and one thread at a time."""

    name: str
    most_slots: int
    most_bytes: int

    def move(self, slots: Sequence[int], on_progress: OnProgress, *, shared: bool = False) -> Moved:
        """Move the slots. Raises `SlotferryError`.

        `on_progress` hears of keys and bytes as they arrive; `shared`: the source feeds another target too.
        """

    def close(self) -> None:
        """Hang up."""


def choose_method(source: Member, target: Member, wanted: MethodName = "auto") -> str:
    """Return the name of the method to use: of those wanted the best that both nodes know."""
    best = _best_method(source, target)
    if wanted == "setslot":
        return "setslot"
    if wanted == "atomic" and best == "setslot":
        raise RefusedError(
            f"{source} and {target} know no atomic moves",
            hint="they take Valkey ≥ 9 or Redis ≥ 8.4 on both nodes; use --method auto",
        )
    return best


def _best_method(source: Member, target: Member) -> str:
    products = {source.product, target.product}
    oldest = min(source.version, target.version)
    if products == {"valkey"} and oldest >= (9, 0):
        return "valkey-atomic"
    if products == {"redis"} and oldest >= (8, 4):
        return "redis-atomic"
    return "setslot"


def nodes_of(wire: Wire) -> dict[str, Member]:
    """Return the members by id, as the node at the other end sees them."""
    return wire.need_parsed(lambda reply: members(cluster_nodes(reply), wire.address, {}), "CLUSTER", "NODES")


def itself(wire: Wire, expected: Member, seen: Mapping[str, Member] | None = None) -> Member:
    """Return what a node says of itself (`seen`: has said). Raises where another one answers by now."""
    for member in (own_line(wire) if seen is None else seen).values():
        if "myself" in member.flags:
            if member.id != expected.id:
                raise lost("cluster", f"has another node at {wire.address} by now", "it is looked up again")
            if not member.is_primary:
                raise lost("cluster", f"has made {wire.address} a replica", "it goes on with the new primary")
            return member
    raise lost("cluster", f"does not say who {wire.address} is", "see that node's log")


def own_line(wire: Wire) -> dict[str, Member]:
    """Return what the node at the other end says of itself, by its id."""
    nodes = wire.need_parsed(lambda reply: cluster_nodes(reply, only_itself=True), "CLUSTER", "NODES")
    return members(nodes, wire.address, {})


def correct_owner(
    wire: Wire, slots: Sequence[int], owner: str, seen: Mapping[str, Member] | None = None
) -> None:
    """Tell a node who owns the slots, where it does not know (`seen`: what it has said of it).

    A node that imports a slot takes no word about it from the gossip. After a failover of the source it goes
    on to believe in the dead one, and so takes the whole cluster for down.
    """
    if not slots:
        return
    nodes = (nodes_of(wire) if seen is None else seen).values()
    owners = {slot: member for member in nodes for slot in member.slots.intersection(slots)}
    known = {slot for slot, m in owners.items() if m.id == owner or "myself" in m.flags}
    wire.each(slot_commands("SETSLOT", (s for s in slots if s not in known), "NODE", owner))
