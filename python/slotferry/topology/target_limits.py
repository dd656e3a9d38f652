"""What a node of the target takes of one command.

Invariant: what a node does not tell is 0, for which the engine takes the servers' defaults (512 MB and 1 GB).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from slotferry.net import replies
from slotferry.net.node import Node
from slotferry.net.replies import ResponseError

_SETTINGS = ("proto-max-bulk-len", "client-query-buffer-limit")


class TargetLimits(NamedTuple):
    """Bytes of one argument, and of what may wait of one connection; 0: not known."""

    bulk: int = 0
    query_buffer: int = 0


UNKNOWN = TargetLimits()


def ask_limits(node: Node) -> TargetLimits:
    """Ask a node, whose user may lack the right to. Raises `SlotferryError` where it goes away."""
    replies = node.call_many([("CONFIG", "GET", name) for name in _SETTINGS])
    return TargetLimits(*map(lambda name, reply: _number(node, name, reply), _SETTINGS, replies))


def smallest(limits: Sequence[TargetLimits]) -> TargetLimits:
    """Return the smallest of each that is known."""
    return TargetLimits(*(min(filter(None, each), default=0) for each in zip(*limits, strict=True)))


def _number(node: Node, name: str, reply: object) -> int:
    if isinstance(reply, ResponseError):
        return 0
    found = node.take(replies.pairs, reply, "CONFIG GET")
    return max(0, replies.number_of(found, name))
