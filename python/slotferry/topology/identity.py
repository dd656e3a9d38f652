"""What the target's nodes are, and what between two looks at them may have cost keys.

Invariant: whatever can take away keys that a node has acknowledged, without the one who wrote them being
told, is a `Doubt` between two looks: another process or history, another owner of slots, FLUSHALL, eviction,
fewer keys than there were. A doubt says where to look again; it never says that something is missing.

Sources: INFO and CLUSTER SLOTS (documentation of Redis and Valkey). `run_id` is new after each start,
`master_replid` after each promotion and each full synchronisation. Counters only grow, but for CONFIG
RESETSTAT and a new process.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.link import not_ready
from slotferry.net.node import Node, raise_for
from slotferry.net.replies import ResponseError, number_of
from slotferry.text import format_slots
from slotferry.topology.discovery import Topology

Slots = tuple[tuple[int, int], ...]
"""Ranges, both ends included."""

DoubtKind = Literal[
    "unknown", "restarted", "failed_over", "resynchronised", "emptied", "evicting", "reset", "fewer", "moved"
]

_TEMPORARY_KEYS = 8  # of large keys that are being built: each goes when it is renamed
_SECTIONS = ("keyspace", "stats", "commandstats", "replication", "server")  # what is lost is counted last


@dataclass(frozen=True)
class NodeState:
    """A node of the target at one instant. Counters are those of its process, since its statistics began."""

    node_id: str
    address: str
    slots: Slots
    run_id: str
    primary: bool
    replication_id: str
    previous_replication_id: str
    offset: int
    """How many bytes of replication stream it has written or read (`master_repl_offset`)."""
    commands: int
    resets: int
    """CONFIG RESETSTAT; servers before 7.0 do not count it."""
    flushes: int
    """FLUSHALL, FLUSHDB and SWAPDB, also by scripts and in transactions."""
    migrations: int
    evicted: int
    expired: int
    volatile: int
    """How many keys have a TTL, in all databases."""
    keys: Mapping[str, int]
    """How many keys each database holds, by its number as text."""

    def count(self, databases: Collection[int]) -> int:
        """How many keys these databases hold."""
        return sum(self.keys.get(str(number), 0) for number in databases)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> NodeState:
        """Read what `to_dict` returned. Raises `ValueError`, `TypeError` or `KeyError`."""
        known = {f.name: value[f.name] for f in fields(cls)}
        slots = tuple((int(first), int(last)) for first, last in known["slots"])
        return cls(**{**known, "slots": slots, "keys": {str(k): int(v) for k, v in known["keys"].items()}})


@dataclass(frozen=True)
class Doubt:
    """Something that may have cost keys of these slots, which were written."""

    kind: DoubtKind
    node: str
    slots: Slots
    message: str
    keys: int = field(default=0, compare=False)
    """How many are missing, where that is known."""

    @property
    def is_grave(self) -> bool:
        """Whether a node may have lost keys by itself, and not by what a client or operator did to keys."""
        return self.kind not in ("reset", "fewer", "moved")

    @property
    def may_be_stale(self) -> bool:
        """Whether a key may be there with an older value."""
        return self.kind in ("unknown", "restarted", "failed_over", "resynchronised")


def look_at(node: Node, topology: Topology) -> NodeState:
    """Ask a node of a topology what it is. Raises `SlotferryError`."""
    info: dict[str, str] = {}
    answers = node.call_many([("INFO", name) for name in _SECTIONS])
    for name, reply in zip(_SECTIONS, answers, strict=True):
        if isinstance(reply, ResponseError):
            raise_for(reply, node, f"INFO {name}")
        info.update(node.take(replies.info, reply, f"INFO {name}"))
    if not info.get("run_id"):
        raise not_ready("target", f"does not say its run_id at {node.name}", "is INFO complete there?")
    keyspace = {name: value for name, value in info.items() if re.fullmatch(r"db[0-9]+", name)}
    return NodeState(
        node_id=topology.primary_ids.get(node.address) or str(node.address),
        address=str(node.address),
        slots=_slots_of(topology, node.address),
        run_id=info["run_id"],
        primary=info.get("role", "master") == "master",
        replication_id=info.get("master_replid", ""),
        previous_replication_id=info.get("master_replid2", ""),
        offset=number_of(info, "master_repl_offset"),
        commands=number_of(info, "total_commands_processed"),
        resets=_calls(info, "config|resetstat"),
        flushes=sum(_calls(info, name) for name in ("flushall", "flushdb", "swapdb")),
        migrations=_calls(info, "migrate"),
        evicted=number_of(info, "evicted_keys"),
        expired=number_of(info, "expired_keys"),
        volatile=sum(_counted(value, "expires") for value in keyspace.values()),
        keys={name[2:]: _counted(value, "keys") for name, value in keyspace.items()},
    )


def _slots_of(topology: Topology, address: Address) -> Slots:
    mine = (address.host, address.port)
    return tuple((first, last) for first, last, host, port in topology.ranges if (host, port) == mine)


def _calls(info: Mapping[str, str], command: str) -> int:
    return _counted(info.get(f"cmdstat_{command}", ""), "calls")


def _counted(fields: str, name: str) -> int:
    """Return a number out of `name=1,other=2`."""
    return number_of(dict(field.split("=", 1) for field in fields.split(",") if "=" in field), name)


def compare_looks(
    before: Iterable[NodeState], now: Sequence[NodeState], databases: Collection[int]
) -> tuple[list[Doubt], list[NodeState]]:
    """Return what may have been lost between two looks, and what is known after both.

    `now` may lack nodes that did not answer: what was known of them stands until another node is seen to
    serve their slots. `databases` are those of the target that are written to.
    """
    doubts: list[Doubt] = []
    primaries = [node for node in now if node.primary]
    answered = {node.node_id: node for node in now}
    known = {node.node_id: node for node in primaries}
    for old in before:
        new = answered.get(old.node_id)
        same = new is not None and new.primary and _is_same_process(old, new)
        if new is not None:
            doubts += _compare(old, new, databases)
        left = old.slots
        for owner in primaries:
            gone = () if owner.node_id == old.node_id else intersect(left, owner.slots)
            if gone:
                left = subtract(left, gone)
                if same and owner.previous_replication_id != old.replication_id:
                    text = f"slots {format_slots(gone, 4)} have moved from {old.address} to {owner.address}"
                    doubts.append(Doubt("moved", old.address, gone, text))
                else:
                    text = f"{owner.address} has taken over slots {format_slots(gone, 4)} of {old.address}"
                    doubts.append(Doubt("failed_over", old.address, gone, text))
        if new is None and left:
            known[old.node_id] = replace(old, slots=left)
    return doubts, list(known.values())


def _is_same_process(old: NodeState, new: NodeState) -> bool:
    return (new.run_id, new.replication_id) == (old.run_id, old.replication_id)


def _compare(old: NodeState, new: NodeState, databases: Collection[int]) -> list[Doubt]:
    """Return what may have been lost at one node."""

    def doubt(kind: DoubtKind, text: str) -> list[Doubt]:
        return [Doubt(kind, new.address, old.slots, f"{new.address} {text}")]

    if new.run_id != old.run_id:
        return doubt("restarted", "was restarted, or is another server")
    if not new.primary:
        return doubt("failed_over", "is not a primary any more")
    found: list[Doubt] = []
    if new.replication_id != old.replication_id:
        found += doubt("resynchronised", "has another replication history: it may have been a replica")
    elif new.offset < old.offset:
        found += doubt("resynchronised", "is back at an earlier point of its replication history")
    was_reset = new.resets != old.resets or any(
        getattr(new, name) < getattr(old, name) for name in ("commands", "flushes", "evicted", "expired")
    )
    flushes = new.flushes - (0 if was_reset else old.flushes)
    evicted = new.evicted - (0 if was_reset else old.evicted)
    if flushes > 0:
        found += doubt("emptied", "was emptied (FLUSHALL, FLUSHDB or SWAPDB)")
    if evicted > 0:
        found += doubt("evicting", "evicts keys: its memory is at maxmemory")
    if was_reset and not found:
        found += doubt("reset", "had its statistics reset, so that nothing says what happened before")
    expired = new.expired - (0 if was_reset else old.expired)
    missing = old.count(databases) - new.count(databases) - expired - max(0, evicted)
    # Slots that leave take their keys with them, before their owner is another one.
    if missing > _TEMPORARY_KEYS and new.slots == old.slots and new.migrations == old.migrations:
        text = f"has {missing:,} keys fewer than it had, and they did not expire"
        found += [replace(told, keys=missing) for told in doubt("fewer", text)]
    return found


def is_replaced(before: Sequence[NodeState], now: Sequence[NodeState], databases: Collection[int]) -> str:
    """Return why nothing is left of what was written: another cluster, or an empty one; else nothing.

    To be asked only where something was written.
    """
    if not {node.node_id for node in before} & {node.node_id for node in now}:
        return "the target is another cluster than the one that was written to (no node has an id of it)"
    if not sum(node.count(databases) for node in now):
        return "the target has lost every key"
    return ""


def intersect(one: Slots, other: Slots) -> Slots:
    """Return the slots that are in both."""
    both = ((max(a, c), min(b, d)) for a, b in one for c, d in other)
    return tuple(sorted((first, last) for first, last in both if first <= last))


def subtract(whole: Slots, part: Slots) -> Slots:
    """Return the slots of `whole` that are not in `part`."""
    left = list(whole)
    for c, d in part:
        left = [
            piece
            for a, b in left
            for piece in (((a, min(b, c - 1)), (max(a, d + 1), b)) if a <= d and c <= b else ((a, b),))
            if piece[0] <= piece[1]
        ]
    return tuple(sorted(left))


def unite(several: Iterable[Slots]) -> Slots:
    """Return all of these slots as ranges that do not touch."""
    united: list[tuple[int, int]] = []
    for first, last in sorted(piece for slots in several for piece in slots):
        if united and first <= united[-1][1] + 1:
            united[-1] = (united[-1][0], max(last, united[-1][1]))
        else:
            united.append((first, last))
    return tuple(united)
