"""The quick step of SETSLOT moves: slots are copied while their owner serves them, then handed over at once.

Invariant: a slot is in the journal, with the process that serves it, before anything of it is copied. A copy
that an interrupted run has left on the target is dropped only where that process serves the slot still and
has not opened it; what differs from the served value by then is written to the conflict file before.

The engine does the work (`_core.Handover`, which says why no client can tell). What it does not take (large
or busy slots, servers that refuse a command) goes by MIGRATE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from slotferry._core import EngineError, Handover
from slotferry.admin import Connector, lost
from slotferry.errors import SlotferryError
from slotferry.reshard.care import Gate
from slotferry.reshard.conflicts import ConflictFile
from slotferry.reshard.members import Cluster, Member
from slotferry.reshard.methods import Pair
from slotferry.reshard.wire import Wire, encode, format_ranges, is_error, refused

_LANES, _READING, _TOGETHER, _CHUNK_KEYS = 8, 3, 4, 100
_MOST_KEYS = 4_000  # in one transaction: it blocks the source for about 3 ms
_MOST_BYTES, _MOST_KEY_BYTES = 16_000_000, 1_000_000
_CALL_KEYS = 6_400  # about what one call hands over: pauses and limits are looked at between two calls
_SECONDS_PER_KEY = 2e-6  # that a node is at work for a key of a chunk or transaction, roughly


def can_copy(source: Member, target: Member) -> bool:
    """Whether slots can be handed over between these two.

    Valkey ≥ 8 passes SETSLOT on to replicas, and fails an assertion where a transaction does that.
    """
    return source.product == target.product == "redis"


def lacking(wire: Wire, member: Member) -> str:
    """Return the command of a handover that the user may not run there; empty where it may run all.

    The probes change nothing: the key is nobody's, and there is no client 0.
    """
    key = b"slotferry:probe"
    expiry = b"PEXPIRETIME" if member.version >= (7, 0) else b"PTTL"
    probes: tuple[tuple[bytes, ...], ...] = (
        (b"WATCH", key), (b"UNWATCH",), (b"MULTI",), (b"EXEC",), (b"EVAL", b"return 0", b"0"),
        (b"UNLINK", key), (b"DEL", key), (b"DUMP", key), (b"PTTL", key), (expiry, key), (b"TIME",),
        (b"MEMORY", b"USAGE", key), (b"ASKING",), (b"WAIT", b"0", b"1"),
        (b"CLIENT", b"LIST", b"ID", b"0"), (b"CLIENT", b"KILL", b"ID", b"0"),
    )  # fmt: skip
    for probe in probes:
        reply = wire.call(*probe)
        if is_error(reply) and reply.startswith((b"-NOPERM", b"-ERR unknown")):
            return b" ".join(word for word in probe if word.isupper()).decode()
    return ""


def process_of(wire: Wire, member: Member) -> str:
    """Return what tells a node's process from every other one: node id and run id."""
    text: bytes = wire.need("INFO", "server")
    lines = text.decode("utf-8", "replace").splitlines()
    run_id = next((line.partition(":")[2].strip() for line in lines if line.startswith("run_id:")), "")
    return f"{member.id}/{run_id}" if run_id else ""


