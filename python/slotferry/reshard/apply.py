"""Carrying out a plan: which pair of nodes moves which slots next, and what is written down.

Invariant: one process at a time moves slots of a cluster; a slot is in the journal before it is opened. Moves
run side by side, but a node takes from one other at a time and gives to two at most, with one MIGRATE each.
Whatever ends a run,
the same command again goes on: the cluster itself says which slots are done and which are open.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from slotferry.admin import Connector
from slotferry.cancel import CancelRequest
from slotferry.endpoints import Address
from slotferry.errors import (
    RESUME_HINT,
    JobLockedError,
    MigrationInterrupted,
    RefusedError,
    SlotferryError,
    UsageError,
)
from slotferry.events import Event, Notice
from slotferry.joblock import JobLock
from slotferry.options import default_journal_path
from slotferry.reshard.atomic import RedisAtomic, ValkeyAtomic
from slotferry.reshard.balance import Move
from slotferry.reshard.care import Care, Gate, LatencyWatch
from slotferry.reshard.conflicts import ConflictFile
from slotferry.reshard.copying import SlotCopier, can_copy, discard_recorded, lacking, process_of
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted, SlotsLeft
from slotferry.reshard.joining import Joining, meet, with_joining
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.members import Cluster, Member, read_cluster
from slotferry.reshard.methods import Method, Moved, Pair, choose_method
from slotferry.reshard.plan import Plan, make_plan
from slotferry.reshard.report import Report, Status
from slotferry.reshard.rollback import has_room
from slotferry.reshard.setslot import SetslotMigrate
from slotferry.reshard.wire import Wire, encode, format_ranges, is_error, parse_ranges, refused

MethodName = Literal["auto", "setslot", "atomic"]
_TICK = 0.1
_FEEDS = 2  # targets that one source feeds at once: while one is told of its slots, keys go to the other
_GROUP_KEYS = 20_000  # keys that lie in slots open at one time
_RETRY_NAP = 0.5
_RATE_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What may be chosen for a run.

    `job` names it in the journal (None: after the plan). `method`: `auto` takes atomic moves where both nodes
    know them. `retry_for` is how long (seconds) a lost or full node is waited for while nothing moves.
    `replan` makes a new plan of the same policy where the cluster has changed. `conflicts` is the file for
    keys that two nodes hold with different values (None: beside the journal).
    """

    job: str | None = None
    journal: Path | None = None
    method: MethodName = "auto"
    retry_for: float = 300.0
    replan: bool = False
    conflicts: Path | None = None

    def __post_init__(self) -> None:
        if self.method not in ("auto", "setslot", "atomic"):
            raise UsageError(f"{self.method!r} is no method", hint="use auto, setslot or atomic")

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.journal or default_journal_path()


def apply_plan(
    connector: Connector,
    plan: Plan,
    options: Options | None = None,
    *,
    care: Care | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelRequest | None = None,
) -> Report:
    """Carry out `plan` in this thread and return how it ended; see `Plan.apply`.

    A run that ends because of a lost cluster or an interruption is in the report's `error`. Raises
    `SlotferryError` where the run was refused: nothing has moved then.
    """
    return _Applier(connector, plan, options or Options(), care or Care(), on_event, cancel).run()


@contextmanager
def cluster_lock(journal: Path, cluster: Cluster) -> Iterator[None]:
    """Hold the cluster's lock: that of each of its primaries, so that any two looks at it share one."""
    with ExitStack() as stack:
        for member in sorted(cluster.primaries, key=lambda member: member.id):
            try:
                stack.enter_context(JobLock(journal, f"reshard-{member.id}"))
            except JobLockedError as error:  # noqa: PERF203 - a handful of nodes
                holder = error.message.rpartition(" by ")[2]
                raise JobLockedError(
                    f"slots of this cluster are being moved by {holder}",
                    hint="wait until it has ended, or stop it",
                ) from None
        yield


@dataclass
class _Queue:
    """The slots that still go from one node to another, as the plan names the two."""

    source: str
    target: str
    slots: deque[int] = field(default_factory=deque)


