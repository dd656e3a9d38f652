"""What the target's nodes say of who serves which slots: the newest view of those that answer.

Invariant: no node is waited for while another answers, a node that hangs is not asked again before it has
answered, no node of another cluster is believed, and the view of a node that lags behind or was cut off gives
way to a newer one (a failover and a move of slots raise the cluster's epoch; Redis Cluster specification,
"Configuration handling").
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from slotferry._core import SLOTS
from slotferry.errors import MixedTargetError, SlotferryError, unexpected
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.link import CONNECT_TIMEOUT, REPLY_TIMEOUT, lost
from slotferry.net.replies import number_of
from slotferry.topology.clusters import NodeIds, are_one_cluster, mixed_target
from slotferry.topology.discovery import Topology, cluster_info, read_topology

_GRACE = 0.2  # seconds after the first answer in which another may turn out to be newer
_MOST_ASKED = 8


@dataclass(frozen=True)
class View:
    """What one node says: who serves which slots, as of which epoch."""

    topology: Topology
    epoch: int

    @property
    def rank(self) -> tuple[int, int]:
        """The newest goes first, and of those as new the fullest."""
        missing = sum(last - first + 1 for first, last in self.topology.missing)
        return (self.epoch, SLOTS - missing)


class TopologyViews:
    """Asks the nodes of one target; `refresh` is called by one thread at a time."""

    def __init__(
        self, look: Callable[[Address], View], seeds: Sequence[Address], node_ids: NodeIds = frozenset()
    ) -> None:
        """Take how to ask one node, which may raise `SlotferryError`, and nodes that are asked besides.

        `node_ids` are the ids of the cluster's nodes so far.
        """
        self._look = look
        self._seeds = seeds
        self._node_ids = node_ids
        self._under_way: set[Address] = set()
        self._newest = 0

    @classmethod
    def of(cls, connector: Connector, node_ids: NodeIds = frozenset()) -> TopologyViews:
        """Return the views of the target that `connector` leads to."""

        def look(address: Address) -> View:
            with connector.open(address) as node:
                topology = read_topology(node, connector.address_map)
                return View(topology, number_of(cluster_info(node), "cluster_current_epoch"))

        return cls(look, connector.endpoint.addresses, node_ids)

    def refresh(self, known: Iterable[Address]) -> Topology:
        """Ask `known` nodes and the seeds, some of them where they are many, and return the newest topology.

        Raises the last error where none answers, `TargetLostError` where only such do that lag behind, and
        `MixedTargetError` where a seed belongs to another cluster. Another node that does is passed over: its
        address may have become another server's.
        """
        known = list(known)
        answers, failure = self._collect(list(dict.fromkeys([*known, *self._seeds])))
        views = [view for address, view in answers if self._is_member(address, view, known)]
        best = max(views, key=lambda view: view.rank, default=None)
        if best is None:
            raise failure or lost("target", "has no node that answers", "see whether its nodes run")
        if best.epoch < self._newest:
            raise lost(
                "target", "answers only where it lags behind", "see whether its nodes reach each other"
            )
        self._newest = best.epoch
        self._node_ids = best.topology.node_ids or self._node_ids
        return best.topology

    def _is_member(self, address: Address, view: View, known: Sequence[Address]) -> bool:
        if are_one_cluster(self._node_ids, view.topology.node_ids):
            return True
        if address in self._seeds:
            others = [other for other in (*known, *self._seeds) if other != address]
            raise mixed_target(others[0] if others else address, address)
        return False

    def _collect(
        self, addresses: Sequence[Address]
    ) -> tuple[list[tuple[Address, View]], SlotferryError | None]:
        answers: queue.SimpleQueue[tuple[Address, View | SlotferryError]] = queue.SimpleQueue()
        free = [address for address in addresses if address not in self._under_way]
        chosen = random.sample(free, min(_MOST_ASKED, len(free)))
        for address in chosen:
            self._under_way.add(address)
            # A daemon: a node that hangs must not hold up the end of the process.
            threading.Thread(
                target=self._ask, args=(address, answers), name="slotferry-view", daemon=True
            ).start()
        views: list[tuple[Address, View]] = []
        failure: SlotferryError | None = None
        until = time.monotonic() + CONNECT_TIMEOUT + 2 * REPLY_TIMEOUT
        for _ in chosen:
            try:
                address, answer = answers.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(answer, View):
                views.append((address, answer))
                until = min(until, time.monotonic() + _GRACE)
            else:
                failure = answer
        return views, failure

    def _ask(
        self, address: Address, answers: queue.SimpleQueue[tuple[Address, View | SlotferryError]]
    ) -> None:
        try:
            answers.put((address, self._look(address)))
        except SlotferryError as error:
            answers.put((address, error))
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it
            answers.put((address, unexpected(error)))
        finally:
            self._under_way.discard(address)


class TopologyRefresher:
    """Refreshes in a thread of its own, one at a time and not more often than every `interval` seconds.

    The caller polls: `want()` when a fresh topology is needed, then `poll()` until it hands one over.
    """

    def __init__(self, refresh: Callable[[], Topology], interval: float = 0.2) -> None:
        self._refresh = refresh
        self._interval = interval
        self._wanted = False
        self._next = 0.0
        self._thread: threading.Thread | None = None
        self._result: Topology | None = None
        self._refusal: MixedTargetError | None = None

    def want(self) -> None:
        """Ask for a fresh topology."""
        self._wanted = True

    def poll(self) -> Topology | None:
        """Return a topology that has arrived since the last call, and start a refresh that is due.

        Raises `MixedTargetError` where the addresses lead to two clusters by now.
        """
        if self._refusal is not None:
            raise self._refusal
        arrived = None
        if self._thread is not None and not self._thread.is_alive():
            arrived, self._result, self._thread = self._result, None, None
            # A refresh that failed stays wanted: some node has to answer for the job to go on.
            self._wanted = self._wanted or arrived is None
        if self._wanted and self._thread is None and time.monotonic() >= self._next:
            self._wanted = False
            self._next = time.monotonic() + self._interval
            # A daemon: a node that hangs must not hold up the end of the process.
            self._thread = threading.Thread(target=self._run, name="slotferry-topology", daemon=True)
            self._thread.start()
        return arrived

    def _run(self) -> None:
        try:
            self._result = self._refresh()
        except MixedTargetError as error:
            self._refusal = error
        except SlotferryError:
            self._result = None  # `poll` tries again; the engine's retry limit ends it
