"""Slots moved by the servers themselves, all at once: Valkey's MIGRATESLOTS and Redis' MIGRATION IMPORT.

Invariant: nothing is half moved. On failure the servers undo what they have begun, and no slot is ever open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import lost
from slotferry.net.replies import bare
from slotferry.reshard.cluster.members import Member
from slotferry.reshard.cluster.methods import Moved, OnProgress, Pair, itself
from slotferry.reshard.cluster.wire import (
    Wire,
    count_of,
    format_ranges,
    is_error,
    refused,
    slot_commands,
    text_of,
)
from slotferry.reshard.limits import Scheduler
from slotferry.text import ranges_of

_POLL_SECONDS = (0.005, 0.2)


class _Atomic:
    """What both servers' own moves have in common."""

    most_slots = 2048
    most_bytes = 512_000_000

    def __init__(self, connector: Connector, pair: Pair, scheduler: Scheduler) -> None:
        self._pair = pair
        self._scheduler = scheduler
        self._source = Wire(connector, pair.source.address)
        self._target = Wire(connector, pair.target.address)

    def close(self) -> None:
        """Hang up."""
        self._source.close()
        self._target.close()


class ValkeyAtomic(_Atomic):
    """CLUSTER MIGRATESLOTS of Valkey ≥ 9: the source streams a snapshot and what changes, then hands over.

    The servers do the work and no slot is ever open by hand; on failure they undo it, and nothing has moved.
    """

    name = "valkey-atomic"
    _TIMES = 3

    def move(self, slots: Sequence[int], on_progress: OnProgress, *, shared: bool = False) -> Moved:
        """Hand the slots over as one job of the servers; see `Method.move`."""
        del shared  # the servers do one after the other
        outcome = Moved()
        self._await_others(slots)
        here = itself(self._source, self._pair.source)
        there = itself(self._target, self._pair.target)
        wanted = _still_to_move(slots, here, there, outcome)
        _count_arrived(self._target, outcome, on_progress)
        if not wanted:
            return outcome
        keys = _keys_in(self._source, wanted)
        self._scheduler.wait_turn(0)
        before = {job["name"] for job in self._jobs()}
        ends = [end for first_last in ranges_of(wanted) for end in first_last]
        reply = self._source.call(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ends, "NODE", self._pair.target.id
        )
        if is_error(reply):
            return self._refused(reply, wanted, outcome)
        if why := self._await_end(before, wanted):
            outcome.left.update(dict.fromkeys(wanted, _left(self._pair.target, why)))
            return outcome
        outcome.moved += wanted
        outcome.keys += keys
        on_progress(keys, 0)
        return outcome

    def _refused(self, reply: bytes, slots: Sequence[int], outcome: Moved) -> Moved:
        text = text_of(reply)
        if reply.startswith((b"-NOPERM", b"-NOAUTH")):
            raise refused(str(self._pair.source), "CLUSTER MIGRATESLOTS", reply)
        if _is_of_others(text):
            outcome.left.update(dict.fromkeys(slots, _left(self._pair.source, text)))
            return outcome
        raise lost("cluster", f"could not begin to move slots at {self._pair.source}: {text}", "see its log")

    def _jobs(self) -> list[dict[str, str]]:
        return slot_migrations(self._source)

    def _await_others(self, slots: Sequence[int]) -> None:
        """Let a job of the servers that an earlier run of ours has begun come to its end."""
        wanted = set(slots)
        for wait in _waits():
            busy = [
                job
                for job in self._jobs()
                if not move_ended(job)
                and wanted & set(replies.slots(job["slot_ranges"]))
                and job["operation"] == "EXPORT"
            ]
            if not busy:
                return
            self._scheduler.nap(wait, f"the servers still move slots {busy[0]['slot_ranges']}")

    def _await_end(self, before: set[str], slots: Sequence[int]) -> str:
        """Wait for the end of the job that was begun; return what stood against it at the target."""
        wanted = set(slots)
        for wait in _waits():
            jobs = [
                j
                for j in self._jobs()
                if j["name"] not in before and set(replies.slots(j["slot_ranges"])) == wanted
            ]
            if not jobs:
                raise lost("cluster", f"forgot a slot migration at {self._pair.source}", "it is tried again")
            if move_ended(jobs[0]):
                if jobs[0]["state"] == "success":
                    return ""
                why = jobs[0].get("message") or jobs[0]["state"]
                if _is_of_others(why):
                    return bare(why.rpartition("-ERR ")[2].strip())
                raise lost(
                    "cluster",
                    f"could not move slots {format_ranges(slots)} from {self._pair.source}: {why}",
                    "it is tried again",
                )
            self._scheduler.nap(wait, "")
        raise AssertionError("it waits without an end")


def _is_of_others(text: str) -> bool:
    """Whether Valkey refuses since somebody else moves slots there, by hand or by a job of the servers.

    It does so as long as any slot is open on one of the two nodes, be it of a tool that was killed.
    """
    said = text.lower()
    return any(word in said for word in ("already", "progress", "migrating", "importing", "manually"))


def _left(end: Member, text: str) -> str:
    return f"{end} refuses: {text}; see 'slotferry reshard fix'"


