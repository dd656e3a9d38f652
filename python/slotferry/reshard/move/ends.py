"""What is known of the two ends of every move before it is made: keys, processes, what may be copied.

Invariant: a slot of which the target holds keys already is not copied, but for what is known to be a copy:
its keys may be there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from slotferry.errors import SlotferryError
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.wire import Wire, count_of, is_error, slot_commands
from slotferry.reshard.move.copying import can_copy, missing_permission, replication_identity
from slotferry.reshard.plan.balance import Move


def both_answer(source: str, target: str, shards: Mapping[str, Member]) -> bool:
    """Whether both nodes, as the plan names them, are there."""
    return all(end in shards and shards[end].answered for end in (source, target))


def count_keys(connector: Connector, cluster: Cluster, todo: Sequence[Move]) -> dict[int, int]:
    """Return how many keys the slots to be moved have, for the size of the groups and for the progress."""
    counted: dict[int, int] = {}
    by_owner: dict[str, list[int]] = {}
    for move in todo:
        owner = cluster.owners[move.slot]
        if owner is not None:
            by_owner.setdefault(owner, []).append(move.slot)
    for owner, slots in by_owner.items():
        with Wire(connector, cluster.members[owner].address) as wire:
            counts = wire.each(slot_commands("COUNTKEYSINSLOT", slots))
        counted.update(
            (slot, count_of(count)) for slot, count in zip(slots, counts, strict=True) if not is_error(count)
        )
    return counted


class Ends:
    """The ends of a run's moves, as they were when last looked at."""

    def __init__(
        self, connector: Connector, notice: Callable[[str], None], copies: Mapping[int, str]
    ) -> None:
        """Take from which process open slots may be copied, as the journal has it."""
        self._connector = connector
        self._notice = notice
        self.copies = dict(copies)
        """By slot: the process that it may be copied from; empty where it may not."""
        self.processes: dict[str, str] = {}
        """Which process serves a source, by node id."""
        self._foreign: set[int] = set()  # slots of which their target holds keys already
        self._told_slow = False

    def look(self, cluster: Cluster, shards: Mapping[str, Member], todo: Sequence[Move]) -> None:
        """Learn which process serves the sources, and of which slots the targets hold keys already."""
        self.processes = {}
        self._foreign = set()
        sources = {shards[move.source].id for move in todo if _copied(move, shards)}
        goes: dict[str, list[int]] = {}
        for move in todo:
            if _copied(move, shards):
                goes.setdefault(shards[move.target].id, []).append(move.slot)
        for node in sources | goes.keys():
            try:
                member = cluster.members[node]
                with Wire(self._connector, member.address) as wire:
                    if command := missing_permission(wire):
                        self._say_slow(f"{member}: the user may not run {command}")
                        self._foreign.update(goes.get(node, []))
                        continue
                    if node in sources:
                        self.processes[node] = replication_identity(wire, member)
                    slots = goes.get(node, [])
                    self._foreign.update(wire.filled(slots))
            except SlotferryError:
                self._foreign.update(goes.get(node, []))  # what it is, its moves will tell

    def allow_copies(
        self, source: Member, target: Member, method: str, slots: Sequence[int]
    ) -> dict[int, str]:
        """Decide, and return, from which process each slot may be copied."""
        process = self.processes.get(source.id, "") if method == "setslot" else ""
        if not can_copy(source, target):
            process = ""
        allowed = {
            slot: process if slot not in self._foreign or self.copies.get(slot) == process else ""
            for slot in slots
        }
        self.copies.update(allowed)
        return allowed

    def _say_slow(self, why: str) -> None:
        """Tell, once, why slots go the slow way."""
        if not self._told_slow:
            self._told_slow = True
            self._notice(f"slots are moved by MIGRATE, which is slower: {why}")


def _copied(move: Move, shards: Mapping[str, Member]) -> bool:
    return both_answer(move.source, move.target, shards) and can_copy(
        shards[move.source], shards[move.target]
    )
