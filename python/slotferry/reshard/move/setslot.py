"""Slots moved by SETSLOT, as every server knows it: handed over whole where that can be, else by MIGRATE.

Invariant: a client sees a key on one node, never on none, and never an old copy of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from slotferry.errors import SlotferryError
from slotferry.net.connector import Connector
from slotferry.net.link import lost
from slotferry.reshard.cluster.members import Member
from slotferry.reshard.cluster.methods import Moved, OnProgress, Pair, correct_owner, itself, nodes_of
from slotferry.reshard.cluster.wire import (
    Wire,
    count_of,
    is_error,
    refused,
    slot_commands,
    text_of,
)
from slotferry.reshard.limits import Scheduler
from slotferry.reshard.move.claim import CONTESTED, Claim
from slotferry.reshard.move.conflicts import ConflictFile, Keep
from slotferry.reshard.move.copying import SlotCopier, replication_identity
from slotferry.reshard.move.key_batches import KeyBatches, Listed
from slotferry.reshard.move.rollback import NoRoomError, RolledBack, roll_back

_LAST_TRY_SECONDS = 2.0


class SetslotMigrate:
    """SETSLOT, pipelined over many slots: each one makes a node save its configuration."""

    name = "setslot"
    most_slots = 128
    most_bytes = 32_000_000

    def __init__(
        self,
        connector: Connector,
        pair: Pair,
        scheduler: Scheduler,
        conflicts: ConflictFile,
        notice: Callable[[str], None],
        copier: SlotCopier | None = None,
        recorded: Callable[[int], str] = lambda _slot: "",
        *,
        keep: Keep = "ask",
    ) -> None:
        """Connect. `recorded` says which process a slot may be copied from, as the journal has it.

        `keep` says what becomes of a key that differs between the two nodes.
        """
        self._copier = copier
        self._recorded = recorded
        self._connector = connector
        self.pair = pair
        self._scheduler = scheduler
        self._source = Wire(connector, pair.source.address)
        self._target = Wire(connector, pair.target.address)
        self._claim = Claim(connector, pair, lambda: not scheduler.others)
        self._seen_by_target: Mapping[str, Member] = {}
        self._keys = KeyBatches(connector, pair, scheduler, conflicts, notice, self._source, keep)
        self._to_close: list[int] = []  # handed over, and open still

    def close(self) -> None:
        """Hang up."""
        for wire in (self._source, self._target):
            wire.close()
        self._claim.close()
        if self._copier is not None:
            self._copier.close()

    def move(self, slots: Sequence[int], on_progress: OnProgress, *, shared: bool = False) -> Moved:
        """Move the slots, all of them open at once; see `Method.move`."""
        self._keys.begin(shared=shared)
        outcome = Moved()
        here, there = self._states()
        wanted = self._sort_out(slots, here, there, outcome)
        if not wanted:
            return outcome
        rest = self._hand_over(wanted, here, there, outcome, on_progress)
        if outcome.full is not None:
            return outcome
        if self._copier is not None and self._scheduler.holds:
            rest = self._leave_unbegun(rest, here)
        listed = self._keys.listed(rest, outcome, opened=here.migrating.keys())
        self._close_at_target([s for s in rest if s in outcome.left and s not in here.migrating])
        opened = self._open([slot for slot in rest if slot not in outcome.left], outcome)
        self._complete(opened, listed, outcome, on_progress)
        return outcome

    def _complete(
        self,
        slots: Sequence[int],
        listed: Mapping[int, Listed],
        outcome: Moved,
        on_progress: OnProgress,
    ) -> None:
        """Move the keys of open slots, and make the slots the target's."""
        try:
            conflicted = self._empty(slots, listed, outcome, on_progress)
        except NoRoomError as error:
            filled = set(self._source.filled(slots))
            self._finish([slot for slot in slots if slot not in filled], outcome)
            outcome.full = error
            return
        for slot in conflicted:
            outcome.left[slot] = "open: a key differs between its two nodes; see 'slotferry reshard fix'"
        self._finish([slot for slot in slots if slot not in conflicted], outcome)

    def _empty(
        self,
        slots: Sequence[int],
        listed: Mapping[int, Listed],
        outcome: Moved,
        on_progress: OnProgress,
    ) -> set[int]:
        """Move keys until none is left. Return the slots where keys stay because they differ."""
        conflicted: set[int] = set()
        remaining = list(slots)
        while remaining:
            before = outcome.keys
            tried = any(listed[slot].keys for slot in remaining)
            self._keys.move([(slot, listed[slot]) for slot in remaining], outcome, on_progress, conflicted)
            remaining = self._source.filled([slot for slot in remaining if slot not in conflicted])
            if remaining and tried and outcome.keys == before:
                self._scheduler.nap(0.05, "some keys do not move yet")
            listed = self._keys.listed(remaining, outcome, opened=None)
        return conflicted

    def roll_back(self, slots: Sequence[int], outcome: Moved, on_progress: OnProgress) -> RolledBack:
        """Close the slots that `move` has left open because the target was full.

        No process may be recorded any more that they are copied from: keys lie on the target alone now.
        """
        with self._scheduler.unbroken():  # keys on their way home are seen nowhere
            back = roll_back(self._connector, self.pair, self._source, self._target, slots)
        keys = sum(self._keys.sent.get(slot, (0, 0))[0] for slot in back.closed)
        size = sum(self._keys.sent.get(slot, (0, 0))[1] for slot in back.closed)
        outcome.keys -= keys
        outcome.bytes -= size
        on_progress(-keys, -size)
        return back

    def move_back(self, slots: Sequence[int]) -> Moved:
        """Give keys that lie on the source, though the target owns their slots, to the target."""
        self._keys.begin(homeward=True)
        outcome = Moved()
        target = self.pair.target.id
        correct_owner(self._source, slots, target)
        # Without it the source would not let MIGRATE have keys of a slot that is not its own.
        commands = slot_commands("SETSLOT", slots, "IMPORTING", target)
        ready = []
        for slot, reply in zip(slots, self._source.each(commands), strict=True):
            if is_error(reply):
                outcome.left[slot] = self._why_not_open(self.pair.source, reply)
            else:
                ready.append(slot)
        conflicted = self._empty(
            ready, self._keys.listed(ready, outcome, opened=None), outcome, lambda _keys, _size: None
        )
        for slot in conflicted:
            outcome.left[slot] = "open: a key differs between its two nodes"
        done = [slot for slot in ready if slot not in conflicted]
        self._source.each(slot_commands("SETSLOT", done, "STABLE"))
        outcome.moved += done
        return outcome

    # Before

    def _sort_out(self, slots: Sequence[int], here: Member, there: Member, outcome: Moved) -> list[int]:
        """Return the slots to move; what others have moved or opened is left to them."""
        source, target = self.pair.source, self.pair.target
        filled = set(self._source.filled([slot for slot in slots if slot in there.slots]))
        given = [slot for slot in slots if slot not in here.slots and slot in there.importing]
        finished = set(self._claim.finish(self._source, self._target, given))
        wanted = []
        for slot in slots:
            migrating, importing = here.migrating.get(slot), there.importing.get(slot)
            if slot in finished:
                outcome.moved.append(slot)
                continue
            if slot in there.slots and slot not in filled:
                self._close_leftovers(slot, here)
                outcome.moved.append(slot)
            elif slot in there.slots:
                outcome.left[slot] = f"{source} still holds keys of it: see 'slotferry reshard fix'"
            elif slot not in here.slots:
                outcome.left[slot] = f"another job has moved it away from {source}"
            elif migrating is not None and migrating not in (target.id, *self.pair.target_ids):
                outcome.left[slot] = f"another job has opened it, to move it to node {migrating[:8]}"
            elif importing not in (None, source.id, *self.pair.source_ids):
                outcome.left[slot] = f"another job has opened it on {target}"
            else:
                wanted.append(slot)
        return wanted

    def _states(self) -> tuple[Member, Member]:
        """Return both ends as they see themselves."""
        self._seen_by_target = nodes_of(self._target)
        return (
            itself(self._source, self.pair.source),
            itself(self._target, self.pair.target, self._seen_by_target),
        )

    def _close_leftovers(self, slot: int, here: Member) -> None:
        """Tell the source, which may not have heard of it, and close the slot on the target."""
        if slot in here.migrating or slot in here.slots:
            self._source.call("CLUSTER", "SETSLOT", slot, "NODE", self.pair.target.id)
        self._target.call("CLUSTER", "SETSLOT", slot, "STABLE")

    def _hand_over(
        self,
        slots: Sequence[int],
        here: Member,
        there: Member,
        outcome: Moved,
        on_progress: OnProgress,
    ) -> list[int]:
        """Hand over what can be handed over whole, a part at a time; return the slots that can't be.

        Each part is closed while the next one is copied: where a key of an open slot is missing, commands
        with several keys are refused, and replicas of the source answer that there is none.
        """
        copier = self._copier
        if copier is None or replication_identity(self._source, self.pair.source) != copier.process:
            return list(slots)
        fit = [s for s in slots if s not in here.migrating and self._recorded(s) == copier.process]
        filled = set(self._target.filled(fit))
        if left_over := [slot for slot in fit if slot in filled and slot in there.importing]:
            copier.discard(self._source, self._target, left_over)
            filled = set(self._target.filled(fit))
        fit = [slot for slot in fit if slot not in filled]
        counted = self._source.each(slot_commands("COUNTKEYSINSLOT", fit))
        counts = {
            slot: count_of(count) for slot, count in zip(fit, counted, strict=True) if not is_error(count)
        }
        self._to_close = []
        try:
            handed = self._hand_over_parts(copier, copier.parts(counts), here, outcome, on_progress)
            self._close_handed(outcome, on_progress)
        except Exception:
            with suppress(SlotferryError):
                self._close_after_failure(outcome, on_progress)
            raise
        return [slot for slot in slots if slot not in handed]

    def _hand_over_parts(
        self,
        copier: SlotCopier,
        parts: Iterable[list[int]],
        here: Member,
        outcome: Moved,
        on_progress: OnProgress,
    ) -> set[int]:
        """Return the slots that were handed over; the last of them are still to be closed."""
        handed: set[int] = set()
        for number, part in enumerate(parts):
            if self._scheduler.holds:
                break
            if self._scheduler.is_limited:
                self._close_handed(outcome, on_progress)  # no slot is open while one waits for a turn
            self._scheduler.check_abandoned()
            self._scheduler.wait_turn(0)
            if number:
                here, _ = self._states()
                if any(here.migrating.get(slot) != self.pair.target.id for slot in self._to_close):
                    raise self._claim.lost_state()
            closed = [slot for slot in part if slot in here.slots and slot not in here.migrating]
            correct_owner(self._target, closed, self.pair.source.id, self._seen_by_target)
            under_way = copier.begin(closed, self._source, self._target)
            try:
                self._close_handed(outcome, on_progress)
            finally:
                result = copier.end(under_way, on_progress)
                outcome.keys += result.keys
                outcome.bytes += result.bytes
                handed.update(result.slots)
                self._to_close += result.slots
            if result.error is not None:
                raise result.error
            if result.refused or outcome.full is not None:
                break
        return handed

    def _close_handed(self, outcome: Moved, on_progress: OnProgress) -> None:
        """Make slots the target's that were handed over, with what has come into them meanwhile."""
        slots = self._to_close
        self._complete(slots, dict.fromkeys(slots, Listed((), ())), outcome, on_progress)
        self._to_close = []

    def _close_after_failure(self, outcome: Moved, on_progress: OnProgress) -> None:
        """Close what was handed over, over new connections: to the old ones, replies may be outstanding."""
        if not self._to_close:
            return
        for wire in (self._source, self._target):
            wire.close()
        self._source = Wire(self._connector, self.pair.source.address)
        self._target = Wire(self._connector, self.pair.target.address)
        self._keys.source = self._source
        for wire in (self._source, self._target):
            wire.set_timeout(_LAST_TRY_SECONDS)
        # Some may be the target's already.
        self._to_close = self._sort_out(self._to_close, *self._states(), outcome)
        self._close_handed(outcome, on_progress)

    def _leave_unbegun(self, slots: Sequence[int], here: Member) -> list[int]:
        """Close what need not be begun any more; return the slots that an earlier run has begun."""
        begun = [slot for slot in slots if slot in here.migrating]
        self._close_at_target([slot for slot in slots if slot not in here.migrating])
        return begun

    def _close_at_target(self, slots: Sequence[int]) -> None:
        self._target.each(slot_commands("SETSLOT", slots, "STABLE"))

    def _open(self, slots: Sequence[int], outcome: Moved) -> list[int]:
        """Open the slots, on the target first. Return those that are open on both ends."""
        source, target = self.pair.source.id, self.pair.target.id
        correct_owner(self._target, slots, source)
        replies = self._target.each(slot_commands("SETSLOT", slots, "IMPORTING", source))
        opened = []
        for slot, reply in zip(slots, replies, strict=True):
            if is_error(reply):
                outcome.left[slot] = self._why_not_open(self.pair.target, reply)
            else:
                opened.append(slot)
        replies = self._source.each(slot_commands("SETSLOT", opened, "MIGRATING", target))
        ready = []
        for slot, reply in zip(opened, replies, strict=True):
            if is_error(reply):
                outcome.left[slot] = self._why_not_open(self.pair.source, reply)
                self._target.call("CLUSTER", "SETSLOT", slot, "STABLE")
            else:
                ready.append(slot)
        return ready

    def _why_not_open(self, node: Member, reply: bytes) -> str:
        if reply.startswith((b"-NOPERM", b"-NOAUTH")):
            raise refused(str(node), "CLUSTER SETSLOT", reply)
        text = text_of(reply)
        if "slot migration" in text or "in progress" in text.lower():
            raise lost("cluster", f"moves slots by itself at {node}: {text}", "wait until that has ended")
        return f"{node} does not open it: {text}"

    # After

    def _finish(self, slots: Sequence[int], outcome: Moved) -> None:
        """Make emptied slots the target's."""
        if not slots:
            return
        claimed = set(self._claim.make(self._source, self._target, slots))
        for slot in slots:
            if slot in claimed:
                outcome.moved.append(slot)
            else:
                outcome.left[slot] = CONTESTED