class RedisAtomic(_Atomic):
    """CLUSTER MIGRATION IMPORT of Redis ≥ 8.4, asked of the target; one task at a time.

    Replies (documentation of CLUSTER MIGRATION): IMPORT returns the task's id; STATUS a list of tasks, each a
    list of fields and values, whose `state` ends as `completed`, `failed` or `canceled`.
    """

    name = "redis-atomic"

    def move(self, slots: Sequence[int], on_progress: OnProgress, *, shared: bool = False) -> Moved:
        """Let the target import the slots as one task; see `Method.move`."""
        del shared
        outcome = Moved()
        self._await_others()
        here = itself(self._source, self._pair.source)
        there = itself(self._target, self._pair.target)
        wanted = _still_to_move(slots, here, there, outcome)
        _count_arrived(self._target, outcome, on_progress)
        if not wanted:
            return outcome
        keys = _keys_in(self._source, wanted)
        self._scheduler.wait_turn(0)
        ends = [end for first_last in ranges_of(wanted) for end in first_last]
        task = self._target.call("CLUSTER", "MIGRATION", "IMPORT", *ends)
        if is_error(task):
            if task.startswith((b"-NOPERM", b"-NOAUTH")):
                raise refused(str(self._pair.target), "CLUSTER MIGRATION", task)
            raise lost(
                "cluster",
                f"could not begin to move slots at {self._pair.target}: {text_of(task)}",
                "see its log",
            )
        self._await_end(self._target.take(replies.text, task, "CLUSTER MIGRATION"), wanted)
        outcome.moved += wanted
        outcome.keys += keys
        on_progress(keys, 0)
        return outcome

    def _await_others(self) -> None:
        for wait in _waits():
            tasks = [*migration_tasks(self._source), *migration_tasks(self._target)]
            busy = [task for task in tasks if not move_ended(task)]
            if not busy:
                return
            self._scheduler.nap(wait, f"the servers still move slots {busy[0].get('slots', '')}")

    def _await_end(self, task_id: str, slots: Sequence[int]) -> None:
        for wait in _waits():
            (task, *_) = migration_tasks(self._target, task_id) or [
                {"state": "failed", "last_error": "unknown"}
            ]
            if task["state"] == "completed":
                return
            if move_ended(task):
                raise lost(
                    "cluster",
                    f"could not move slots {format_ranges(slots)} to {self._pair.target}: "
                    f"{task.get('last_error') or task['state']}",
                    "it is tried again",
                )
            self._scheduler.nap(wait, "")


def _still_to_move(slots: Sequence[int], here: Member, there: Member, outcome: Moved) -> list[int]:
    """Return what the source still owns; what the target owns by now is moved, the rest is another's."""
    wanted = []
    for slot in slots:
        if slot in there.slots:
            outcome.moved.append(slot)
        elif slot in here.slots:
            wanted.append(slot)
        else:
            outcome.left[slot] = f"another job has moved it away from {here}"
    return wanted


def _count_arrived(target: Wire, outcome: Moved, on_progress: OnProgress) -> None:
    """Count the keys of slots that the servers went on to move after an earlier run of ours had ended."""
    if outcome.moved:
        outcome.keys += _keys_in(target, outcome.moved)
        on_progress(outcome.keys, 0)


def _keys_in(wire: Wire, slots: Sequence[int]) -> int:
    counts = wire.each(slot_commands("COUNTKEYSINSLOT", slots))
    return sum(count_of(count) for count in counts)


def slot_migrations(wire: Wire) -> list[dict[str, str]]:
    """Return the jobs that CLUSTER GETSLOTMIGRATIONS of Valkey ≥ 9 lists; none where it is not known."""
    reply = wire.call("CLUSTER", "GETSLOTMIGRATIONS")
    names = ("name", "operation", "slot_ranges", "state")
    return wire.take(lambda reply: _jobs(reply, names), reply, "CLUSTER GETSLOTMIGRATIONS")


def migration_tasks(wire: Wire, task_id: str | None = None) -> list[dict[str, str]]:
    """Return the tasks that CLUSTER MIGRATION STATUS of Redis ≥ 8.4 lists; none where it is not known."""
    which = ["ALL"] if task_id is None else ["ID", task_id]
    reply = wire.call("CLUSTER", "MIGRATION", "STATUS", *which)
    return wire.take(lambda reply: _jobs(reply, ("state",)), reply, "CLUSTER MIGRATION")


def _jobs(reply: object, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the jobs of a reply, each with fields of these names; none for an error.

    Raises `MalformedReplyError`.
    """

    def text(value: object) -> str:
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace").lstrip("+")
        return "" if value is None else str(value)

    if is_error(reply):
        return []
    rows = [replies.array(row) for row in replies.array(reply)]
    jobs = [{text(name): text(value) for name, value in zip(r[::2], r[1::2], strict=False)} for r in rows]
    for job in jobs:
        if missing := [name for name in names if name not in job]:
            raise replies.MalformedReplyError(f"with a job that has no {missing[0]}")
        replies.slots(job.get("slot_ranges") or job.get("slots", ""))
    return jobs


def move_ended(job: Mapping[str, str]) -> bool:
    """Whether a slot migration of the servers has come to its end, good or bad."""
    return job.get("state", "").lower() in ("success", "failed", "cancelled", "canceled", "completed")


def _waits() -> Iterator[float]:
    wait, longest = _POLL_SECONDS
    while True:
        yield wait
        wait = min(wait * 1.5, longest)
