"""The quick step of SETSLOT moves: slots are copied while their owner serves them, then handed over at once.

Invariant: a slot is in the journal, with the process that serves it, before anything of it is copied. A copy
that an interrupted run has left on the target is dropped only where that process serves the slot still and
has not opened it; what differs from the served value by then is written to the conflict file before.

The engine does the work (`_core.Handover`, which says why no client can tell). What it does not take (large
or busy slots, servers that refuse a command; of all slots streams and values of modules, since WATCH does not
see every change of them) goes by MIGRATE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from slotferry._core import Access, EngineError, Handover
from slotferry.errors import SlotferryError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import encode, lost
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import OnProgress, Pair, correct_owner, itself
from slotferry.reshard.cluster.wire import Wire, format_ranges, is_error, refused, slot_commands
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.limits import Scheduler
from slotferry.reshard.move.conflicts import ConflictFile

_CHUNK_KEYS = 50  # read in one go: clients wait for as long as that takes
_WORKERS, _MOST_WORKERS = 16, 64
_READING_KEYS = 100  # keeps near servers busy, and lets others have their turn soon
_TOGETHER, _TOGETHER_KEYS = 8, 200
_MOST_TIMES = 16  # so much more at once for far servers:
_SECONDS_PER_TIME = 0.00025  # of round trip
_MOST_KEYS = 1_000  # in one transaction; WATCH takes about 8 ns for each pair of them
_MOST_BYTES, _MOST_KEY_BYTES = 16_000_000, 1_000_000
_NOBODY = b"%d" % (2**63 - 1)  # a number that no client will have
_CALL_KEYS = 6_400  # about what one call hands over: pauses and limits are looked at between two calls
_CHUNK_BYTES = 500_000
_BYTES_PER_SECOND = 150e6  # that a node dumps or restores, roughly, where values are large
_SECONDS_PER_KEY = 2e-6  # that a node is at work for a key of a chunk or transaction, roughly


def can_copy(source: Member, target: Member) -> bool:
    """Whether slots can be handed over between these two.

    Valkey ≥ 8 passes SETSLOT on to replicas, and fails an assertion where a transaction does that.
    """
    return source.product == target.product == "redis"


def missing_permission(wire: Wire) -> str:
    """Return the command of a handover that the user may not run there; empty where it may run all.

    The probes change nothing: the key is nobody's, and so is the client's number. It is not 0, which stands
    for every client in the CLIENT KILL of Redis 6.2.
    """
    key = b"slotferry:probe"
    probes: tuple[tuple[bytes, ...], ...] = (
        (b"WATCH", key), (b"UNWATCH",), (b"MULTI",), (b"EXEC",), (b"EVAL", b"return 0", b"0"),
        (b"UNLINK", key), (b"DEL", key), (b"DUMP", key), (b"PTTL", key),
        (b"MEMORY", b"USAGE", key), (b"ASKING",), (b"WAIT", b"0", b"1"),
        (b"CLIENT", b"SETNAME", b"slotferry"), (b"CLIENT", b"LIST", b"ID", _NOBODY),
        (b"CLIENT", b"KILL", b"ID", _NOBODY),
    )  # fmt: skip
    wire.send(b"".join(encode(*probe) for probe in probes))
    for probe, reply in [(probe, wire.reply()) for probe in probes]:
        if is_error(reply) and reply.startswith((b"-NOPERM", b"-ERR unknown")):
            return b" ".join(word for word in probe if word.isupper()).decode()
    return ""


def replication_identity(wire: Wire, member: Member) -> str:
    """Return what tells a process, and its time as a primary, from every other one; empty where unknown.

    A node that was demoted has forgotten which slots it had opened; when it is promoted again, the id of its
    replication stream is another one.
    """
    fields: dict[str, str] = {}
    for section in ("server", "replication"):
        fields |= wire.need_parsed(replies.info, "INFO", section)
    known = [fields.get(name, "") for name in ("run_id", "master_replid")]
    return "/".join([member.id, *known]) if all(known) and fields.get("role") == "master" else ""


HandingOver = Future[Any]  # of what `Handover.hand_over` returns


@dataclass
class Handed:
    """What a call has handed over; `refused`: nothing, since the servers refused it."""

    slots: list[int] = field(default_factory=list)
    keys: int = 0
    bytes: int = 0
    refused: bool = False
    error: SlotferryError | None = None


class SlotCopier:
    """Hands slots of one pair of nodes over; belongs to one thread at a time."""

    def __init__(
        self,
        connector: Connector,
        pair: Pair,
        scheduler: Scheduler,
        conflicts: ConflictFile,
        say: Callable[[str], None],
        job: str,
        process: str,
    ) -> None:
        """`process` is the source's, as the journal has it (`replication_identity`)."""
        self._say = say
        self._said = False
        self._connector = connector
        self._pair = pair
        self._scheduler = scheduler
        self._conflicts = conflicts
        self._name = client_name(job, pair)
        self.process = process
        self._handover: Handover | None = None
        self._access: Access | None = None  # kept, so that it can be hung up
        self._limits = _Limits(scheduler)
        self._bytes_per_key = 0.0
        self._beside: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Hang up."""
        self._handover = self._access = None
        if self._beside is not None:
            self._beside.shutdown()
            self._beside = None

    def parts(self, counts: Mapping[int, int]) -> Iterable[list[int]]:
        """Divide slots, given with how many keys each has, into what one call may hand over."""
        part: list[int] = []
        keys = 0
        for slot, count in counts.items():
            if part and keys + count > self._limits.call_keys(self._bytes_per_key):
                yield part
                part, keys = [], 0
            part.append(slot)
            keys += count
        if part:
            yield part

    def begin(self, slots: Sequence[int], source: Wire, target: Wire) -> HandingOver:
        """Begin to hand over slots that are closed at the source and of which the target holds nothing.

        What is returned is for `end`, which is to be called before anything else. Raises `SlotferryError`.
        """
        imported = slot_commands("SETSLOT", slots, "IMPORTING", self._pair.source.id)
        ready = [
            slot for slot, reply in zip(slots, target.each(imported), strict=True) if not is_error(reply)
        ]
        handover = self._open(source, target)
        if self._beside is None:
            self._beside = ThreadPoolExecutor(1, "slotferry-copy")
        return self._beside.submit(handover.hand_over, ready)

    def end(self, under_way: HandingOver, on_progress: OnProgress) -> Handed:
        """Wait for what was begun. Slots that were not handed over are as before, but the target imports."""
        result = Handed()
        refusals = []
        for slot, fate, keys, size, why in under_way.result():
            if fate == "handed_over":
                result.slots.append(slot)
                result.keys += keys
                result.bytes += size
            elif fate in ("source_lost", "target_lost"):
                node = self._pair.source if fate == "source_lost" else self._pair.target
                result.error = lost("cluster", f"was lost at {node}: {why}", "see whether that node runs")
            elif fate == "refused":
                refusals.append(why)
        on_progress(result.keys, result.bytes)
        self._scheduler.pay(result.bytes)
        if result.keys:
            self._bytes_per_key = result.bytes / result.keys
        if refusals and not result.slots and result.error is None:
            result.refused = True
            if not self._said:
                self._said = True
                self._say(f"slots from {self._pair.source} are moved by MIGRATE: {refusals[0]}")
        return result

    def _open(self, source_wire: Wire, target_wire: Wire) -> Handover:
        if self._handover is None:
            # What a try before this one had sent may be on its way still.
            for wire in (source_wire, target_wire):
                _hang_up(wire, self._name)
            source, into = self._pair.source, self._pair.target
            text = target_wire.need_parsed(replies.text, "INFO", "replication")
            limits = self._limits
            times = min(limits.times, 1 + int(source_wire.round_trip() / _SECONDS_PER_TIME))
            self._access = self._connector.access()
            try:
                self._handover = Handover(
                    source=(source.address.host, source.address.port),
                    target=(into.address.host, into.address.port),
                    target_id=into.id,
                    access=self._access,
                    client_name=self._name,
                    replicated="state=online" in text,
                    workers=min(_MOST_WORKERS, times * _WORKERS),
                    reading_keys=times * limits.reading_keys,
                    together=times * _TOGETHER,
                    together_keys=min(limits.keys, times * _TOGETHER_KEYS),
                    chunk_keys=limits.chunk_keys,
                    chunk_bytes=limits.chunk_bytes,
                    max_keys=limits.keys,
                    max_bytes=limits.bytes,
                    max_key_bytes=min(_MOST_KEY_BYTES, self._scheduler.limits.max_key_bytes),
                )
            except EngineError as error:
                raise SlotferryError(str(error.args[1])) from None
        return self._handover

    def discard(self, source: Wire, target: Wire, slots: Iterable[int]) -> None:
        """Drop the copies that an interrupted try has left on the target; see `discard_copies`."""
        self.close()
        discard_copies(
            *(source, target, self._pair, slots, self.process, self._conflicts, self._name, self._say)
        )


class _Limits:
    """How much at once: less where a latency bound asks for it."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._rate = scheduler.limits.max_bytes_per_second
        self.times, self.reading_keys = _MOST_TIMES, _READING_KEYS
        self.chunk_keys, self.keys = _CHUNK_KEYS, _MOST_KEYS
        self.bytes, self.chunk_bytes = _MOST_BYTES, _CHUNK_BYTES
        if self._rate is not None:
            self.bytes = min(_MOST_BYTES, max(self._rate, _MOST_KEY_BYTES))
        self._call = _CALL_KEYS
        if scheduler.batch_seconds is not None:
            at_once = max(10, int(scheduler.batch_seconds / _SECONDS_PER_KEY))
            self.times = 1
            self.reading_keys, self.chunk_keys = min(_READING_KEYS, at_once), min(_CHUNK_KEYS, at_once)
            self.keys = min(_MOST_KEYS, 4 * at_once)
            self.chunk_bytes = min(_CHUNK_BYTES, int(scheduler.batch_seconds * _BYTES_PER_SECOND))
            self._call = min(_CALL_KEYS, 16 * at_once)

    def call_keys(self, bytes_per_key: float) -> float:
        """Return how many keys one call may hand over."""
        if self._rate is None:
            return self._call
        # A tenth of a second's worth; until the size of a key is known, slot by slot.
        return min(self._call, self._rate / 10 / bytes_per_key) if bytes_per_key else 0


