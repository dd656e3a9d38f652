"""The cluster that a job reads: which primary reads what, and which slots have to be read again.

Invariant: a slot is in doubt from the look that shows it moved, moving, or with another process as its owner,
until all of it was read from one owner between two looks that show it at rest there. What is in doubt is in
the journal before any cursor that was taken since; so a run that is killed forgets no doubt. A cursor whose
process is gone is void: its slots are in doubt then.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotferry._core import ErrorKind, key_slots
from slotferry.errors import InternalError, JournalError, SlotferryError, SourceNotReadyError
from slotferry.jobs.engine_errors import from_engine
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import ClusterRecord
from slotferry.jobs.partitions import MAX_PARTITIONS
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.text import count_of, format_slots, ranges_of
from slotferry.topology.cluster_source.facts import ClusterFacts, complete
from slotferry.topology.cluster_source.look import ClusterLook, NodeKey, NodeLook, in_doubt, look_at_cluster
from slotferry.topology.discovery import ServerFacts
from slotferry.topology.product import scans_by_slot

_PAUSE_SECONDS = 0.3
REREAD = 1 << 20
"""From here on partitions are counted that read slots again: the journal keeps no cursors of them."""


@dataclass
class NodeWork:
    """What one primary is read for: its share of a `Work`, with its partitions counted from 0 on."""

    node: NodeLook
    first: int
    partitions: list[tuple[int, int]] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    sweeps: list[tuple[Any, ...]] = field(default_factory=list)
    only: list[tuple[int, int]] | None = None
    doubted: frozenset[int] = frozenset()
    """Slots that may have come from another process since a position was taken."""

    def positions_of(self, positions: Iterable[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
        """Return how far keys are copied in parts that this node has, and has had since."""
        known = list(positions)
        slots = key_slots([key for key, _ in known])
        certain = self.node.slots - self.doubted
        return [each for each, slot in zip(known, slots, strict=True) if slot in certain]

    @property
    def server(self) -> ServerFacts:
        """The server; raises `InternalError` where nothing is known of it."""
        if self.node.server is None:
            raise InternalError(f"nothing is known of the source's node {self.node.address}")
        return self.node.server


class ClusterSource:
    """The source of one driver; what it learns goes to the journal once `begin` has named a job there."""

    def __init__(self, connector: Connector, look: ClusterLook) -> None:
        self._connector = connector
        self.look = look
        self._layout: tuple[NodeKey, ...] = tuple(node.key for node in look.nodes if node.slots)
        self.doubts: set[int] = set(look.open)
        self._raised: set[int] = set()
        self._reading: frozenset[NodeKey] = frozenset()
        self._swept: tuple[tuple[NodeKey, list[tuple[int, int]]], ...] = ()
        self._journal: Journal | None = None
        self._name = ""

    @property
    def nodes(self) -> int:
        """How many primaries the job's partitions are of."""
        return len(self._layout)

    def begin(self, journal: Journal, name: str) -> bool:
        """Go on with what the journal has of the job `name`; return whether it has anything.

        Without that the job's partitions are to be of the primaries as they are now.
        """
        self._journal, self._name = journal, name
        record = journal.cluster_record(name)
        if record is None:
            self._check_fresh(journal, name)
            self._write()
            return False
        self._layout = record.layout
        self.doubts |= record.doubts
        before = _from_text(record.look)
        now, self.look = self.look, before
        self.note(now)
        return True

    def _check_fresh(self, journal: Journal, name: str) -> None:
        """Raise where the journal has partitions of nodes that it does not name."""
        marks = journal.marks(name)
        if any(mark.done or mark.cursor != mark.index for mark in marks) or any(
            sum(mark.database == number for mark in marks) % len(self._layout)
            for number in journal.databases(name)
        ):
            raise JournalError(
                f"the journal does not say which nodes the partitions of job {name} are of",
                hint="run it with --restart",
            )

    def note(self, look: ClusterLook) -> frozenset[int]:
        """Take a newer look; return the slots that are in doubt since, and were not before."""
        raised = in_doubt(self.look, look)
        # What is read at this moment is read again, however often it was in doubt.
        new = frozenset(raised - self.doubts)
        changed = bool(new) or _as_text(look) != _as_text(self.look)
        self.look = look
        self._raised |= raised
        self.doubts |= raised
        if changed:
            self._write()
        return new

    def refresh(self, check: Callable[[], None], tell: Callable[[str], None], patience: float) -> None:
        """Take a new look at all slots, for as long as it may take to get one. Raises `SlotferryError`.

        `check` raises where the run is to end; `tell` hears what is waited for.
        """
        deadline = time.monotonic() + patience
        told = False
        while True:
            check()
            try:
                look = self.peek()
            except SlotferryError as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    tell(f"waiting: {error}")
                    told = True
                time.sleep(_PAUSE_SECONDS)  # a failover takes seconds; nobody tells when it is over
            else:
                self.note(look)
                self._write()  # what a job that has ended since wrote of a node that is gone is void again
                return

    def peek(self) -> ClusterLook:
        """Look, and keep nothing: for another thread. Raises `SlotferryError`."""
        return complete(look_at_cluster(self._connector, self._addresses()))

    def _addresses(self) -> list[Address]:
        return [node.address for node in self.look.nodes]

    def begin_reading(self) -> frozenset[int]:
        """Return the slots that are in doubt and at rest, to be read again from now on."""
        self._raised = set()
        return frozenset(self.doubts - self.look.open)

    def end_reading(self, slots: Collection[int]) -> int:
        """All of these slots was read: those that no look has doubted meanwhile are in doubt no more.

        Return how many these are. A look is to be taken before.
        """
        settled = set(slots) - self._raised
        self.doubts -= settled
        self._write()
        return len(settled)

    def left(self) -> str:
        """Return that nodes which are read are primaries of the cluster no more; empty where all are."""
        gone = len(self._reading - self.look.by_key.keys())
        return f"{count_of(gone, 'node')} of the source is no primary any more" if gone else ""

    def unquiet(self) -> SourceNotReadyError:
        """Return the error for slots that don't come to rest."""
        slots = format_slots(ranges_of(self.doubts), 4)
        return SourceNotReadyError(
            f"slots {slots} of the source are being moved all the while: not all of their keys were "
            "read for certain",
            hint="let the move end, or mend it with 'slotferry reshard fix', then run the same command again",
        )

    def split(
        self,
        partitions: Sequence[tuple[int, int]],
        count: int,
        keys: Iterable[bytes],
        sweeps: Sequence[tuple[Any, ...]] = (),
        reread: frozenset[int] | None = None,
    ) -> list[NodeWork]:
        """Give each primary its share; there is one at least, which may be of nothing.

        `count` is how many partitions each node has; with `sweeps`, how many primaries the target has. With
        `reread` all keys of these slots are read from their owners.
        """
        works: dict[NodeKey, NodeWork] = {}
        doubted = frozenset(self.doubts)

        def work(node: NodeLook, first: int = 0) -> NodeWork:
            return works.setdefault(node.key, NodeWork(node, first, doubted=doubted))

        for index, cursor in partitions:
            number, local = divmod(index, count)
            node = self.look.by_key.get(self._layout[number])
            if node is not None:  # else its slots are in doubt
                share = work(node, number * count)
                share.partitions.append((local, local if cursor == index else cursor))
        names = list(keys)
        for key, slot in zip(names, key_slots(names), strict=True):
            work(self._owner(slot)).keys.append(key)
        if reread is not None:
            self._split_reread(reread, count, work)
        if sweeps:
            self._split_sweeps(sweeps, count, work)
        if not works:
            work(self.look.nodes[0])
        self._reading = frozenset(works)
        return list(works.values())

    def _split_reread(
        self, slots: frozenset[int], count: int, work: Callable[[NodeLook, int], NodeWork]
    ) -> None:
        for number, node in enumerate(self.look.nodes):
            mine = [slot for slot in self.look.owned(node) if slot in slots]
            if mine:
                share = work(node, REREAD + number * count)
                share.partitions = [(index, index) for index in range(count)]
                share.only = ranges_of(mine)

    def _split_sweeps(
        self, sweeps: Sequence[tuple[Any, ...]], targets: int, work: Callable[[NodeLook, int], NodeWork]
    ) -> None:
        """Let each node be asked for the target's keys of its slots; marks are counted node by node."""
        for index, *rest in sweeps:
            number, local = divmod(index, targets)
            key, slots = self._swept[number]
            node = self.look.by_key.get(key)
            if node is None:
                raise from_engine(ErrorKind.SOURCE_CHANGED, "a primary of the source is another one now")
            share = work(node, number * targets)
            share.sweeps.append((local, *rest))
            share.only = slots

    def begin_sweeps(self) -> str:
        """Take the owners of the slots as they are now, to be asked for the target's keys.

        Return what the marks of that depend on; how many nodes are asked, `swept` says.
        """
        look = self.look
        owned = ((node.key, ranges_of(look.owned(node))) for node in look.nodes)
        self._swept = tuple((key, slots) for key, slots in owned if slots)
        return hashlib.sha256(repr(self._swept).encode()).hexdigest()[:16]

    @property
    def swept(self) -> int:
        """How many nodes are asked for the target's keys."""
        return len(self._swept)

    def _owner(self, slot: int) -> NodeLook:
        owner = self.look.owners[slot]
        if owner is None:
            raise InternalError(f"nobody owns slot {slot} of the source, and all slots were looked at")
        return owner

    def _write(self) -> None:
        if self._journal is None:
            return
        gone = [number for number, key in enumerate(self._layout) if key not in self.look.by_key]
        record = ClusterRecord(self._layout, frozenset(self.doubts), _as_text(self.look))
        self._journal.record_cluster(self._name, record, void=gone)


