"""Mending: what `health` has found is put right, slot by slot.

Invariant: a key that two nodes hold with different values stays on both, and both versions are in a file,
until a person has said which one to keep. The cluster's lock is held; a cluster whose slots are moving under
somebody else's hands is left alone. Whatever ends it, the same again finds what is left: the cluster says it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slotferry.admin import Connector
from slotferry.cancel import CancelRequest
from slotferry.errors import ExitCode, MigrationInterrupted, RefusedError, SlotferryError
from slotferry.job_names import default_journal_path
from slotferry.reshard.care import Care, Gate
from slotferry.reshard.cluster_lock import cluster_lock
from slotferry.reshard.conflicts import ConflictFile, Keep
from slotferry.reshard.copying import discard_recorded
from slotferry.reshard.hangup import Hangup, looking
from slotferry.reshard.health import Finding, Health, group, look
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.members import Cluster, Member
from slotferry.reshard.methods import Moved, Pair
from slotferry.reshard.setslot import SetslotMigrate
from slotferry.reshard.wire import Wire, format_ranges, is_error, slot_commands, text_of

Choice = Literal["ask", "owner", "other"]
_SETTLE_SECONDS = 1.0  # between two looks that tell a mover from what it left behind
_ROUNDS = 4  # mending one thing may show another
_AT_ONCE = 64


@dataclass
class FixReport:
    """What was mended and what not. `conflicts` keys differ between two nodes; `file` has both versions."""

    mended: int = 0
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
            "mended_slots": self.mended,
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
    """Mend what `look` finds. Raises `SlotferryError`; what was mended until then stays so.

    `keep` decides where a key differs between two nodes: `owner` keeps what the slot's owner holds, `other`
    the other node's, `ask` leaves both. `cancel_moves` ends the servers' own slot migrations first. `cancel`
    ends it after the slots in hand, or at once: then a node that does not answer is hung up on.
    """
    path = journal or default_journal_path()
    asked = cancel or CancelRequest()
    with looking(connector, asked):
        health = look(connector)
    with cluster_lock(path, health.cluster), ReshardJournal(path) as opened:
        file = conflicts or path.with_name("fix-conflicts.jsonl")
        fixer = _Fixer(connector, opened, keep, file, say, asked)
        try:
            with Hangup(connector, fixer.gate):
                return fixer.run(cancel_moves)
        except MigrationInterrupted as ending:
            raise MigrationInterrupted(
                f"interrupted; {len(fixer.mended):,} slots were mended",
                hint="run the same command again: it finds what is left",
                signal=asked.signal,
            ) from ending


class _Fixer:
    def __init__(
        self,
        connector: Connector,
        journal: ReshardJournal,
        keep: Choice,
        conflicts: Path,
        say: Callable[[str], None],
        cancel: CancelRequest,
    ) -> None:
        self.connector = connector
        self.journal = journal
        self.keep = keep
        self.say = say
        self.cancel = cancel
        self.gate = Gate(Care(), self.cancel)
        self.conflicts = ConflictFile(conflicts)
        self.report = FixReport(file=conflicts)
        self.mended: set[int] = set()

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
            before = self.report.conflicts, len(self.mended)
            self.once(health)
            health = self.look()
            self.report.conflicts = self.conflicts.count
            if (self.report.conflicts, len(self.mended)) == before:
                break
        self.journal.forget_open(set(self.journal.open_slots()) - set(health.cluster.open_slots))
        # With an answer, what differed is settled, and written down.
        self.report.conflicts = self.conflicts.count if self.keep == "ask" else 0
        self.report.mended = len(self.mended - {step.slot for step in health.steps})
        self.report.remaining = tuple(health.findings)
        return self.report

    def look(self) -> Health:
        with looking(self.connector, self.cancel):
            return look(self.connector)

    def settled(self) -> Health:
        """Return what is wrong, once two looks agree on it."""
        first = self.look()
        if not first.steps:
            return first
        time.sleep(_SETTLE_SECONDS)
        second = self.look()
        if first.holders != second.holders and _open_holders(first) != _open_holders(second):
            raise RefusedError(
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
                elif kind == "tell" and ends[0] is not None:
                    self.each(ends[0], slot_commands("SETSLOT", part, "NODE", target), part)
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
                    self.mended.add(slot)

    def assign(self, cluster: Cluster, owner: Member, slots: list[int]) -> None:
        """Give slots that nobody owns to a node, and tell the others."""
        self.each(owner, slot_commands("ADDSLOTS", slots), slots)
        with Wire(self.connector, owner.address) as wire:
            wire.call("CLUSTER", "BUMPEPOCH")  # so that its claim counts for more than any old one
        for member in cluster.primaries:
            if member.id != owner.id and member.answered:
                with Wire(self.connector, member.address) as wire:
                    wire.each(slot_commands("SETSLOT", slots, "NODE", owner.id))

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
        mover = SetslotMigrate(self.connector, pair, self.gate, self.conflicts, self.say)
        mover.keep = keep
        try:
            outcome: Moved = (
                mover.move(slots, lambda _keys, _size: None) if onward else mover.bring_home(slots)
            )
            if outcome.full is not None:  # what could not be moved on is closed again
                rest = [slot for slot in slots if slot not in outcome.moved and slot not in outcome.left]
                self.journal.forget_open(rest)  # what the target has is no copy
                back = mover.roll_back(rest, outcome, lambda _keys, _size: None)
                outcome.moved += back.closed
                outcome.left.update(back.stuck)
        except SlotferryError as error:
            if isinstance(error, RefusedError) or self.gate.abandoned:
                raise
            self.report.left.update(dict.fromkeys(slots, error.message))
            return
        finally:
            mover.close()
        self.mended.update(outcome.moved)
        self.report.left.update(outcome.left)


def _open_holders(health: Health) -> dict[int, dict[str, int]]:
    """Return who holds how many keys of the slots that are open."""
    return {slot: dict(health.holders.get(slot, {})) for slot in health.cluster.open_slots}
