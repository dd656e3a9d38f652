"""Carrying out a plan: one run from its first look at the cluster to its report.

Invariant: one process at a time moves slots of a cluster. Whatever ends a run, the same command again goes
on: the cluster itself says which slots are done and which are open.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from slotferry.errors import RESUME_HINT, MigrationInterrupted, SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.control_socket import ControlSocket
from slotferry.jobs.control.controls import Controls, Rates, Steering
from slotferry.jobs.control.hangup import looking
from slotferry.jobs.lock import JobLock
from slotferry.model.address import Address
from slotferry.model.notices import Event, Notice
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.lock import cluster_lock
from slotferry.reshard.cluster.members import Cluster, Member, read_cluster
from slotferry.reshard.cluster.methods import choose_method
from slotferry.reshard.cluster.presence import Presence
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.contested import Contest
from slotferry.reshard.control import Control
from slotferry.reshard.events import ReshardEnded, ReshardProgress, ReshardStarted
from slotferry.reshard.hangup import Hangup
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.limits import Condition, LatencyWatch, Limits, Scheduler
from slotferry.reshard.move.conflicts import ConflictFile
from slotferry.reshard.move.copying import discard_recorded
from slotferry.reshard.move.ends import Ends, both_answer, count_keys
from slotferry.reshard.move.mover import Mover, lower_priority
from slotferry.reshard.move.others import OthersWatch
from slotferry.reshard.move.permissions import check_rights
from slotferry.reshard.options import Options
from slotferry.reshard.plan.balance import Move
from slotferry.reshard.plan.drift import drift_of, plan_shards
from slotferry.reshard.plan.joining import Joining, meet, with_joining
from slotferry.reshard.plan.model import Plan
from slotferry.reshard.plan.planner import make_plan
from slotferry.reshard.repair.fix import repair_slots
from slotferry.reshard.report import Report, Status
from slotferry.reshard.tally import TICK_SECONDS, Tally, Ticker

_RETRY_NAP = 0.5
_NO_PROGRESS = ReshardProgress(
    *("connecting", ""),
    slots_done=0,
    slots=0,
    keys_moved=0,
    keys=0,
    bytes_moved=0,
    keys_per_second=None,
    elapsed_seconds=0.0,
)


def apply_plan(
    connector: Connector,
    plan: Plan,
    options: Options | None = None,
    *,
    limits: Limits | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelRequest | None = None,
    control: Control | None = None,
) -> Report:
    """Carry out `plan` in this thread and return how it ended; see `Plan.apply`.

    A run that ends because of a lost cluster or an interruption is in the report's `error`. Raises
    `SlotferryError` where the run was refused: nothing has moved then.
    """
    asked = control.request if control is not None else cancel
    applier = _Applier(connector, plan, options or Options(), limits or Limits(), on_event, asked)
    if control is not None:
        control.attach(applier.controls)
    return applier.run()


class _Applier:
    def __init__(
        self,
        connector: Connector,
        plan: Plan,
        options: Options,
        limits: Limits,
        on_event: Callable[[Event], None] | None,
        cancel: CancelRequest | None,
    ) -> None:
        self._connector = connector
        self._plan = plan
        self._options = options
        self._listener = on_event or (lambda _: None)
        # What is asked of this job alone ends no other one that shares the request.
        self._cancel = CancelRequest(within=cancel)
        self._scheduler = Scheduler(limits, self._cancel)
        rates = Rates(max_bytes_per_second=limits.max_bytes_per_second)
        self.controls = Controls(self._cancel, rates, counts_keys=False)
        self._steering = Steering(self.controls)
        self._job = options.job or f"reshard-{plan.digest[:12]}"
        self._tally = Tally()
        self._ticker = Ticker(self._tally, self._emit)
        self._progress = _NO_PROGRESS
        self._known: list[Address] = []
        self._method_names: set[str] = set()
        self._run_number = 0
        self._resumed = False

    def run(self) -> Report:
        with Hangup(self._connector, self._scheduler):
            return self._run()

    def _run(self) -> Report:
        begun = time.monotonic()
        path = self._options.journal_path
        cluster = self._first_look = read_cluster(self._connector)
        with (
            cluster_lock(path, cluster),
            JobLock(path, self._job, "reshard"),
            Presence(self._connector, cluster.primaries, self._notice) as self._presence,
            ReshardJournal(path) as journal,
            ControlSocket(path, self._job, self.controls, self._status, "reshard") as socket,
        ):
            if socket.complaint:
                self._notice(socket.complaint)
            cluster = read_cluster(self._connector)  # what the one before us has left
            plan_shards(self._plan, cluster)
            cluster = self._follow(self._joining(cluster)[0])
            joins: list[Joining] = []
            if self._plan.joins:
                cluster, joins = self._joining(read_cluster(self._connector))
            self._tally.slots = len(self._plan.moves())
            self._conflicts = ConflictFile(self._conflict_path(journal.path))
            if self._plan.balanced:
                return self._end(None, begun, journal, "balanced")
            check_rights(self._connector, self._plan, cluster, self._options.method)
            self._run_number, self._resumed = journal.begin(self._job, self._plan)
            record = journal.job(self._job)
            self._tally.before = (record.keys, record.bytes) if record else (0, 0)
            error: SlotferryError | None = None
            try:
                self._carry_out(journal, cluster, joins)
            except SlotferryError as failure:
                error = self._scheduler.reason_of(failure)
            except KeyboardInterrupt as failure:
                error = MigrationInterrupted("interrupted", hint=RESUME_HINT)
                error.__cause__ = failure
            return self._end(error, begun, journal)

    # Before anything moves

    def _follow(self, cluster: Cluster) -> Cluster:
        """Check that the cluster is still the plan's; with `replan` make another one where it is not."""
        drift = drift_of(self._plan, cluster)
        if drift is None:
            return cluster
        if not self._options.replan:
            raise drift
        self._notice(f"{drift.message}; planning anew")
        with looking(self._cancel, self._connector):
            self._plan = make_plan(self._connector, self._plan.policy)
        return read_cluster(self._connector)

    def _joining(self, cluster: Cluster) -> tuple[Cluster, list[Joining]]:
        """Return the cluster as it will be, and the plan's nodes that are no members of it yet."""
        missing = [join.address for join in self._plan.joins if join.id not in cluster.members]
        return with_joining(self._connector, cluster, missing)

    def _let_join(self, cluster: Cluster, joins: Sequence[Joining]) -> Cluster:
        self._notice(f"letting {', '.join(join.address for join in joins)} join the cluster")
        meet(self._connector, cluster, joins, self._scheduler.check_abandoned)
        return read_cluster(self._connector)

    def _conflict_path(self, journal: Path) -> Path:
        return self._options.conflicts or journal.with_name(f"{self._job}-conflicts.jsonl")

    # What is told, and asked

    def _notice(self, text: str) -> None:
        self._emit(Notice(text))

    def _emit(self, event: Event) -> None:
        if isinstance(event, ReshardProgress):
            self._progress = event
        self._listener(event)

    def _status(self) -> dict[str, Any]:
        """Return how the run is at this instant."""
        return {"job": self._job, "run": self._run_number, "pid": os.getpid(), **self._progress.to_dict()}

    def _tick(self, condition: Condition) -> None:
        """Hand on what was asked, and tell how far it is."""
        self._steer()
        self._ticker.tick(condition)

    def _steer(self) -> None:
        for change in self._steering.steer(self._scheduler):
            self._notice(change)

    # The work

    def _carry_out(self, journal: ReshardJournal, cluster: Cluster, joins: Sequence[Joining]) -> None:
        closing = self._open_outside_window(journal, cluster)
        if discard_recorded(self._connector, cluster, journal, self._conflicts, self._notice):
            cluster, joins = self._joining(read_cluster(self._connector))
        copies = {slot: process for _, slot, process in journal.copied_from()}
        if closing.intersection(cluster.open_slots):
            repair_slots(self._connector, journal, closing, self._conflicts, self._notice, self._cancel)
            cluster, joins = self._joining(read_cluster(self._connector))
        shards = plan_shards(self._plan, cluster)
        todo = self._to_do(cluster, shards, journal)
        if not todo or self._scheduler.closed() is not None:
            return
        if joins:
            cluster = self._let_join(cluster, joins)
            shards = plan_shards(self._plan, cluster)
        known = journal.open_slots().keys()
        with OthersWatch(self._connector, self._scheduler, cluster, self._first_look, known) as others:
            mover = Mover(
                *(self._connector, self._plan, self._options.method, self._scheduler, journal, self._job),
                *(self._conflicts, self._tally, Ends(self._connector, self._notice, copies), self._emit),
                others.expected.add,
            )
            try:
                self._work(mover, cluster, shards, todo, others)
            finally:
                mover.close()
            contest = Contest(
                *(self._connector, self._plan, journal, self._job, self._conflicts, self._cancel),
                *(self._notice, self._wait_for_others),
            )
            contest.settle(self._tally)

    def _work(
        self,
        mover: Mover,
        cluster: Cluster,
        shards: Mapping[str, Member],
        todo: list[Move],
        others: OthersWatch,
    ) -> None:
        self._tally.counted = count_keys(self._connector, cluster, todo)
        mover.ends.look(cluster, shards, todo)
        self._start_telling(cluster, shards, todo)
        addresses = sorted({m.address for m in shards.values()})
        last_move, noticed = time.monotonic(), ""
        workers = max(1, len(shards) - 1)
        with (
            LatencyWatch(self._connector, self._scheduler, addresses),
            ThreadPoolExecutor(workers, "slotferry-move", initializer=lower_priority) as pool,
        ):
            self._steer()  # a pause may have been asked for already
            while todo and self._scheduler.closed() is None:
                self._presence.check()
                done_before = self._tally.advance
                trouble = mover.move(pool, cluster, shards, todo, self._tick)
                if self._tally.advance > done_before:
                    last_move, noticed = time.monotonic(), ""
                held = trouble is None and self._scheduler.holds
                if trouble is not None:
                    if time.monotonic() - last_move > self._options.retry_for:
                        raise trouble
                    if trouble.message != noticed:
                        noticed = trouble.message
                        self._notice(f"{noticed}; trying again")
                    self._nap("a target is full" if mover.full else "a node is away")
                elif held:
                    self._hold(mover)
                    last_move = time.monotonic()
                if trouble is not None or (held and self._scheduler.closed() is None):
                    cluster = self._look_again(cluster)
                    self._presence.extend(cluster.primaries)
                    others.look_at(cluster)
                    shards = plan_shards(self._plan, cluster, strict=False)
                    mover.look_at_full(shards)
                    mover.ends.look(cluster, shards, todo)
                todo = self._to_do(cluster, shards, mover.journal)
        self._scheduler.check_abandoned()

    def _start_telling(self, cluster: Cluster, shards: Mapping[str, Member], todo: Sequence[Move]) -> None:
        self._method_names = {
            choose_method(shards[move.source], shards[move.target], self._options.method)
            for move in todo
            if both_answer(move.source, move.target, shards)
        }
        self._emit(
            ReshardStarted(
                *(self._job, self._run_number, self._resumed, self._plan.cluster),
                method=", ".join(sorted(self._method_names)),
                slots=self._tally.slots,
                keys=self._tally.all_keys,
                open_slots=len({move.slot for move in todo} & set(cluster.open_slots)),
            )
        )

    def _nap(self, reason: str) -> None:
        deadline = time.monotonic() + _RETRY_NAP
        while time.monotonic() < deadline:
            self._scheduler.check_abandoned()
            self._tick(Condition("waiting", reason))
            time.sleep(TICK_SECONDS)

    def _hold(self, mover: Mover) -> None:
        """Wait while the scheduler holds, without connections: servers may end silent ones."""
        mover.close()
        noticed = ""
        for condition in self._scheduler.held():
            self._tick(condition)
            if self._scheduler.others and not noticed:
                noticed = self._scheduler.others
                self._notice(f"{noticed}; waiting until it has ended")
            time.sleep(TICK_SECONDS)

    def _open_outside_window(self, journal: ReshardJournal, cluster: Cluster) -> set[int]:
        """Return what an earlier run has left open, to be closed though nothing may be begun now."""
        closed = self._scheduler.closed()
        opened = set(journal.slots(self._job, "open")).intersection(cluster.open_slots)
        if closed is None or self._cancel.level or not opened:
            return set()
        self._notice(
            f"{closed.reason}; closing slots {format_ranges(opened)}, which an earlier run left open"
        )
        return opened

    def _wait_for_others(self) -> None:
        while self._scheduler.others and not self._scheduler.abandoned:
            self._tick(Condition("waiting", self._scheduler.others))
            time.sleep(TICK_SECONDS)

    def _look_again(self, before: Cluster) -> Cluster:
        try:
            return read_cluster(self._connector, known=self._known)
        except SlotferryError:
            return before

    def _to_do(self, cluster: Cluster, shards: Mapping[str, Member], journal: ReshardJournal) -> list[Move]:
        """Return the moves that are not done, those of open slots first."""
        self._known = [member.address for member in cluster.members.values()]
        open_slots = set(cluster.open_slots)
        todo: list[Move] = []
        done: list[Move] = []
        for move in self._plan.moves():
            if move.slot in self._tally.moved or move.slot in self._tally.left:
                continue
            target = shards.get(move.target)
            if target is not None and cluster.owners[move.slot] == target.id and move.slot not in open_slots:
                done.append(move)
            else:
                todo.append(move)
        if done:
            keys, size = self._arrived(cluster, shards, journal, done)
            self._tally.add(keys, size)
            self._tally.moved.update(move.slot for move in done)
            journal.settle(self._job, [move.slot for move in done], {}, keys, size)
        return sorted(todo, key=lambda move: (move.slot not in open_slots, move.slot))

    def _arrived(
        self, cluster: Cluster, shards: Mapping[str, Member], journal: ReshardJournal, done: Sequence[Move]
    ) -> tuple[int, int]:
        """Return keys and bytes of what the servers went on to move while no run looked on."""
        begun = set(journal.slots(self._job, "open"))

        def by_servers(move: Move) -> bool:
            source, target = shards.get(move.source), shards.get(move.target)
            if source is None or target is None:
                return False
            return choose_method(source, target, self._options.method) != "setslot"

        arrived = [move for move in done if move.slot in begun and by_servers(move)]
        keys = sum(count_keys(self._connector, cluster, arrived).values())
        return keys, round(keys * self._plan.key_bytes)

    # The end

    def _end(
        self,
        error: SlotferryError | None,
        begun: float,
        journal: ReshardJournal,
        status: Status | None = None,
    ) -> Report:
        closed = self._scheduler.closed()
        tally = self._tally
        if tally.stuck:
            journal.settle(self._job, [], tally.stuck, 0, 0)
            tally.left.update(tally.stuck)
        if error is None and self._cancel.level:
            error = self._cancel.error()
        if status is None:
            if isinstance(error, MigrationInterrupted):
                status = "interrupted"
            elif error is not None:
                status = "failed"
            elif tally.remaining:
                status = "work_left"
            else:
                status = "slots_left" if tally.left else "completed"
        stopped = closed if status == "work_left" else None
        report = self._report(
            status, begun, stopped.reason if stopped else "", stopped.until if stopped else None, error
        )
        if self._run_number:
            journal.end(self._job, self._run_number, report)
        self._emit(ReshardEnded(report))
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
        tally = self._tally
        return Report(
            job=self._job,
            status=status,
            method=", ".join(sorted(self._method_names)),
            moved=len(tally.moved),
            remaining=tally.remaining,
            left=dict(tally.left),
            keys=tally.before[0] + tally.keys,
            bytes=tally.before[1] + tally.bytes,
            elapsed_seconds=elapsed,
            keys_per_second=tally.keys / elapsed if elapsed else 0.0,
            runs=self._run_number,
            resumed=self._resumed,
            conflicts=self._conflicts.count,
            reason=reason,
            opens_at=opens_at,
            error=error,
        )
