"""Slots that can't be moved for want of memory at the target: closed again, their keys back at the source.

Invariant: a slot is closed only when the target holds no key of it; one that can't be closed stays open as it
was, so that its keys are found by ASK. The source is closed first: from then on it sends nobody to the target
any more, so that nothing new arrives there; what an ASK on its way still brings is looked for after the
target has been closed, and brought home too. (The other way round clients would be sent to and fro.)

A key that has been moved is not seen between the moment when its source is closed and the end of the one
MIGRATE that brings it home: a node takes no key that it lacks into a slot that it gives away. So that it is a
moment, such slots are taken one by one, and only where the source has room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from slotferry.errors import SlotferryError, TargetLostError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import encode
from slotferry.reshard.cluster.methods import Pair
from slotferry.reshard.cluster.wire import Wire, decode_key, is_error, slot_commands, text_of

_BATCH_KEYS = 100
_TIMEOUT_MS = 30_000
_SPARE_BYTES = 1_000_000  # less than that is as good as nothing: it would be full again at once
_ROUNDS = 10  # of looking for keys that come after all


class NoRoomError(TargetLostError):
    """A target has no memory left for a key; it is waited for."""


@dataclass
class RolledBack:
    """What became of the slots: `closed` again, or `stuck` open with the reason."""

    closed: list[int] = field(default_factory=list)
    stuck: dict[int, str] = field(default_factory=dict)


def has_room(wire: Wire) -> bool:
    """Whether a node is well below its maxmemory, or has none."""
    fields = wire.need_parsed(replies.info, "INFO", "memory")
    limit = replies.number_of(fields, "maxmemory")
    uncounted = replies.number_of(fields, "mem_not_counted_for_evict")
    counted = replies.number_of(fields, "used_memory") - uncounted
    return not limit or counted + _SPARE_BYTES < limit


def roll_back(
    connector: Connector, pair: Pair, source: Wire, target: Wire, slots: Sequence[int]
) -> RolledBack:
    """Close slots that are open on both ends; the source still owns them. Raises `SlotferryError`."""
    return _RollBack(connector, pair, source, target).run(slots)


class _RollBack:
    def __init__(self, connector: Connector, pair: Pair, source: Wire, target: Wire) -> None:
        self._connector = connector
        self._pair = pair
        self._source = source
        self._target = target
        self._result = RolledBack()

    def run(self, slots: Sequence[int]) -> RolledBack:
        held = set(self._target.filled(slots))
        fits = not held or has_room(self._source)
        untouched = [slot for slot in slots if slot not in held]
        self._source.each(slot_commands("SETSLOT", untouched, "STABLE"))
        self._target.each(slot_commands("SETSLOT", untouched, "STABLE"))
        late = self._target.filled(untouched)
        self._result.closed += [slot for slot in untouched if slot not in late]
        for slot in late:
            self._target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", self._pair.source.id)
            self._bring_home(slot)
        for slot in sorted(held):
            if fits:
                self._bring_home(slot)
            else:
                what = f"{self._pair.source} has no memory left to take its keys back"
                self._result.stuck[slot] = self._reason(what)
        return self._result

    def _bring_home(self, slot: int) -> None:
        source, target = self._pair.source.id, self._pair.target.id
        for _ in range(_ROUNDS):
            commands = self._migrations(slot)
            self._source.call("CLUSTER", "SETSLOT", slot, "STABLE")
            try:
                error = self._migrate(commands)
            except SlotferryError:
                self._source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
                raise
            if error is not None:
                self._source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
                self._result.stuck[slot] = self._reason(error)
                return
            if self._target.filled([slot]):
                continue
            self._target.call("CLUSTER", "SETSLOT", slot, "STABLE")
            if not self._target.filled([slot]):
                self._result.closed.append(slot)
                return
            self._target.call("CLUSTER", "SETSLOT", slot, "IMPORTING", source)
        self._source.call("CLUSTER", "SETSLOT", slot, "MIGRATING", target)
        self._result.stuck[slot] = self._reason("keys go on arriving at the target")

    def _migrations(self, slot: int) -> list[bytes]:
        """Return the commands that bring the slot's keys home."""
        peer, (username, password) = self._pair.source.peer, self._connector.login.current()
        auth: list[str] = []
        if password is not None:
            auth = ["AUTH2", username, password] if username else ["AUTH", password]
        (listed,) = self._target.each_keys([encode("CLUSTER", "GETKEYSINSLOT", slot, 1 << 30)])
        keys = [decode_key(key) for key in listed]
        head: list[str | int] = ["MIGRATE", peer.host, peer.port, "", 0, _TIMEOUT_MS, *auth, "KEYS"]
        batches = [keys[first : first + _BATCH_KEYS] for first in range(0, len(keys), _BATCH_KEYS)]
        return [encode(*head, *batch) for batch in batches]

    def _migrate(self, commands: Sequence[bytes]) -> str | None:
        """Bring keys home; return what went wrong."""
        self._target.set_timeout(_TIMEOUT_MS / 1000 * 2)
        for command in commands:
            self._target.send(command)
            (reply,) = self._target.lines(1)
            if is_error(reply):
                text = text_of(reply)
                return "a key differs between its two nodes" if "BUSYKEY" in text else text
        return None

    def _reason(self, what: str) -> str:
        return (
            f"open: keys of it lie on both nodes, {self._pair.target} has no memory left, and they were not "
            f"brought home: {what}; give one of the two room and run the same command again"
        )


def no_room(pair: Pair, text: str) -> SlotferryError:
    """Return the error for a target without memory."""
    return NoRoomError(
        f"the cluster has no memory left at {pair.target}: {text}",
        hint="raise its maxmemory or free some, then run the same command again",
    )