def partitions_of_node(wanted: int, facts: ClusterFacts) -> int:
    """Return into how many partitions each primary is cut, where `wanted` would do for one that stood alone.

    Where SCAN goes from slot to slot a partition is a run of slots, of which each primary owns but some.
    """
    if wanted == 1 or not any(scans_by_slot(server.product) for server in facts.servers):
        return wanted
    count = wanted
    while count < wanted * len(facts.nodes) and count * 2 <= MAX_PARTITIONS:
        count *= 2
    return count


def _as_text(look: ClusterLook) -> str:
    """Return a look as the journal keeps it."""
    return json.dumps(
        [
            {
                "id": node.node_id,
                "run_id": node.run_id,
                "host": node.address.host,
                "port": node.address.port,
                "epoch": node.epoch,
                "slots": ranges_of(node.slots),
                "open": ranges_of(node.open),
            }
            for node in look.nodes
        ]
    )


def _from_text(text: str) -> ClusterLook:
    return ClusterLook(
        tuple(
            NodeLook(
                node["id"],
                node["run_id"],
                Address(node["host"], node["port"]),
                node["epoch"],
                _slots(node["slots"]),
                _slots(node["open"]),
            )
            for node in json.loads(text)
        )
    )


def _slots(ranges: Iterable[tuple[int, int]]) -> frozenset[int]:
    return frozenset(slot for first, last in ranges for slot in range(first, last + 1))