class SlotCopier:
    """Hands slots of one pair of nodes over; belongs to one thread at a time."""

    def __init__(
        self, connector: Connector, pair: Pair, gate: Gate, conflicts: ConflictFile, job: str, process: str
    ) -> None:
        """`process` is the source's, as the journal has it (`process_of`)."""
        self._connector = connector
        self._pair = pair
        self._gate = gate
        self._conflicts = conflicts
        self._name = client_name(job, pair)
        self.process = process
        self._handover: Handover | None = None
        self._limits = _Limits(gate)
        self._bytes_per_key = 0.0

    def close(self) -> None:
        """Hang up."""
        self._handover = None

    def hand_over(
        self, counts: Mapping[int, int], target: Wire, told: Callable[[int, int], None]
    ) -> tuple[list[int], int, int]:
        """Hand over slots that are closed at the source and of which the target holds nothing.

        `counts` says how many keys each has. Returns the slots that were handed over, with their keys and
        bytes; the others are as before, but that the target imports them. Raises `SlotferryError`.
        """
        done: list[int] = []
        keys = size = 0
        imported = [encode("CLUSTER", "SETSLOT", slot, "IMPORTING", self._pair.source.id) for slot in counts]
        ready = [
            slot for slot, reply in zip(counts, target.each(imported), strict=True) if not is_error(reply)
        ]
        for part in self._parts(ready, counts):
            if self._gate.closed() is not None:
                break
            self._gate.check_abandoned()
            self._gate.wait_turn(0)
            refused_before = len(done)
            for slot, fate, moved, taken, why in self._open(target).hand_over(part):
                if fate == "handed_over":
                    done.append(slot)
                    keys += moved
                    size += taken
                    told(moved, taken)
                elif fate in ("source_lost", "target_lost"):
                    node = self._pair.source if fate == "source_lost" else self._pair.target
                    raise lost("cluster", f"was lost at {node}: {why}", "see whether that node runs")
            if keys:
                self._bytes_per_key = size / keys
            self._gate.pay(int(self._bytes_per_key * sum(counts[slot] for slot in part)))
            if part and len(done) == refused_before:
                break  # it is not to be: MIGRATE tells why, or manages
        return done, keys, size

    def _parts(self, slots: Sequence[int], counts: Mapping[int, int]) -> Iterable[list[int]]:
        part: list[int] = []
        keys = 0
        for slot in slots:
            if part and keys + counts[slot] > self._limits.call_keys(self._bytes_per_key):
                yield part
                part, keys = [], 0
            part.append(slot)
            keys += counts[slot]
        if part:
            yield part

    def _open(self, target: Wire) -> Handover:
        if self._handover is None:
            source, into = self._pair.source, self._pair.target
            text: bytes = target.need("INFO", "replication")
            limits = self._limits
            try:
                self._handover = Handover(
                    source=(source.address.host, source.address.port),
                    target=(into.address.host, into.address.port),
                    target_id=into.id,
                    access=self._connector.access(),
                    client_name=self._name,
                    has_pexpiretime=source.version >= (7, 0),
                    replicated=b"state=online" in text,
                    lanes=limits.lanes,
                    reading=_READING,
                    together=_TOGETHER,
                    chunk_keys=limits.chunk_keys,
                    max_keys=limits.keys,
                    max_bytes=_MOST_BYTES,
                    max_key_bytes=min(_MOST_KEY_BYTES, self._gate.care.max_key_bytes),
                )
            except EngineError as error:
                raise SlotferryError(str(error.args[1])) from None
        return self._handover

    def discard(self, source: Wire, target: Wire, slots: Iterable[int]) -> None:
        """Drop the copies that an interrupted try has left on the target; see `discard_copies`."""
        self.close()
        discard_copies(source, target, self._pair, slots, self._conflicts, self._name)


class _Limits:
    """How much at once: less where a latency bound asks for it."""

    def __init__(self, gate: Gate) -> None:
        self._rate = gate.care.max_bytes_per_second
        self.lanes, self.chunk_keys, self.keys = _LANES, _CHUNK_KEYS, _MOST_KEYS
        self._call = _CALL_KEYS
        if gate.batch_seconds is not None:
            at_once = max(10, int(gate.batch_seconds / _SECONDS_PER_KEY))
            self.lanes = 1
            self.chunk_keys = min(_CHUNK_KEYS, at_once)
            self.keys = min(_MOST_KEYS, 4 * at_once)
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
    source: Wire, target: Wire, pair: Pair, slots: Iterable[int], conflicts: ConflictFile, name: str
) -> None:
    """Drop what the target holds of slots that were copied to it and not opened at the source.

    Connections of the interrupted copier are killed first: what they had sent may be waiting to be read.
    Raises `SlotferryError`.
    """
    for wire in (source, target):
        _hang_up(wire, name)
    for slot in slots:
        while keys := target.each_keys([encode("CLUSTER", "GETKEYSINSLOT", slot, 1_000)])[0]:
            conflicts.drop_copies(source, target, pair, slot, keys)


def discard_recorded(
    connector: Connector,
    cluster: Cluster,
    recorded: Mapping[int, tuple[str, str]],
    conflicts: ConflictFile,
    say: Callable[[str], None],
) -> bool:
    """Drop what interrupted runs have copied to whichever target, and close the slots there.

    `recorded` is (job, process) by slot, as the journal has it. Returns whether there was anything. Raises
    `SlotferryError`.
    """
    groups: dict[tuple[str, str, str, str], list[int]] = {}
    for slot, (job, process) in recorded.items():
        source = cluster.members.get(process.partition("/")[0])
        if source is None or cluster.owners[slot] != source.id or slot in source.migrating:
            continue
        for target in cluster.members.values():
            if target.importing.get(slot) == source.id:
                groups.setdefault((source.id, target.id, job, process), []).append(slot)
    found = False
    for (source_id, target_id, job, process), slots in groups.items():
        pair = Pair(cluster.members[source_id], cluster.members[target_id])
        with Wire(connector, pair.source.address) as here, Wire(connector, pair.target.address) as there:
            if process_of(here, pair.source) != process:
                continue
            say(f"dropping what an interrupted run has copied: slots {format_ranges(slots)} at {pair.target}")
            discard_copies(here, there, pair, slots, conflicts, client_name(job, pair))
            there.each([encode("CLUSTER", "SETSLOT", slot, "STABLE") for slot in slots])
            found = True
    return found


def _hang_up(wire: Wire, name: str) -> None:
    text = wire.call("CLIENT", "LIST")
    if is_error(text):
        raise refused(str(wire.address), "CLIENT LIST", text)
    for line in text.decode("utf-8", "replace").splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split())
        if fields.get("name") == name:
            wire.call("CLIENT", "KILL", "ID", fields["id"])  # it may have gone meanwhile
