"""The server at the source whose writes are stopped, and where its stream stands.

Invariant: a fence belongs to one history: it is read together with the replication id, at a server that is a
primary at that instant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotferry.errors import SlotferryError, SourceNotReadyError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector

if TYPE_CHECKING:
    from slotferry.net.node import Node

_LONGEST_CHAIN = 4
_OWN_DELETIONS = ("expired_keys", "evicted_keys", "expired_subkeys", "expired_fields")


@dataclass(frozen=True)
class SourceOffset:
    """Where a primary's stream stands, and how many keys and fields it has deleted by itself so far."""

    replication_id: str
    offset: int
    own_deletions: int


def open_primary(source: Connector) -> Node:
    """Return a connection to the primary that takes the application's writes; to be closed by the caller.

    Raises `SlotferryError` where none is found: `SourceNotReadyError` in a longer chain of replicas.
    """
    node = source.open()
    for _ in range(_LONGEST_CHAIN):
        try:
            info = node.info("replication")
            if info.get("role") != "slave":
                return node
            host, port = info.get("master_host", ""), replies.number_of(info, "master_port")
        except BaseException:
            node.link.close()
            raise
        node.link.close()
        node = source.open(source.address_map.reach(Address(host, port)))
    node.link.close()
    raise SourceNotReadyError(
        f"the source {source.endpoint.addresses[0]} has no primary within {_LONGEST_CHAIN} replicas",
        hint="name the primary, or one of its own replicas, as the source",
    )


def read_offset(node: Node) -> SourceOffset:
    """Return where the stream stands, in one reply. Raises `SlotferryError`, also where it is no primary."""
    info = node.info()
    if info.get("role") != "master":
        raise SourceNotReadyError(
            f"the source {node.name} is a replica now: there was a failover",
            hint="wait until the run follows the new primary, then cut over again",
        )
    return SourceOffset(
        info.get("master_replid", ""),
        replies.number_of(info, "master_repl_offset"),
        sum(replies.number_of(info, name) for name in _OWN_DELETIONS),
    )


def try_to_read_offset(node: Node) -> SourceOffset | None:
    """Return where the source stands; None where it does not tell, so that all that is seen counts."""
    try:
        return read_offset(node)
    except SlotferryError:
        return None
