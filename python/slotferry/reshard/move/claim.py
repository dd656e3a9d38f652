"""Making slots the target's, once the source holds no key of them.

Invariant: while a slot's keys lie on the target alone, no claim that the target has heard or will hear
outbids its own. A node that hears a higher epoch claim a slot which it owns yields it, and deletes its keys;
while it imports the slot it does neither (`clusterUpdateSlotsConfigWith` of every server). The import ends

- at the target first, in one transaction with the new epoch, where nothing else moves slots: the source hears
  of both at once, its epoch stays what the target has outbid, and clients are never sent to and fro;
- at the source first, where another tool is at work. Finishing an import of its own, the source would rise
  above the target's epoch while it still claims the slots. So it gives them up, by a script that does it only
  where the slot is on its way to our target still; and the target claims them when it knows every epoch that
  the source may have claimed them with.

The other tool's slots are as safe: the target's epoch does not rise while a slot is on its way from it to
another node, whose claim it might outbid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import encode, lost
from slotferry.reshard.cluster.members import Member
from slotferry.reshard.cluster.methods import Pair, itself, nodes_of
from slotferry.reshard.cluster.wire import Wire, is_error, slot_commands, text_of

CONTESTED = "open: another tool has opened it too; see 'slotferry reshard fix'"
TAKEN = "another tool has moved it to another node"
_EPOCH_SECONDS = 5.0
_EPOCH_DIGITS = 20  # an epoch has 64 bits
_NAP_SECONDS = 0.002

# Gives up each slot of ARGV[2...] that is on its way to the node ARGV[1] still; returns 1 for each that is
# given up. SETSLOT MIGRATING is refused where the slot is not this node's (any more).
_RELEASE = b"""local nodes = redis.call('CLUSTER','NODES') local done = {}
for i = 2, #ARGV do
  local ours = string.find(nodes, '['..ARGV[i]..'->-'..ARGV[1]..']', 1, true)
  local own = ours and redis.pcall('CLUSTER','SETSLOT',ARGV[i],'MIGRATING',ARGV[1])
  local gone = own and not own.err and redis.pcall('CLUSTER','SETSLOT',ARGV[i],'NODE',ARGV[1])
  done[i-1] = (gone and not gone.err) and 1 or 0
end
return done"""

# Makes the slots of ARGV[2...] this node's, whose id is ARGV[1]; does nothing, and returns 0, while a slot is
# on its way from it.
_CLAIM = b"""for line in string.gmatch(redis.call('CLUSTER','NODES'), '[^\\n]+') do
  if string.find(line, 'myself', 1, true) and string.find(line, '->-', 1, true) then return 0 end
