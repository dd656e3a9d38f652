"""Mending: what `health` has found is put right, slot by slot.

Invariant: a key that two nodes hold with different values stays on both, and both versions are in a file,
until a person has said which one to keep. The cluster's lock is held; a cluster whose slots are moving under
somebody else's hands is left alone. Whatever ends it, the same again finds what is left: the cluster says it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from slotferry._core import SLOTS
from slotferry.errors import ExitCode, MigrationInterrupted, RefusedError, SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.hangup import looking
from slotferry.jobs.names import default_journal_path
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.lock import cluster_lock
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import Moved, Pair
from slotferry.reshard.cluster.presence import Presence
from slotferry.reshard.cluster.wire import Wire, format_ranges, is_error, slot_commands, text_of
from slotferry.reshard.hangup import Hangup
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.limits import Limits, Scheduler
from slotferry.reshard.move.conflicts import ConflictFile, Keep
from slotferry.reshard.move.copying import discard_recorded
from slotferry.reshard.move.setslot import SetslotMigrate
from slotferry.reshard.repair.health import Finding, Health, group, look
from slotferry.text import count_of

Choice = Literal["ask", "owner", "other"]
_SETTLE_SECONDS = 1.0  # between two looks that tell a mover from what it left behind
_ROUNDS = 4  # mending one thing may show another
_AT_ONCE = 64
_MOVING_SECONDS = 60.0  # that another tool may go on to move slots which are to be repaired


@dataclass
class FixReport:
    """What was repaired and what not. `conflicts` keys differ between two nodes; `file` has both versions."""

    repaired: int = 0
    left: dict[int, str] = field(default_factory=dict)
    conflicts: int = 0
    file: Path | None = None
    remaining: tuple[Finding, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """0 where nothing is wrong any more, else 3."""
        return ExitCode.INCOMPLETE if self.remaining or self.conflicts else ExitCode.OK

    def to_dict(self) -> dict[str, Any]:
        """Return the summary."""
        return {
            "type": "summary",
            "status": "completed" if self.exit_code == ExitCode.OK else "incomplete",
            "repaired_slots": self.repaired,
            "left": [{"slot": slot, "reason": reason} for slot, reason in sorted(self.left.items())],
            "conflicts": self.conflicts,
            "conflicts_file": str(self.file) if self.conflicts else None,
            "remaining": [finding.to_dict() for finding in self.remaining],
        }


def fix(
    connector: Connector,
    *,
    journal: Path | None = None,
    keep: Choice = "ask",
    conflicts: Path | None = None,
    cancel_moves: bool = False,
    say: Callable[[str], None] = lambda _: None,
    cancel: CancelRequest | None = None,
) -> FixReport:
    """Mend what `look` finds. Raises `SlotferryError`; what was repaired until then stays so.

    `keep` decides where a key differs between two nodes: `owner` keeps what the slot's owner holds, `other`
    the other node's, `ask` leaves both. `cancel_moves` ends the servers' own slot migrations first. `cancel`
    ends it after the slots in hand, or at once: then a node that does not answer is hung up on.
    """
    path = journal or default_journal_path()
    asked = cancel or CancelRequest()
    with looking(asked, connector):
        health = look(connector)
    with (
        cluster_lock(path, health.cluster),
        Presence(connector, health.cluster.primaries, say),
        ReshardJournal(path) as opened,
    ):
        file = ConflictFile(conflicts or path.with_name("fix-conflicts.jsonl"))
        fixer = _Fixer(connector, opened, keep, file, say, asked)
        try:
            with Hangup(connector, fixer.scheduler):
                return fixer.run(cancel_moves)
        except MigrationInterrupted as ending:
            raise MigrationInterrupted(
                f"interrupted; {count_of(len(fixer.repaired), 'slot')} repaired",
                hint="run the same command again: it finds what is left",
                signal=asked.signal,
            ) from ending


class MovingError(RefusedError):
    """Another tool moves slots at this moment."""


def repair_slots(
    connector: Connector,
    journal: ReshardJournal,
    slots: Collection[int],
    conflicts: ConflictFile,
    say: Callable[[str], None],
    cancel: CancelRequest,
) -> dict[int, str]:
    """Mend slots that another tool has moved too; return those that could not be, with the reason.

    The cluster's lock is held, and what interrupts it is told by the reasons. Raises `SlotferryError`.
    """
    fixer = _Fixer(connector, journal, "ask", conflicts, say, cancel, slots)
    deadline = time.monotonic() + _MOVING_SECONDS
    while True:
        try:
            report = fixer.run(cancel_moves=False)
        except MovingError as error:
            if time.monotonic() < deadline:
                continue  # each try takes its time
            return dict.fromkeys(slots, f"open: {error.message}; see 'slotferry reshard fix'")
        wrong = {slot for finding in report.remaining for slot in finding.slots if slot in slots}
        return {
            slot: f"open: {report.left.get(slot, 'another tool has left it so')}; see 'slotferry reshard fix'"
            for slot in wrong
        }


class _Fixer:
    def __init__(
        self,
        connector: Connector,
        journal: ReshardJournal,
        keep: Choice,
        conflicts: ConflictFile,
        say: Callable[[str], None],
        cancel: CancelRequest,
        only: Container[int] = range(SLOTS),
    ) -> None:
        """Mend slots of `only`."""
        self.connector = connector
        self.journal = journal
        self.keep = keep
        self.say = say
        self.cancel = cancel
        self.scheduler = Scheduler(Limits(), self.cancel)
        self.only = only
        self.conflicts = conflicts
        self.report = FixReport(file=conflicts.path)
        self.repaired: set[int] = set()

    def run(self, cancel_moves: bool) -> FixReport:
        health = self.settled()
        if cancel_moves and health.moves:
            self.cancel_all(health)
            health = self.look()
        if discard_recorded(self.connector, health.cluster, self.journal, self.conflicts, self.say):
            health = self.look()
        for _ in range(_ROUNDS):
            if not health.steps:
                break
            before = self.report.conflicts, len(self.repaired)
            self.once(health)
            health = self.look()
            self.report.conflicts = self.conflicts.count
            if (self.report.conflicts, len(self.repaired)) == before:
                break
        self.journal.forget_open(set(self.journal.open_slots()) - set(health.cluster.open_slots))
        # With an answer, what differed is settled, and written down.
        self.report.conflicts = self.conflicts.count if self.keep == "ask" else 0
        self.report.repaired = len(self.repaired - {step.slot for step in health.steps})
        self.report.remaining = tuple(health.findings)
        return self.report

    def look(self) -> Health:
        with looking(self.cancel, self.connector):
            health = look(self.connector)
        return replace(health, steps=tuple(step for step in health.steps if step.slot in self.only))

    def settled(self) -> Health:
        """Return what is wrong, once two looks agree on it."""
        first = self.look()
        if not first.steps:
            return first
        time.sleep(_SETTLE_SECONDS)
        second = self.look()
        if first.holders != second.holders and _open_holders(first) != _open_holders(second):
            raise MovingError(
                "keys of open slots are being moved at this moment, by a reshard that is not ours",
                hint="wait until it has ended, or stop it, then try again",
            )
        return second

    def cancel_all(self, health: Health) -> None:
        for member in health.cluster.primaries:
            with Wire(self.connector, member.address) as wire:
                wire.call("CLUSTER", "CANCELSLOTMIGRATIONS")
                wire.call("CLUSTER", "MIGRATION", "CANCEL", "ALL")
        self.say("cancelled the servers' own slot migrations")

    def once(self, health: Health) -> None:
        cluster = health.cluster
        for kind, source, target, slots in group(health.steps):
            for first in range(0, len(slots), _AT_ONCE):
                self.cancel.check()
                part = slots[first : first + _AT_ONCE]
                self.say(f"{kind.replace('_', ' ')}: slots {format_ranges(part)}")
                ends = cluster.members.get(source), cluster.members.get(target)
                if kind == "assign" and ends[1] is not None:
                    self.assign(cluster, ends[1], part)
                elif kind == "tell" and ends[0] is not None and ends[1] is not None:
                    self.tell([ends[0]], ends[1], part)
                elif kind == "close" and ends[0] is not None:
                    self.each(ends[0], slot_commands("SETSLOT", part, "STABLE"), part)
                elif ends[0] is not None and ends[1] is not None:
                    self.move(cluster, kind == "move_on", ends[0], ends[1], part)

    def each(self, member: Member, commands: list[bytes], slots: list[int]) -> None:
        with Wire(self.connector, member.address) as wire:
            for slot, reply in zip(slots, wire.each(commands), strict=True):
                if is_error(reply):
                    self.report.left[slot] = f"{member}: {text_of(reply)}"
                else:
                    self.repaired.add(slot)

    def assign(self, cluster: Cluster, owner: Member, slots: list[int]) -> None:
        """Give slots that nobody owns to a node, and tell the others.

        It may take another one for the owner, and refuse ADDSLOTS then. To end an import makes it the owner
        whatever it believed, and its claim count for more than any old one.
        """
        others = [m for m in cluster.primaries if m.id != owner.id and m.answered]
        if not others:
            self.each(owner, slot_commands("ADDSLOTS", slots), slots)
            return
        with Wire(self.connector, owner.address) as wire:
            wire.each(slot_commands("SETSLOT", slots, "IMPORTING", others[0].id))
        self.each(owner, slot_commands("SETSLOT", slots, "NODE", owner.id), slots)
        self.tell(others, owner, slots)

    def tell(self, members: list[Member], owner: Member, slots: list[int]) -> None:
        """Tell nodes who owns slots, in a way that holds: with the epoch that counts for most."""
        for member in members:
            self.each(member, slot_commands("SETSLOT", slots, "NODE", owner.id), slots)
        with Wire(self.connector, owner.address) as wire:
            wire.call("CLUSTER", "BUMPEPOCH")

    def move(self, cluster: Cluster, onward: bool, source: Member, target: Member, slots: list[int]) -> None:
        """Move keys: onward from the owner to where they were going, or home to the owner."""
        keep: Keep = "ask"
        if self.keep != "ask":
            keep = "source" if (self.keep == "owner") == onward else "target"
        pair = Pair(
            source,
            target,
            tuple(m for m in cluster.primaries if m.id not in (source.id, target.id)),
            frozenset(cluster.members),
            frozenset(cluster.members),
        )
        mover = SetslotMigrate(self.connector, pair, self.scheduler, self.conflicts, self.say, keep=keep)
        try:
            outcome: Moved = (
                mover.move(slots, lambda _keys, _size: None) if onward else mover.move_back(slots)
            )
            if outcome.full is not None:  # what could not be moved on is closed again
                rest = [slot for slot in slots if slot not in outcome.moved and slot not in outcome.left]
                self.journal.forget_open(rest)  # what the target has is no copy
                back = mover.roll_back(rest, outcome, lambda _keys, _size: None)
                outcome.moved += back.closed
                outcome.left.update(back.stuck)
        except SlotferryError as error:
            if isinstance(error, RefusedError) or self.scheduler.abandoned:
                raise
            self.report.left.update(dict.fromkeys(slots, error.message))
            return
        finally:
            mover.close()
        self.repaired.update(outcome.moved)
        self.report.left.update(outcome.left)


def _open_holders(health: Health) -> dict[int, dict[str, int]]:
    """Return who holds how many keys of the slots that are open."""
    return {slot: dict(health.holders.get(slot, {})) for slot in health.cluster.open_slots}
