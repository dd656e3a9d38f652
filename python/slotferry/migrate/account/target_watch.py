"""Looks at the target's primaries while a run goes on, in a thread of its own.

Invariant: a node that hangs or can't be reached holds nothing up and is no news: the engine tells of it. What
is sent is what `look_at` sends, twice a second. A look is never heard after one that was taken later: its
counters would seem to have gone back.
"""

from __future__ import annotations

import queue
import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING

from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.link import lost
from slotferry.topology.discovery import Topology
from slotferry.topology.identity import NodeState, look_at

if TYPE_CHECKING:
    from slotferry.net.node import Node

LOOK_SECONDS = 0.5


class TargetWatch:
    """Looks again and again from `with` to its end; `poll` gives what was seen."""

    def __init__(self, connector: Connector, topology: Topology, interval: float = LOOK_SECONDS) -> None:
        self._connector = connector
        self._topology = topology
        self._interval = interval
        self._seen: queue.SimpleQueue[tuple[float, list[NodeState]]] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._nodes: dict[Address, Node] = {}

    def __enter__(self) -> TargetWatch:
        # A daemon: a node that hangs must not hold up the end of the process.
        threading.Thread(target=self._run, name="slotferry-accounting", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()

    def follow(self, topology: Topology) -> None:
        """Look at the primaries of this topology from now on."""
        self._topology = topology

    def poll(self, since: float) -> list[list[NodeState]]:
        """Return the looks that have come, in order, and were begun after `since` (of `time.monotonic`)."""
        # Only the caller takes looks out, so one that is there stays there.
        looks = [self._seen.get() for _ in range(self._seen.qsize())]
        return [seen for begun, seen in looks if begun > since]

    def _run(self) -> None:
        try:
            while not self._ended.wait(self._interval):
                topology, begun = self._topology, time.monotonic()
                seen = [state for a in topology.primaries if (state := self._look(a, topology)) is not None]
                if topology is self._topology:  # else its slots may be those of before
                    self._seen.put((begun, seen))
        finally:
            for node in self._nodes.values():
                node.link.close()

    def _look(self, address: Address, topology: Topology) -> NodeState | None:
        try:
            if address not in self._nodes:
                self._nodes[address] = self._connector.open(address)
            return look_at(self._nodes[address], topology)
        except SlotferryError:
            if (node := self._nodes.pop(address, None)) is not None:
                node.link.close()
            return None


def look_at_all(connector: Connector, topology: Topology) -> list[NodeState]:
    """Look at every primary of a topology. Raises `SlotferryError`, also for one that is a replica by now."""
    states = []
    for address in topology.primaries:
        with connector.open(address) as node:
            state = look_at(node, topology)
        if not state.primary:
            raise lost(
                "target", f"has a replica at {address} that is called a primary", "wait for its failover"
            )
        states.append(state)
    return states
