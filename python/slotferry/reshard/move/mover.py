"""Which pair of nodes moves which slots next.

Invariant: a slot is in the journal before it is opened. Moves run side by side, but a node takes from one
other at a time and gives to two at most, with one MIGRATE each.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from slotferry.errors import RESUME_HINT, MigrationInterrupted, RefusedError, SlotferryError
from slotferry.model.notices import Event, Notice
from slotferry.net.connector import Connector
from slotferry.net.link import lost
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import Method, MethodName, Moved, Pair, choose_method
from slotferry.reshard.cluster.wire import Wire, format_ranges
from slotferry.reshard.events import SlotsLeft
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.limits import Condition, Scheduler
from slotferry.reshard.move.atomic import RedisAtomic, ValkeyAtomic
from slotferry.reshard.move.conflicts import ConflictFile
from slotferry.reshard.move.copying import SlotCopier, can_copy
from slotferry.reshard.move.ends import Ends, both_answer
from slotferry.reshard.move.rollback import has_room
from slotferry.reshard.move.setslot import SetslotMigrate
from slotferry.reshard.plan.balance import Move
from slotferry.reshard.plan.model import Plan
from slotferry.reshard.tally import TICK_SECONDS, Tally

_FEEDS = 2  # targets that one source feeds at once at most
_GROUP_KEYS = 20_000  # keys that lie in slots open at one time
_GROUP_SECONDS = 2.0  # that a group may take where a rate is given
_NICENESS = 10
_METHODS: dict[str, Any] = {kind.name: kind for kind in (SetslotMigrate, ValkeyAtomic, RedisAtomic)}


@dataclass
class _Queue:
    """The slots that still go from one node to another, as the plan names the two."""

    source: str
    target: str
    slots: deque[int] = field(default_factory=deque)

    def is_alive(self, shards: Mapping[str, Member]) -> bool:
        return both_answer(self.source, self.target, shards)


_Running = dict[Future[Moved], tuple[_Queue, list[int]]]


@dataclass
class Mover:
    """Moves slots for one run of `job`; its methods keep their connections from one round to the next."""

    connector: Connector
    plan: Plan
    wanted: MethodName
    scheduler: Scheduler
    journal: ReshardJournal
    job: str
    conflicts: ConflictFile
    tally: Tally
    ends: Ends
    emit: Callable[[Event], None]
    expect: Callable[[Iterable[int], str, str], None]
    """Hears of slots before they are opened, and between which nodes they move."""
    full: dict[str, SlotferryError] = field(default_factory=dict)
    """Targets without memory, as the plan names them."""
    _methods: dict[tuple[str, str], Method] = field(default_factory=dict)
    _notices: deque[str] = field(default_factory=deque)  # of the workers

    def close(self) -> None:
        """Hang up; what moves next connects anew, and heeds the limits as they are then."""
        while self._methods:
            self._methods.popitem()[1].close()

    def look_at_full(self, shards: Mapping[str, Member]) -> None:
        """Forget those full targets that have room by now."""
        self.full = {end: error for end, error in self.full.items() if self._is_full(shards.get(end))}

    def _is_full(self, target: Member | None) -> bool:
        """Whether a target is still without memory; one that does not answer is not known to be."""
        if target is None:
            return False
        try:
            with Wire(self.connector, target.address) as wire:
                return not has_room(wire)
        except SlotferryError:
            return False

    def move(
        self,
        pool: ThreadPoolExecutor,
        cluster: Cluster,
        shards: Mapping[str, Member],
        todo: Sequence[Move],
        tick: Callable[[Condition], None],
    ) -> SlotferryError | None:
        """Move until nothing is left, the scheduler holds, or there is trouble, which is returned.

        Then nothing is open that need not be. `tick` is called about ten times a second.
        """
        queues = _queues(todo)
        running: _Running = {}
        trouble: SlotferryError | None = None
        while running or (queues and trouble is None):
            if trouble is None and not self.scheduler.holds:
                self._start(pool, cluster, shards, queues, running)
            if not running:
                break
            done, _ = wait(running, timeout=TICK_SECONDS, return_when=FIRST_COMPLETED)
            for future in done:
                queue, slots = running.pop(future)
                trouble = self._take(future, queue, slots) or trouble
            queues = [queue for queue in queues if queue.slots]
            while self._notices:
                self.emit(Notice(self._notices.popleft()))
            tick(self.scheduler.condition)
        if (
            trouble is None
            and queues
            and not self.scheduler.holds
            and not any(q.is_alive(shards) and q.target not in self.full for q in queues)
        ):
            trouble = next(iter(self.full.values()), None) or _nobody(queues[0], self.plan)
        return trouble

    def _start(
        self,
        pool: ThreadPoolExecutor,
        cluster: Cluster,
        shards: Mapping[str, Member],
        queues: list[_Queue],
        running: _Running,
    ) -> None:
        """Give every pair of idle nodes its next group of slots; the longest queue goes first."""
        gives = Counter(queue.source for queue, _ in running.values())
        takes = {queue.target for queue, _ in running.values()}
        for queue in sorted(queues, key=lambda queue: -len(queue.slots)):
            if not queue.slots or queue.target in self.full or not queue.is_alive(shards):
                continue
            if queue.target in takes:
                continue
            source, target = shards[queue.source], shards[queue.target]
            name = choose_method(source, target, self.wanted)
            feeds = self._feeds(source, target, name)
            if gives[queue.source] >= feeds:
                continue
            slots = self._group(queue, name)
            self.expect(slots, source.id, target.id)
            self.journal.set_open(self.job, self.ends.allow_copies(source, target, name, slots))
            pair = self._pair(cluster, source, target, queue)
            shared = (
                feeds > 1 and sum(other.source == queue.source and bool(other.slots) for other in queues) > 1
            )
            running[pool.submit(self._move, name, pair, slots, shared)] = (queue, slots)
            gives[queue.source] += 1
            takes.add(queue.target)

    def _feeds(self, source: Member, target: Member, name: str) -> int:
        """Return how many targets a source feeds at once.

        With MIGRATE, keys go to one while the other is told of its slots. Slots that are handed over are
        closed while the next ones are copied: a second target would only be more for clients to wait for.
        """
        handed_over = (
            name == "setslot" and can_copy(source, target) and bool(self.ends.processes.get(source.id))
        )
        return 1 if handed_over or self.scheduler.limits.pause_above_latency is not None else _FEEDS

    def _pair(self, cluster: Cluster, source: Member, target: Member, queue: _Queue) -> Pair:
        return Pair(
            source,
            target,
            tuple(m for m in cluster.primaries if m.id not in (source.id, target.id)),
            frozenset(self.plan.node(queue.source).nodes),
            frozenset(self.plan.node(queue.target).nodes),
        )

    def _group(self, queue: _Queue, name: str) -> list[int]:
        """Take the next slots off a queue: as many as may be open together."""
        kind = _METHODS[name]
        most_bytes = float(kind.most_bytes)
        if (rate := self.scheduler.limits.max_bytes_per_second) is not None:
            # What is in hand is finished before a pause or the end; and the servers' own moves know no limit:
            # what is slowed down is the pace of the groups.
            most_bytes = min(most_bytes, _GROUP_SECONDS * rate)
        most_keys = _GROUP_KEYS if name == "setslot" else 1 << 62
        group: list[int] = []
        keys = 0
        while queue.slots and len(group) < kind.most_slots:
            keys += self.tally.counted.get(queue.slots[0], 0)
            if group and (keys > most_keys or keys * self.plan.key_bytes > most_bytes):
                break
            group.append(queue.slots.popleft())
        return group

    def _move(self, name: str, pair: Pair, slots: list[int], shared: bool) -> Moved:
        """Move a group; runs in a worker."""
        key = (pair.source.id, pair.target.id)
        method = self._methods.get(key)
        try:
            if method is None or method.name != name:
                method = self._methods[key] = self._make(name, pair)
            if name == "setslot":
                return method.move(slots, self.tally.add, shared=shared)
            # The servers tell no bytes of what they move by themselves: these are the plan's estimate.
            moved = method.move(
                slots,
                lambda keys, _size: self.tally.add(keys, round(keys * self.plan.key_bytes)),
                shared=shared,
            )
            moved.bytes = round(moved.keys * self.plan.key_bytes)
            self.scheduler.pay(moved.bytes)
            return moved
        except BaseException:
            # Its connections may hold replies that nobody has read.
            if (broken := self._methods.pop(key, None)) is not None:
                broken.close()
            raise

    def _make(self, name: str, pair: Pair) -> Method:
        if name == "valkey-atomic":
            return ValkeyAtomic(self.connector, pair, self.scheduler)
        if name == "redis-atomic":
            return RedisAtomic(self.connector, pair, self.scheduler)
        copier = None
        if process := self.ends.processes.get(pair.source.id):
            copier = SlotCopier(
                *(
                    self.connector,
                    pair,
                    self.scheduler,
                    self.conflicts,
                    self._notices.append,
                    self.job,
                    process,
                )
            )
        return SetslotMigrate(
            *(self.connector, pair, self.scheduler, self.conflicts, self._notices.append),
            copier=copier,
            recorded=lambda slot: self.ends.copies.get(slot, ""),
        )

    def _take(self, future: Future[Moved], queue: _Queue, slots: list[int]) -> SlotferryError | None:
        """Write down what became of a group. Return what is worth another try."""
        tally = self.tally
        try:
            outcome = future.result()
        except MigrationInterrupted:
            raise
        except RefusedError:
            raise
        except SlotferryError as error:
            queue.slots.extendleft(reversed(slots))
            return error
        for slot in slots:
            tally.stuck.pop(slot, None)
        rest = [slot for slot in slots if slot not in outcome.moved and slot not in outcome.left]
        if outcome.full is not None:
            queue.slots.extendleft(reversed(rest))
            self.full[queue.target] = outcome.full
            try:
                self._roll_back(queue, rest, outcome)
            except SlotferryError as error:
                return error
            rest = [slot for slot in rest if slot not in tally.stuck]
        else:
            queue.slots.extendleft(reversed(rest))
        self.journal.settle(self.job, outcome.moved, outcome.left, outcome.keys, outcome.bytes)
        if rest:
            self.journal.forget_open(rest)
        tally.moved.update(outcome.moved)
        tally.left.update(outcome.left)
        for reason in dict.fromkeys(outcome.left.values()):
            which = [slot for slot, why in outcome.left.items() if why == reason]
            self.emit(SlotsLeft(format_ranges(which), reason))
        return None

    def _roll_back(self, queue: _Queue, slots: list[int], outcome: Moved) -> None:
        """Close slots again of which the target, which is full, has perhaps taken some keys."""
        # First they are no copies any more: what lies on the target must not be taken for one and dropped.
        self.journal.set_open(self.job, dict.fromkeys(slots, ""))
        self.ends.copies.update(dict.fromkeys(slots, ""))
        for key, method in list(self._methods.items()):
            if not isinstance(method, SetslotMigrate):
                continue
            if queue.source not in method.pair.source_ids or queue.target not in method.pair.target_ids:
                continue
            try:
                self.tally.stuck.update(method.roll_back(slots, outcome, self.tally.add).stuck)
            except SlotferryError:
                self._methods.pop(key).close()
                raise


def lower_priority() -> None:
    """Let others on this machine, such as a node, have the processor before this thread.

    Nothing waits for a mover: a slot is served all the while. Elsewhere than on Linux nothing is done.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            # There, 0 is the calling thread. Added, so that whoever was made to give way more still does.
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS)


def _queues(todo: Sequence[Move]) -> list[_Queue]:
    queues: dict[tuple[str, str], _Queue] = {}
    for move in todo:
        key = (move.source, move.target)
        queues.setdefault(key, _Queue(*key)).slots.append(move.slot)
    return list(queues.values())


def _nobody(queue: _Queue, plan: Plan) -> SlotferryError:
    return lost(
        "cluster",
        f"has no primary for {plan.node(queue.source).address} or {plan.node(queue.target).address}",
        "see whether these nodes run; " + RESUME_HINT,
    )