def client_name(job: str, pair: Pair) -> str:
    """Return what the connections of a job's copier are called, for these two nodes alone."""
    digest = hashlib.sha256(job.encode()).hexdigest()[:12]
    return f"slotferry-{digest}-{pair.source.id[:8]}-{pair.target.id[:8]}"


def discard_copies(
    source: Wire,
    target: Wire,
    pair: Pair,
    slots: Iterable[int],
    process: str,
    conflicts: ConflictFile,
    name: str,
    say: Callable[[str], None],
) -> None:
    """Drop what the target holds of slots that were copied to it and not opened at the source.

    Connections of the interrupted copier, called `name`, are killed first: what they had sent may be waiting
    to be read. Only then the source is asked whether it is that process still, and which slots it serves
    undisturbed; others are left as they are. Raises `SlotferryError`.
    """
    for wire in (source, target):
        _hang_up(wire, name)
    here = itself(source, pair.source)
    if replication_identity(source, pair.source) != process:
        return
    undisturbed = [slot for slot in slots if slot in here.slots and slot not in here.migrating]
    correct_owner(target, undisturbed, pair.source.id)
    outdated = 0
    for slot in undisturbed:
        before: list[bytes] = []
        while keys := target.each_keys([encode("CLUSTER", "GETKEYSINSLOT", slot, 1_000)])[0]:
            if keys == before:
                raise lost("cluster", f"keeps copies in slot {slot} at {pair.target}", "see that node's log")
            outdated += conflicts.drop_copies(source, target, pair, slot, keys)
            before = keys
    if outdated:
        say(
            f"{outdated} dropped copies at {pair.target} were not what {pair.source} has by now: "
            f"they are in {conflicts.path}"
        )