class _Applier:
    def __init__(
        self,
        connector: Connector,
        plan: Plan,
        options: Options,
        care: Care,
        on_event: Callable[[Event], None] | None,
        cancel: CancelRequest | None,
    ) -> None:
        self.connector = connector
        self.plan = plan
        self.options = options
        self.emit = on_event or (lambda _: None)
        self.cancel = cancel or CancelRequest()
        self.gate = Gate(care, self.cancel)
        self.job = options.job or f"reshard-{plan.digest[:12]}"
        self.left: dict[int, str] = {}
        self.moved: set[int] = set()
        self.full: dict[str, SlotferryError] = {}  # by target, as the plan names it
        self.stuck: dict[int, str] = {}  # slots that are open for want of memory
        self.notices: deque[str] = deque()
        self.counts = threading.Lock()
        self.keys = self.bytes = 0  # of this run, as they arrive
        self.before = (0, 0)  # of the runs before
        self.counted: dict[int, int] = {}
        self.methods: dict[tuple[str, str], Method] = {}
        self.copies: dict[int, str] = {}  # by slot: the process that it may be copied from
        self.processes: dict[str, str] = {}  # by node id
        self.told_slow = False
        self.foreign: set[int] = set()  # slots of which their target holds keys already
        self.known: list[Address] = []
        self.method_names: set[str] = set()
        self.run_number = 0
        self.resumed = False

    def run(self) -> Report:
        begun = time.monotonic()
        cluster = read_cluster(self.connector)
        with (
            cluster_lock(self.options.journal_path, cluster),
            ReshardJournal(self.options.journal_path) as journal,
        ):
            cluster = read_cluster(self.connector)  # what the one before us has left
            plan_shards(self.plan, cluster)
            cluster = self._follow(self._joining(cluster)[0])
            joins: list[Joining] = []
            if self.plan.joins:
                cluster, joins = self._joining(read_cluster(self.connector))
            self.conflicts = ConflictFile(self._conflict_path(journal.path))
            if self.plan.balanced:
                return self._end(None, begun, journal, "balanced")
            self._check_rights(cluster)
            self.run_number, self.resumed = journal.begin(self.job, self.plan)
            record = journal.job(self.job)
            self.before = (record.keys, record.bytes) if record else (0, 0)
            error: SlotferryError | None = None
            try:
                if discard_recorded(self.connector, cluster, journal, self.conflicts, self._notice):
                    cluster, joins = self._joining(read_cluster(self.connector))
                self.copies = {slot: process for _, slot, process in journal.copied_from()}
                shards = plan_shards(self.plan, cluster)
                todo = self._to_do(cluster, shards, journal)
                if todo and self.gate.closed() is None:
                    if joins:
                        cluster = self._let_join(cluster, joins)
                        shards = plan_shards(self.plan, cluster)
                    self._work(journal, cluster, shards, todo)
            except SlotferryError as failure:
                error = failure
            except KeyboardInterrupt as failure:
                error = MigrationInterrupted("interrupted", hint=RESUME_HINT)
                error.__cause__ = failure
            finally:
                for method in self.methods.values():
                    method.close()
            return self._end(error, begun, journal)

    # Before anything moves

    def _follow(self, cluster: Cluster) -> Cluster:
        """Check that the cluster is still the plan's; with `replan` make another one where it is not."""
        drift = drift_of(self.plan, cluster)
        if drift is None:
            return cluster
        if not self.options.replan:
            raise drift
        self.emit(Notice(f"{drift.message}; planning anew"))
        self.plan = make_plan(self.connector, self.plan.policy)
        return read_cluster(self.connector)

    def _joining(self, cluster: Cluster) -> tuple[Cluster, list[Joining]]:
        """Return the cluster as it will be, and the plan's nodes that are no members of it yet."""
        missing = [join.address for join in self.plan.joins if join.id not in cluster.members]
        return with_joining(self.connector, cluster, missing)

    def _let_join(self, cluster: Cluster, joins: Sequence[Joining]) -> Cluster:
        self.emit(Notice(f"letting {', '.join(join.address for join in joins)} join the cluster"))
        meet(self.connector, cluster, joins, self.gate.check_abandoned)
        return read_cluster(self.connector)

    def _conflict_path(self, journal: Path) -> Path:
        return self.options.conflicts or journal.with_name(f"{self.job}-conflicts.jsonl")

    def _check_rights(self, cluster: Cluster) -> None:
        """Find out before the first slot whether the user may do it; STABLE on a closed slot does nothing."""
        shards = plan_shards(self.plan, cluster)
        open_slots = set(cluster.open_slots)
        probe = next((s for s in range(len(cluster.owners)) if s not in open_slots), None)
        ends = {end for transfer in self.plan.transfers for end in (transfer.source, transfer.target)}
        for end in sorted(ends):
            member = shards.get(end)
            if member is None:
                continue
            with Wire(self.connector, member.address) as wire:
                self._check_node(wire, member, probe)

    def _check_node(self, wire: Wire, member: Member, probe: int | None) -> None:
        key = f"slotferry:probe:{time.time_ns()}"  # of no one: MIGRATE answers NOKEY
        commands = [
            ("MIGRATE", encode("MIGRATE", member.peer.host, member.peer.port, key, 0, 1)),
            ("CLUSTER COUNTKEYSINSLOT", encode("CLUSTER", "COUNTKEYSINSLOT", 0)),
            # What MIGRATE asks of the target as the same user; the payload is none, so nothing is stored.
            ("SELECT", encode("SELECT", 0)),
            ("RESTORE-ASKING", encode("RESTORE-ASKING", key, 0, "none")),
        ]
        if probe is not None:
            commands.insert(0, ("CLUSTER SETSLOT", encode("CLUSTER", "SETSLOT", probe, "STABLE")))
        for name, command in commands:
            wire.send(command)
            reply = wire.reply()
            if is_error(reply) and reply.startswith((b"-NOPERM", b"-NOAUTH")):
                raise refused(str(member), name, reply)
        if self._method_name(member, member) == "setslot":
            _check_databases(wire, member)

    def _method_name(self, source: Member, target: Member) -> str:
        best = choose_method(source, target)
        if self.options.method == "setslot":
            return "setslot"
        if self.options.method == "atomic" and best == "setslot":
            raise RefusedError(
                f"{source} and {target} know no atomic moves",
                hint="they take Valkey ≥ 9 or Redis ≥ 8.4 on both nodes; use --method auto",
            )
        return best

    # The work

    def _work(
        self, journal: ReshardJournal, cluster: Cluster, shards: Mapping[str, Member], todo: list[Move]
    ) -> None:
        self._count_keys(cluster, todo)
        self._look_at_ends(cluster, shards, todo)
        names = {self._method_name(shards[m.source], shards[m.target]) for m in todo if _both(m, shards)}
        self.method_names = names
        self.emit(
            ReshardStarted(
                *(self.job, self.run_number, self.resumed, self.plan.cluster, ", ".join(sorted(names))),
                slots=len(self.plan.moves()),
                keys=sum(self.counted.values()) + self.before[0],
                open_slots=len({move.slot for move in todo} & set(cluster.open_slots)),
            )
        )
        ticker = _Ticker(self)
        addresses = sorted({m.address for m in shards.values()})
        last_move, told = time.monotonic(), ""
        workers = max(1, len(shards) - 1)
        with (
            LatencyWatch(self.connector, self.gate, addresses),
            ThreadPoolExecutor(workers, thread_name_prefix="slotferry-move") as pool,
        ):
            while todo and self.gate.closed() is None:
                done_before = len(self.moved) + self.keys
                trouble = self._round(journal, pool, cluster, shards, todo, ticker)
                if len(self.moved) + self.keys > done_before:
                    last_move, told = time.monotonic(), ""
                if trouble is not None:
                    if time.monotonic() - last_move > self.options.retry_for:
                        raise trouble
                    if trouble.message != told:
                        told = trouble.message
                        self.emit(Notice(f"{told}; trying again"))
                    self._nap(ticker, "a target is full" if self.full else "a node is away")
                    cluster = self._look_again(cluster)
                    shards = plan_shards(self.plan, cluster, strict=False)
                    self.full = {end: e for end, e in self.full.items() if self._is_full(shards.get(end))}
                    self._look_at_ends(cluster, shards, todo)
                todo = self._to_do(cluster, shards, journal)
        self.gate.check_abandoned()

    def _is_full(self, target: Member | None) -> bool:
        """Whether a target is still without memory; one that does not answer is not known to be."""
        if target is None:
            return False
        try:
            with Wire(self.connector, target.address) as wire:
                return not has_room(wire)
        except SlotferryError:
            return False

    def _nap(self, ticker: _Ticker, reason: str) -> None:
        deadline = time.monotonic() + _RETRY_NAP
        while time.monotonic() < deadline:
            self.gate.check_abandoned()
            ticker.tick(reason)
            time.sleep(_TICK)

    def _look_again(self, before: Cluster) -> Cluster:
        try:
            return read_cluster(self.connector, known=self.known)
        except SlotferryError:
            return before

    def _to_do(self, cluster: Cluster, shards: Mapping[str, Member], journal: ReshardJournal) -> list[Move]:
        """Return the moves that are not done, those of open slots first."""
        self.known = [member.address for member in cluster.members.values()]
        open_slots = set(cluster.open_slots)
        todo, done = [], []
        for move in self.plan.moves():
            if move.slot in self.moved or move.slot in self.left:
                continue
            target = shards.get(move.target)
            if target is not None and cluster.owners[move.slot] == target.id and move.slot not in open_slots:
                done.append(move.slot)
            else:
                todo.append(move)
        self.moved.update(done)
        if done:
            journal.settle(self.job, done, {}, 0, 0)
        return sorted(todo, key=lambda move: (move.slot not in open_slots, move.slot))

    def _count_keys(self, cluster: Cluster, todo: Sequence[Move]) -> None:
        """Count the keys of what is to be moved, for the size of the groups and for the progress."""
        by_owner: dict[str, list[int]] = {}
        for move in todo:
            owner = cluster.owners[move.slot]
            if owner is not None:
                by_owner.setdefault(owner, []).append(move.slot)
        for owner, slots in by_owner.items():
            with Wire(self.connector, cluster.members[owner].address) as wire:
                counts = wire.each([encode("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots])
            self.counted.update(
                (slot, int(count[1:]))
                for slot, count in zip(slots, counts, strict=True)
                if not is_error(count)
            )

    def _look_at_ends(self, cluster: Cluster, shards: Mapping[str, Member], todo: Sequence[Move]) -> None:
        """Learn which process serves the sources, and of which slots the targets hold keys already.

        Such a slot is not copied, but for what is known to be a copy: its keys may be there alone.
        """
        self.processes = {}
        self.foreign = set()
        sources = {shards[move.source].id for move in todo if _copied(move, shards)}
        goes: dict[str, list[int]] = {}
        for move in todo:
            if _copied(move, shards):
                goes.setdefault(shards[move.target].id, []).append(move.slot)
        for node in sources | goes.keys():
            try:
                member = cluster.members[node]
                with Wire(self.connector, member.address) as wire:
                    if command := lacking(wire):
                        self._say_slow(f"{member}: the user may not run {command}")
                        self.foreign.update(goes.get(node, []))
                        continue
                    if node in sources:
                        self.processes[node] = process_of(wire, member)
                    slots = goes.get(node, [])
                    counts = wire.each([encode("CLUSTER", "COUNTKEYSINSLOT", slot) for slot in slots])
                    self.foreign.update(s for s, count in zip(slots, counts, strict=True) if count != b":0")
            except SlotferryError:
                self.foreign.update(goes.get(node, []))  # what it is, its moves will tell

    def _notice(self, text: str) -> None:
        self.emit(Notice(text))

    def _say_slow(self, why: str) -> None:
        """Tell, once, why slots go the slow way."""
        if not self.told_slow:
            self.told_slow = True
            self.emit(Notice(f"slots are moved by MIGRATE, which is slower: {why}"))

    def _round(
        self,
        journal: ReshardJournal,
        pool: ThreadPoolExecutor,
        cluster: Cluster,
        shards: Mapping[str, Member],
        todo: Sequence[Move],
        ticker: _Ticker,
    ) -> SlotferryError | None:
        """Move until nothing is left, it is time to stop, or there is trouble, which is returned."""
        queues = self._queues(todo)
        running: dict[Future[Moved], tuple[_Queue, list[int]]] = {}
        trouble: SlotferryError | None = None
        while running or (queues and trouble is None):
            if trouble is None and self.gate.closed() is None:
                self._start(journal, pool, cluster, shards, queues, running)
            if not running:
                break
            done, _ = wait(running, timeout=_TICK, return_when=FIRST_COMPLETED)
            for future in done:
                queue, slots = running.pop(future)
                trouble = self._take(journal, future, queue, slots) or trouble
            queues = [queue for queue in queues if queue.slots]
            while self.notices:
                self.emit(Notice(self.notices.popleft()))
            ticker.tick(self.gate.reason)
        if (
            trouble is None
            and queues
            and self.gate.closed() is None
            and not any(_alive(q, shards) and q.target not in self.full for q in queues)
        ):
            trouble = next(iter(self.full.values()), None) or _nobody(queues[0], self.plan)
        return trouble

    def _queues(self, todo: Sequence[Move]) -> list[_Queue]:
        queues: dict[tuple[str, str], _Queue] = {}
        for move in todo:
            key = (move.source, move.target)
            queues.setdefault(key, _Queue(*key)).slots.append(move.slot)
        return list(queues.values())

    def _start(
        self,
        journal: ReshardJournal,
        pool: ThreadPoolExecutor,
        cluster: Cluster,
        shards: Mapping[str, Member],
        queues: list[_Queue],
        running: dict[Future[Moved], tuple[_Queue, list[int]]],
    ) -> None:
        """Give every pair of idle nodes its next group of slots; the longest queue goes first."""
        feeds = _FEEDS if self.gate.care.pause_above_latency is None else 1
        gives = Counter(queue.source for queue, _ in running.values())
        takes = {queue.target for queue, _ in running.values()}
        for queue in sorted(queues, key=lambda queue: -len(queue.slots)):
            if not queue.slots or queue.target in self.full or not _alive(queue, shards):
                continue
            if gives[queue.source] >= feeds or queue.target in takes:
                continue
            source, target = shards[queue.source], shards[queue.target]
            name = self._method_name(source, target)
            slots = self._group(queue, name)
            self.copies.update(self._may_copy(source, target, name, slots))
            journal.set_open(self.job, {slot: self.copies[slot] for slot in slots})
            pair = self._pair(cluster, source, target, queue)
            shared = (
                feeds > 1 and sum(other.source == queue.source and bool(other.slots) for other in queues) > 1
            )
            running[pool.submit(self._move, name, pair, slots, shared)] = (queue, slots)
            gives[queue.source] += 1
            takes.add(queue.target)

    def _may_copy(self, source: Member, target: Member, name: str, slots: Sequence[int]) -> dict[int, str]:
        """Return the process that each slot may be copied from; empty where it may not."""
        process = self.processes.get(source.id, "") if name == "setslot" else ""
        if not can_copy(source, target):
            process = ""
        return {
            slot: process if slot not in self.foreign or self.copies.get(slot) == process else ""
            for slot in slots
        }

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
        per_key = self.plan.bytes / self.plan.keys if self.plan.keys else 0.0
        most_bytes = float(kind.most_bytes)
        if self.gate.care.max_bytes_per_second is not None and name != "setslot":
            # The servers' own moves know no limit: what is slowed down is the pace of the groups.
            most_bytes = min(most_bytes, 2.0 * self.gate.care.max_bytes_per_second)
        most_keys = _GROUP_KEYS if name == "setslot" else 1 << 62
        group: list[int] = []
        keys = 0
        while queue.slots and len(group) < kind.most_slots:
            keys += self.counted.get(queue.slots[0], 0)
            if group and (keys > most_keys or keys * per_key > most_bytes):
                break
            group.append(queue.slots.popleft())
        return group

    def _move(self, name: str, pair: Pair, slots: list[int], shared: bool) -> Moved:
        """Move a group; runs in a worker."""
        key = (pair.source.id, pair.target.id)
        method = self.methods.get(key)
        try:
            if method is None or method.name != name:
                method = self.methods[key] = self._make(name, pair)
            return method.move(slots, self._told, shared=shared)
        except BaseException:
            # Its connections may hold replies that nobody has read.
            if (broken := self.methods.pop(key, None)) is not None:
                broken.close()
            raise

    def _make(self, name: str, pair: Pair) -> Method:
        if name == "valkey-atomic":
            return ValkeyAtomic(self.connector, pair, self.gate)
        if name == "redis-atomic":
            return RedisAtomic(self.connector, pair, self.gate)
        copier = None
        if process := self.processes.get(pair.source.id):
            copier = SlotCopier(
                *(self.connector, pair, self.gate, self.conflicts, self.notices.append, self.job, process)
            )
        return SetslotMigrate(
            *(self.connector, pair, self.gate, self.conflicts, self.notices.append),
            copier=copier,
            recorded=lambda slot: self.copies.get(slot, ""),
        )

    def _told(self, keys: int, size: int) -> None:
        with self.counts:
            self.keys += keys
            self.bytes += size

    def _take(
        self, journal: ReshardJournal, future: Future[Moved], queue: _Queue, slots: list[int]
    ) -> SlotferryError | None:
        """Write down what became of a group. Return what is worth another try."""
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
            self.stuck.pop(slot, None)
        rest = [slot for slot in slots if slot not in outcome.moved and slot not in outcome.left]
        if outcome.full is not None:
            queue.slots.extendleft(reversed(rest))
            self.full[queue.target] = outcome.full
            try:
                self._roll_back(journal, queue, rest, outcome)
            except SlotferryError as error:
                return error
            rest = [slot for slot in rest if slot not in self.stuck]
        journal.settle(self.job, outcome.moved, outcome.left, outcome.keys, outcome.bytes)
        if rest:
            journal.forget_open(rest)
        self.moved.update(outcome.moved)
        self.left.update(outcome.left)
        for reason in dict.fromkeys(outcome.left.values()):
            which = [slot for slot, why in outcome.left.items() if why == reason]
            self.emit(SlotsLeft(format_ranges(which), reason))
        return None

    def _roll_back(self, journal: ReshardJournal, queue: _Queue, slots: list[int], outcome: Moved) -> None:
        """Close slots again of which the target, which is full, has perhaps taken some keys."""
        # First they are no copies any more: what lies on the target must not be taken for one and dropped.
        journal.set_open(self.job, dict.fromkeys(slots, ""))
        self.copies.update(dict.fromkeys(slots, ""))
        for key, method in list(self.methods.items()):
            if not isinstance(method, SetslotMigrate):
                continue
            if queue.source not in method.pair.source_ids or queue.target not in method.pair.target_ids:
                continue
            try:
                self.stuck.update(method.roll_back(slots, outcome, self._told).stuck)
            except SlotferryError:
                self.methods.pop(key).close()
                raise

    # The end

    def _end(
        self,
        error: SlotferryError | None,
        begun: float,
        journal: ReshardJournal,
        status: Status | None = None,
    ) -> Report:
        closed = self.gate.closed()
        if self.stuck:
            journal.settle(self.job, [], self.stuck, 0, 0)
            self.left.update(self.stuck)
        remaining = len(self.plan.moves()) - len(self.moved) - len(self.left)
        if error is None and self.cancel.level:
            error = self.cancel.error()
        if status is None:
            if isinstance(error, MigrationInterrupted):
                status = "interrupted"
            elif error is not None:
                status = "failed"
            elif remaining:
                status = "work_left"
            else:
                status = "slots_left" if self.left else "completed"
        stopped = closed if status == "work_left" else None
        report = self._report(
            status, begun, stopped.reason if stopped else "", stopped.until if stopped else None, error
        )
        if self.run_number:
            journal.end(self.job, self.run_number, report)
        self.emit(ReshardEnded(report))
        return report

    def _report(
        self,
        status: Status,
        begun: float,
        reason: str = "",
        opens_at: float | None = None,
        error: SlotferryError | None = None,
    ) -> Report:
        elapsed = time.monotonic() - begun
        return Report(
            job=self.job,
            status=status,
            method=", ".join(sorted(self.method_names)),
            moved=len(self.moved),
            remaining=len(self.plan.moves()) - len(self.moved) - len(self.left),
            left=dict(self.left),
            keys=self.before[0] + self.keys,
            bytes=self.before[1] + self.bytes,
            elapsed_seconds=elapsed,
            keys_per_second=self.keys / elapsed if elapsed else 0.0,
            runs=self.run_number,
            resumed=self.resumed,
            conflicts=self.conflicts.count,
            reason=reason,
            opens_at=opens_at,
            error=error,
        )


class _Ticker:
    """Tells the progress, at most once a tick, with the rate of the last seconds."""

    def __init__(self, applier: _Applier) -> None:
        self._applier = applier
        self._begun = time.monotonic()
        self._next = 0.0
        self._past: deque[tuple[float, int]] = deque()

    def tick(self, reason: str) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _TICK
        applier = self._applier
        self._past.append((now, applier.keys))
        while now - self._past[0][0] > _RATE_SECONDS:
            self._past.popleft()
        since, keys = self._past[0]
        rate = (applier.keys - keys) / (now - since) if now - since > 0.5 else None
        applier.emit(
            ReshardProgress(
                slots_done=len(applier.moved),
                slots=len(applier.plan.moves()),
                keys_moved=applier.before[0] + applier.keys,
                keys=applier.before[0] + sum(applier.counted.values()),
                bytes_moved=applier.before[1] + applier.bytes,
                keys_per_second=rate,
                elapsed_seconds=now - self._begun,
                reason=reason,
            )
        )


_METHODS: dict[str, Any] = {kind.name: kind for kind in (SetslotMigrate, ValkeyAtomic, RedisAtomic)}


def plan_shards(plan: Plan, cluster: Cluster, *, strict: bool = True) -> dict[str, Member]:
    """Return who leads each node of the plan now, by the plan's id. Raises where none of them is there."""
    shards = {node.id: member for node in plan.nodes if (member := cluster.shard_of(node.nodes)) is not None}
    if strict and not any(set(node.nodes) & cluster.members.keys() for node in plan.nodes):
        raise RefusedError(
            f"the plan is for another cluster: {plan.cluster}", hint="give it the cluster that it was made of"
        )
    return shards


def drift_of(plan: Plan, cluster: Cluster) -> RefusedError | None:
    """Return how the cluster differs from what the plan started from, beyond what the plan itself does."""
    if plan.fingerprint == cluster.fingerprint:
        return None
    shards = plan_shards(plan, cluster)
    hint = "look at a new plan, or let 'slotferry reshard apply --replan' make it and go on with it"
    for node in plan.nodes:
        if node.id not in shards and (node.slots or any(node.id == t.target for t in plan.transfers)):
            return RefusedError(
                f"the cluster has changed since the plan was made: {node.address} is no primary of it now",
                hint=hint,
            )
    goes = {move.slot: move.target for move in plan.moves()}
    wrong: dict[str, list[int]] = {}
    for node in plan.nodes:
        for slot in parse_ranges(node.slots):
            fine = {shards[end].id for end in (node.id, goes.get(slot, node.id)) if end in shards}
            owner = cluster.owners[slot]
            if owner not in fine:
                wrong.setdefault(str(cluster.members[owner]) if owner else "nobody", []).append(slot)
    if not wrong:
        return None
    owner, slots = next(iter(wrong.items()))
    return RefusedError(
        f"the cluster has changed since the plan was made: slots {_shown(slots)} are served by {owner}",
        hint=hint,
    )


def _shown(slots: Sequence[int]) -> str:
    text = format_ranges(slots)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _both(move: Move, shards: Mapping[str, Member]) -> bool:
    return all(end in shards and shards[end].answered for end in (move.source, move.target))


def _copied(move: Move, shards: Mapping[str, Member]) -> bool:
    return _both(move, shards) and can_copy(shards[move.source], shards[move.target])


def _alive(queue: _Queue, shards: Mapping[str, Member]) -> bool:
    return all(end in shards and shards[end].answered for end in (queue.source, queue.target))


def _nobody(queue: _Queue, plan: Plan) -> SlotferryError:
    from slotferry.admin import lost

    return lost(
        "cluster",
        f"has no primary for {plan.node(queue.source).address} or {plan.node(queue.target).address}",
        "see whether these nodes run; " + RESUME_HINT,
    )


def _check_databases(wire: Wire, member: Member) -> None:
    """Refuse MIGRATE where other databases hold keys: it would leave them behind, to be deleted."""
    text: bytes = wire.need("INFO", "keyspace")
    databases = [line.partition(":")[0] for line in text.decode().splitlines() if line.startswith("db")]
    if others := [name for name in databases if name != "db0"]:
        raise RefusedError(
            f"{member} holds keys in {', '.join(others)}, which SETSLOT and MIGRATE do not move",
            hint="use --method auto: atomic moves take every database",
        )
