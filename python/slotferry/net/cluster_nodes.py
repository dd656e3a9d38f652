"""CLUSTER NODES, read in one place: each node's line, with the slots that it serves and those that are open.

Invariant: a line that can't be read is an error, never a node or a slot less.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slotferry._core import SLOTS
from slotferry.net import replies
from slotferry.net.replies import MalformedReplyError


@dataclass(frozen=True)
class ClusterNode:
    """One line. `host` is empty and `port` 0 while the node's address is not known.

    `migrating` and `importing` map an open slot to the other end's node id; a server shows only its own.
    """

    id: str
    host: str
    port: int
    flags: frozenset[str]
    primary_id: str | None
    epoch: int = 0
    bus_port: int | None = None
    slots: frozenset[int] = frozenset()
    migrating: Mapping[int, str] = field(default_factory=dict)
    importing: Mapping[int, str] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the other nodes reach it, as text."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_alive(self) -> bool:
        """Whether the others can reach it."""
        return not self.flags & {"fail", "fail?", "noaddr", "handshake"}

    @property
    def is_itself(self) -> bool:
        """Whether it is the node that was asked."""
        return "myself" in self.flags


def cluster_nodes(reply: Any, *, only_itself: bool = False) -> tuple[ClusterNode, ...]:
    """Return the nodes that a reply to CLUSTER NODES describes, or the one alone that was asked.

    A line is `id ip:port@bus[,hostname…] flags primary-id ping pong epoch link slots…`; a slot is `5`,
    `0-100`, or open: `[5->-id]` (migrating), `[5-<-id]` (importing). Raises `MalformedReplyError`.
    """
    lines = replies.text(reply).splitlines()
    if only_itself:  # the others may be many
        lines = [line for line in lines if any("myself" in flags for flags in line.split(maxsplit=3)[2:3])]
    return tuple(_node(line) for line in lines)


def _node(line: str) -> ClusterNode:
    if len(words := line.split()) < 8:
        raise MalformedReplyError("with a line that describes no node")
    node_id, where, flags, primary, _, _, epoch, _, *slots = words
    listens, _, bus = where.split(",")[0].partition("@")
    host, _, port = listens.rpartition(":")
    served: list[str] = []
    migrating: dict[int, str] = {}
    importing: dict[int, str] = {}
    for part in slots:
        if part.startswith("["):
            is_leaving = "->-" in part
            slot, _, other = part[1:-1].partition("->-" if is_leaving else "-<-")
            (migrating if is_leaving else importing)[_slot(slot)] = other
        else:
            served.append(part)
    return ClusterNode(
        id=node_id,
        host=host[1:-1] if host.startswith("[") else host,
        port=replies.integer(port.encode(), most=65535),
        flags=frozenset(flags.split(",")),
        primary_id=None if primary == "-" else primary,
        epoch=replies.integer(epoch.encode()),
        bus_port=replies.integer(bus.encode(), most=65535) if bus else None,
        slots=_slots_of(" ".join(served)),
        migrating=migrating,
        importing=importing,
    )


@functools.lru_cache(maxsize=256)
def _slots_of(ranges: str) -> frozenset[int]:
    """Return the slots of ranges; most nodes' are the same from one look to the next."""
    return frozenset(replies.slots(ranges))


def _slot(text: str) -> int:
    return replies.integer(text.encode(), most=SLOTS - 1)
