"""What became of the slots that another tool has moved too, looked at when the moves have ended.

Invariant: a slot counts as moved only if the plan's target owns it at the end. A slot whose keys no node
holds any more is said to be that, not to be *where it was*.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Cluster, Member, read_cluster
from slotferry.reshard.cluster.wire import Wire, format_ranges, is_error, slot_commands
from slotferry.reshard.cluster.wire import count_of as keys_of
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.move.claim import CONTESTED, TAKEN
from slotferry.reshard.move.conflicts import ConflictFile
from slotferry.reshard.plan.drift import plan_shards
from slotferry.reshard.plan.model import Plan
from slotferry.reshard.repair.fix import repair_slots
from slotferry.reshard.tally import Tally
from slotferry.text import count_of

_DROPPED = (
    "unless clients have deleted them, a node dropped them when another one claimed the slot; "
    "restore them from a backup"
)


@dataclass(frozen=True)
class Contest:
    """Settles the contested slots of one run of `job`; `wait` returns when no other tool is at work."""

    connector: Connector
    plan: Plan
    journal: ReshardJournal
    job: str
    conflicts: ConflictFile
    cancel: CancelRequest
    say: Callable[[str], None]
    wait: Callable[[], None]

    def settle(self, tally: Tally) -> None:
        """Look where the slots are that were moved, and repair what a fight with another tool left.

        What another tool has given to another node since is not where the plan wants it. Raises
        `SlotferryError`.
        """
        cluster = read_cluster(self.connector)
        shards = plan_shards(self.plan, cluster, strict=False)
        goes = {move.slot: shards[move.target].id for move in self.plan.moves() if move.target in shards}
        contested = {slot for slot, why in tally.left.items() if why == CONTESTED}
        contested |= {s for s in tally.moved if s in goes and cluster.owners[s] != goes[s]}
        # A node that refused to be told whose they are.
        still_open = {s for s in tally.moved if any(_shows_open(m, s) for m in cluster.members.values())}
        if not contested | still_open:
            return
        if contested:
            self.say(f"slots {format_ranges(contested)} are claimed by others too; looking after their keys")
        if still_open := still_open - contested:
            self.say(f"slots {format_ranges(still_open)} are moved, but a node still shows them as open")
        contested |= still_open
        self.wait()
        wrong = repair_slots(self.connector, self.journal, contested, self.conflicts, self.say, self.cancel)
        cluster = read_cluster(self.connector)
        done = [slot for slot in contested if slot not in wrong and cluster.owners[slot] == goes.get(slot)]
        lost = self._lost(cluster, tally, contested)
        left = {slot: lost.get(slot) or wrong.get(slot, TAKEN) for slot in contested.difference(done)}
        left |= lost
        tally.moved.difference_update(left)
        tally.moved.update(slot for slot in done if slot not in left)
        for slot in done:
            tally.left.pop(slot, None)
        tally.left.update(left)
        self.journal.settle(self.job, [slot for slot in done if slot not in left], left, 0, 0)

    def _lost(self, cluster: Cluster, tally: Tally, slots: Iterable[int]) -> dict[int, str]:
        """Return, with what to say of them, the slots that had keys, of which no node holds one now.

        A server drops a slot's keys when it yields the slot to another one's claim; Redis 7.0.13 to 7.2.1 may
        even yield to an old one (redis/redis#12564).
        """
        had = [slot for slot in slots if tally.counted.get(slot)]
        held: set[int] = set()
        for member in cluster.primaries:
            if not member.answered:
                return {}  # it may be the one that holds them
            with Wire(self.connector, member.address) as wire:
                counts = wire.each(slot_commands("COUNTKEYSINSLOT", had))
            held |= {s for s, n in zip(had, counts, strict=True) if is_error(n) or keys_of(n)}
        return {
            slot: f"no node holds any of its {count_of(tally.counted[slot], 'key')} any more: {_DROPPED}"
            for slot in had
            if slot not in held
        }


def _shows_open(member: Member, slot: int) -> bool:
    return slot in member.migrating or slot in member.importing