def discard_recorded(
    connector: Connector,
    cluster: Cluster,
    journal: ReshardJournal,
    conflicts: ConflictFile,
    say: Callable[[str], None],
) -> bool:
    """Drop what interrupted runs have copied to whichever target, and close the slots there.

    What the journal has of copies is forgotten with that, and where their source has given the slot away.
    Returns whether there were any copies. Raises `SlotferryError`.
    """
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    settled: list[tuple[str, int]] = []
    for job, slot, process in journal.copied_from():
        source = cluster.members.get(process.partition("/")[0])
        if source is None or not source.answered or slot in source.migrating:
            continue
        if cluster.owners[slot] != source.id:
            settled.append((job, slot))
            continue
        for target in cluster.members.values():
            if target.importing.get(slot) == source.id:
                groups.setdefault((source.id, target.id, job, process), []).append(slot)
    found = False
    for (source_id, target_id, job, process), slots in groups.items():
        pair = Pair(cluster.members[source_id], cluster.members[target_id])
        with Wire(connector, pair.source.address) as here, Wire(connector, pair.target.address) as there:
            if replication_identity(here, pair.source) != process:
                continue
            say(f"dropping what an interrupted run has copied: slots {format_ranges(slots)} at {pair.target}")
            discard_copies(here, there, pair, slots, process, conflicts, client_name(job, pair), say)
            filled = set(there.filled(slots))
            emptied = [slot for slot in slots if slot not in filled]
            there.each(slot_commands("SETSLOT", emptied, "STABLE"))
            settled += [(job, slot) for slot in emptied]
            found = True
    journal.forget_copies(settled)
    return found


def _hang_up(wire: Wire, name: str) -> None:
    text = wire.call("CLIENT", "LIST")
    if is_error(text):
        raise refused(str(wire.address), "CLIENT LIST", text)
    for line in wire.take(replies.text, text, "CLIENT LIST").splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split())
        if fields.get("name") == name and "id" in fields:
            wire.call("CLIENT", "KILL", "ID", fields["id"])  # it may have gone meanwhile
