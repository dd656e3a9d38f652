"""Seeing that another tool moves slots of the cluster, while it does.

Invariant: what counts is what changes: a slot that is opened, closed or served by another node than before,
and not by this run. What an ended tool has left open stays as it is, and is no reason to wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace

from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import own_line
from slotferry.reshard.cluster.wire import Wire, format_ranges
from slotferry.reshard.limits import Scheduler

_LOOK_SECONDS = 0.25
_CALM_SECONDS = 1.0  # as long nothing may change for a tool to be taken for ended
_SECONDS_PER_NODE = 0.01  # a look takes no more of a large cluster's time than of a small one's


@dataclass(frozen=True)
class View:
    """What primaries say of themselves: their slots, and which are open (node, slot, way, other end)."""

    owned: Mapping[str, frozenset[int]]
    opened: frozenset[tuple[str, int, str, str]]

    @classmethod
    def of(cls, members: Iterable[Member]) -> View:
        """Return the view of members that answered for themselves."""
        primaries = [member for member in members if member.is_primary and member.answered]
        opened = set()
        for member in primaries:
            opened |= {(member.id, slot, "->", other) for slot, other in member.migrating.items()}
            opened |= {(member.id, slot, "<-", other) for slot, other in member.importing.items()}
        return cls({member.id: member.slots for member in primaries}, frozenset(opened))


@dataclass
class Expected:
    """The slots that this run has begun to move: by slot, the ids of the two ends."""

    moves: dict[int, tuple[str, str]] = field(default_factory=dict)

    def add(self, slots: Iterable[int], source: str, target: str) -> None:
        """Take slots that are about to be moved."""
        self.moves.update(dict.fromkeys(slots, (source, target)))

    def foreign(self, view: View) -> frozenset[tuple[str, int, str, str]]:
        """Return what is open and was not opened by this run."""
        return frozenset(mark for mark in view.opened if not self._is_ours(mark))

    def _is_ours(self, mark: tuple[str, int, str, str]) -> bool:
        node, slot, way, other = mark
        source, target = self.moves.get(slot, ("", ""))
        return (node, other) == ((source, target) if way == "->" else (target, source))


def changes(before: View, after: View, expected: Expected) -> str:
    """Return what another tool has done between two looks; empty where nothing."""
    marks = expected.foreign(after) ^ expected.foreign(before)
    if marks:
        slots = {slot for _, slot, _, _ in marks}
        return f"another tool is moving slots {_shown(slots)}"
    moved: set[int] = set()
    for node in before.owned.keys() & after.owned.keys():
        if before.owned[node] is not after.owned[node]:
            moved |= before.owned[node] ^ after.owned[node]
    moved -= expected.moves.keys()
    return f"another tool has moved slots {_shown(moved)}" if moved else ""


def _shown(slots: Iterable[int]) -> str:
    text = format_ranges(slots)
    return text if len(text) <= 40 else f"{text[:37]}..."


class OthersWatch:
    """Looks at every primary again and again, in a thread, and closes the scheduler while others are at work.

    `begun` is what the cluster was like when the run first looked at it; `known` are slots that an earlier
    run of ours may have left open.
    """

    def __init__(
        self,
        connector: Connector,
        scheduler: Scheduler,
        cluster: Cluster,
        begun: Cluster,
        known: Container[int],
    ) -> None:
        self.expected = Expected()
        self._connector = connector
        self._scheduler = scheduler
        self._members = {member.id: member for member in cluster.primaries if member.answered}
        self._before = View.of(begun.members.values())
        self._still_since = time.monotonic()
        self._wires: dict[Address, Wire] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-others", daemon=True)
        now = View.of(cluster.members.values())
        self._take(now)
        slots = {slot for _, slot, _, _ in now.opened if slot not in known}
        if slots and not self._scheduler.others:
            # Whoever has opened them may be at work, or may have ended long ago.
            self._scheduler.others = (
                f"slots {_shown(slots)} are open: looking whether another tool moves them"
            )

    def __enter__(self) -> OthersWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._scheduler.others = ""
        for wire in self._wires.values():
            wire.close()

    def look_at(self, cluster: Cluster) -> None:
        """Take who the primaries are now."""
        self._members = {member.id: member for member in cluster.primaries if member.answered}

    def _run(self) -> None:
        while not self._ended.wait(max(_LOOK_SECONDS, _SECONDS_PER_NODE * len(self._members))):
            self._take(self._look())

    def _look(self) -> View:
        seen = []
        for member in list(self._members.values()):
            try:
                if member.address not in self._wires:
                    self._wires[member.address] = Wire(self._connector, member.address)
                (own,) = own_line(self._wires[member.address]).values()
            except (SlotferryError, ValueError):
                if (broken := self._wires.pop(member.address, None)) is not None:
                    broken.close()
                continue
            seen.append(replace(own, answered=True))
        return View.of(seen)

    def _take(self, view: View) -> None:
        """Compare with the look before; a node that was not seen then or is not now tells nothing."""
        now = time.monotonic()
        both = self._before.owned.keys() & view.owned.keys()
        if what := changes(_only(self._before, both), _only(view, both), self.expected):
            self._still_since = now
            self._scheduler.others = what
        elif now - self._still_since >= _CALM_SECONDS:
            self._scheduler.others = ""
        self._before = View(
            {**self._before.owned, **view.owned},
            view.opened | {mark for mark in self._before.opened if mark[0] not in view.owned},
        )


def _only(view: View, nodes: Iterable[str]) -> View:
    kept = set(nodes)
    return View(
        {node: slots for node, slots in view.owned.items() if node in kept},
        frozenset(mark for mark in view.opened if mark[0] in kept),
    )