end
for i = 2, #ARGV do redis.call('CLUSTER','SETSLOT',ARGV[i],'NODE',ARGV[1]) end
return 1"""


class Claim:
    """Makes slots of one pair of nodes the target's; belongs to one thread at a time."""

    def __init__(self, connector: Connector, pair: Pair, is_quiet: Callable[[], bool]) -> None:
        """`is_quiet` says whether no other tool is seen to move slots."""
        self._connector = connector
        self._pair = pair
        self._is_quiet = is_quiet
        self._others: dict[Address, Wire] = {}
        self._unreachable: set[Address] = set()

    def close(self) -> None:
        """Hang up."""
        for wire in self._others.values():
            wire.close()
        self._others.clear()

    def make(self, source: Wire, target: Wire, slots: Sequence[int]) -> list[int]:
        """Make emptied slots, which are open on both ends, the target's; return those that are by then.

        The others are contested: somebody else has opened them meanwhile. The source must be the one that was
        emptied: where it has been failed over, its successor may hold keys that the target's claim would
        delete. Raises `SlotferryError`.
        """
        seen = nodes_of(target)
        here = itself(source, self._pair.source)
        there = itself(target, self._pair.target, seen)
        known = seen.get(self._pair.source.id)
        if known is None or not known.is_primary or known.is_down:
            raise lost(
                "cluster",
                f"has failed over {self._pair.source} in the middle",
                "it goes on with its successor",
            )
        if any(slot not in there.importing and slot not in there.slots for slot in slots):
            raise self.lost_state()
        if any(slot in here.slots and slot not in here.migrating for slot in slots):
            raise self.lost_state()
        into = self._pair.target.id
        ours = [slot for slot in slots if slot in here.slots and here.migrating.get(slot) == into]
        ours = self._spare_importer(source, here, ours)
        if self._is_quiet() and not here.importing and known.epoch == here.epoch and len(ours) == len(slots):
            self._end_imports(target, ours)
            source.each(self._node_commands(ours))  # what it may refuse (it is a replica by now) it hears of
        elif ours:
            self._await_still(target)
            self._await_epoch(source, target)
            ours = self._release(source, ours)
            self._claim_released(source, target, ours)
        self._tell(ours)
        return ours

    def finish(self, source: Wire, target: Wire, slots: Sequence[int]) -> list[int]:
        """Claim those of the slots that the source has given up and the target imports still; return them.

        That is how a run ends that was killed between the two. Raises `SlotferryError`.
        """
        if not slots:
            return []
        here, there = nodes_of(source), nodes_of(target)
        imports = itself(target, self._pair.target, there).importing
        into = here.get(self._pair.target.id)
        taken = {
            slot
            for views in (here, there)
            for m in views.values()
            if _is_other(m, self._pair)
            for slot in m.slots
        }
        given = [s for s in slots if s in imports and s not in taken and into is not None and s in into.slots]
        if given:
            self._claim_released(source, target, given)
            self._tell(given)
        return given

    def lost_state(self) -> SlotferryError:
        """Return the error for slots that are open no more."""
        return lost(
            "cluster", f"lost the state of open slots at {self._pair.source}", "they are opened again"
        )

    def _node_commands(self, slots: Sequence[int]) -> list[bytes]:
        return slot_commands("SETSLOT", slots, "NODE", self._pair.target.id)

    def _release(self, source: Wire, slots: Sequence[int]) -> list[int]:
        """Let the source give up those of the slots that it still moves to the target; return them."""
        if self._pair.source.product == "redis":
            source.send(encode("EVAL", _RELEASE, 0, self._pair.target.id, *slots))
            reply = source.reply()
            if not is_error(reply):
                flags = source.take(lambda reply: _exactly(reply, len(slots)), reply, "EVAL")
                return [slot for slot, done in zip(slots, flags, strict=True) if done == 1]
        # A server that blocks SETSLOT in scripts, or a user who may run none.
        replies = source.each(self._node_commands(slots))
        return [slot for slot, one in zip(slots, replies, strict=True) if not is_error(one)]

    def _claim_released(self, source: Wire, target: Wire, slots: Sequence[int]) -> None:
        """Make slots the target's that the source has given up: clients find them nowhere until then."""
        if not slots:
            return
        self._await_epoch(source, target)
        reply: object = 0
        while self._pair.target.product == "redis" and reply == 0 and not self._is_quiet():
            target.send(encode("EVAL", _CLAIM, 0, self._pair.target.id, *slots))
            reply = target.reply()
            if reply == 0:
                time.sleep(_NAP_SECONDS)
        if reply != 1:
            self._end_imports(target, slots)

    def _spare_importer(self, source: Wire, here: Member, slots: list[int]) -> list[int]:
        """Return the slots that may be given away: not the last one of a node that imports others.

        It would become a replica, and forget the keys that are there already.
        """
        while here.importing and here.slots.issubset(slots) and not self._is_quiet():
            time.sleep(_NAP_SECONDS)
            here = itself(source, self._pair.source)
        return slots[:-1] if here.importing and here.slots.issubset(slots) else slots

    def _await_still(self, target: Wire) -> None:
        """Wait until no slot is on its way from the target, or the one that moves it has ended."""
        while not self._is_quiet() and itself(target, self._pair.target).migrating:
            time.sleep(_NAP_SECONDS)

    def _await_epoch(self, source: Wire, target: Wire) -> None:
        """Wait until the target knows every epoch that the source knows, and so any that it has had."""
        wanted = _epoch(source)
        deadline = time.monotonic() + _EPOCH_SECONDS
        while _epoch(target) < wanted:
            if time.monotonic() > deadline:
                raise lost(
                    "cluster",
                    f"does not let {self._pair.target} know of the epoch of {self._pair.source}",
                    "see whether these nodes reach each other's bus ports",
                )
            time.sleep(_NAP_SECONDS)

    def _end_imports(self, target: Wire, slots: Sequence[int]) -> None:
        """Make the slots the target's own, in its eyes.

        For each slot that it imports, a node broadcasts its whole map, and every other one goes through all
        slots of it. In a transaction, in which nothing is heard in between, it is enough to claim the last
        one as imported, which makes the epoch the highest and tells of all; for the others the import ends
        before.
        """
        if not slots:
            return
        claims = self._node_commands(slots)
        replies: Sequence[bytes] | None = None
        if self._pair.target.product == "redis" and len(slots) > 1:
            closed = slot_commands("SETSLOT", slots[:-1], "STABLE")
            replies = _in_transaction(target, [*closed, *claims])
        replies = target.each(claims) if replies is None else replies[len(slots) - 1 :]
        for slot, reply in zip(slots, replies, strict=True):
            if is_error(reply):
                raise lost(
                    "cluster",
                    f"could not close slot {slot} at {self._pair.target}: {text_of(reply)}",
                    "see its log",
                )

    def _tell(self, slots: Sequence[int]) -> None:
        """Tell the bystanders; whom we can't reach, the gossip tells."""
        commands = self._node_commands(slots)
        for member in self._pair.others if slots else ():
            if not member.is_primary or member.is_down or member.address in self._unreachable:
                continue
            try:
                if member.address not in self._others:
                    self._others[member.address] = Wire(self._connector, member.address)
                self._others[member.address].each(commands)
            except SlotferryError:
                self._unreachable.add(member.address)  # one wait for a node that hangs is enough
                if (broken := self._others.pop(member.address, None)) is not None:
                    broken.close()


def _is_other(member: Member, pair: Pair) -> bool:
    return member.id not in (pair.source.id, pair.target.id)


def _in_transaction(wire: Wire, commands: Sequence[bytes]) -> list[bytes] | None:
    """Return the replies to commands that a node runs in one go; None where it has run none of them.

    A node without memory lets nobody queue anything, and not every user may MULTI.
    """
    begun = wire.call("MULTI")
    if is_error(begun):
        return None
    wire.send(b"".join(commands) + encode("EXEC"))
    wire.lines(len(commands))
    done = wire.reply()
    if done is None or is_error(done):
        return None
    return wire.take(lambda reply: _exactly(reply, len(commands)), done, "EXEC")


def _exactly(reply: object, count: int) -> list[Any]:
    """Return the elements of an array of `count`. Raises `MalformedReplyError`."""
    elements = replies.array(reply, count)
    if len(elements) > count:
        raise replies.MalformedReplyError(f"of {len(elements)} elements, where {count} should be")
    return elements


def _epoch(wire: Wire) -> int:
    """Return the highest epoch that a node has heard of."""
    epoch = wire.need_parsed(replies.info, "CLUSTER", "INFO").get("cluster_current_epoch", "")
    if not epoch.isdecimal() or len(epoch) > _EPOCH_DIGITS:
        raise lost("cluster", f"does not tell its epoch at {wire.address}", "see that node's log")
    return int(epoch)
