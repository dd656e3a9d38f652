"""Giving a cluster's slots back to the primaries that had them when it was new, whatever was done to them.

Invariant: a slot's owner claims it before any other node hears of that. Redis 7.0.13 to 7.2.1 keep a mark
where they are told of an owner that does not claim the slot (yet), and with it, when the slot is theirs
again, any late message of that owner takes it from them, with its keys (redis/redis#12564).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from slotferry.testing.servers import LocalServer, wait_until
from tests.servers.raw import RawConnection, ServerError

_SLOTS = 16_384


def home_slots(count: int) -> list[range]:
    """Return which slots each of `count` primaries has in a new cluster."""
    return [range(_SLOTS * i // count, _SLOTS * (i + 1) // count) for i in range(count)]


@dataclass(frozen=True)
class _Line:
    """A line of CLUSTER NODES."""

    id: str
    epoch: int
    slots: frozenset[int]
    opened: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> _Line:
        node_id, _, _, _, _, _, epoch, _, *parts = text.split()
        slots: set[int] = set()
        opened = []
        for part in parts:
            if part.startswith("["):
                opened.append(int(part[1:].split("-")[0]))
                continue
            first, _, last = part.partition("-")
            slots.update(range(int(first), int(last or first) + 1))
        return cls(node_id, int(epoch), frozenset(slots), tuple(opened))


class SlotHomes:
    """Knows which node is whose, by the connections to a cluster's primaries, in their first order."""

    def __init__(self, primaries: Sequence[LocalServer], connections: Sequence[RawConnection]) -> None:
        self._names = [node.address for node in primaries]
        self._nodes = list(connections)
        self._ids = [self._text(i, "MYID") for i in range(len(primaries))]
        self._homes = [frozenset(slots) for slots in home_slots(len(primaries))]

    def give_back(self) -> None:
        """Make every slot its first owner's, closed, in the eyes of all nodes."""
        wait_until(self._are_home, f"the slots of {', '.join(self._names)} to be back", timeout=30)

    def _are_home(self) -> bool:
        """Whether all is as at the start; does what is to be done where it is not."""
        views = [self._view(i) for i in range(len(self._nodes))]
        for node, view in enumerate(views):
            for slot in view[self._ids[node]].opened:
                self._call(node, "SETSLOT", slot, "STABLE")
        for node, view in enumerate(views):
            missing = self._homes[node] - view[self._ids[node]].slots
            stranger = self._ids[node - 1]
            for slot in missing:
                # To end an import raises the epoch, and tells every node.
                with contextlib.suppress(ServerError):  # it has become the owner by now
                    self._call(node, "SETSLOT", slot, "IMPORTING", stranger)
                self._call(node, "SETSLOT", slot, "NODE", self._ids[node])
            if not missing and any(self._homes[node] - seen[self._ids[node]].slots for seen in views):
                self._call(node, "BUMPEPOCH")  # another one claims some of them, by an epoch as high
        return all(
            view[node_id].slots == home and not view[node_id].opened
            for view in views
            for node_id, home in zip(self._ids, self._homes, strict=True)
        )

    def _view(self, node: int) -> dict[str, _Line]:
        lines = (_Line.parse(text) for text in self._text(node, "NODES").splitlines())
        return {line.id: line for line in lines}

    def _text(self, node: int, *command: str) -> str:
        reply = self._call(node, *command)
        assert isinstance(reply, bytes), reply
        return reply.decode()

    def _call(self, node: int, *command: str | int) -> object:
        return self._nodes[node].execute("CLUSTER", *command)
