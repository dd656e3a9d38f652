"""What each slot counts for: keys, bytes or load, asked of the nodes that own them.

Invariant: measuring changes nothing, and what is an estimate is called one. Keys are counted, bytes are
sampled (MEMORY USAGE of some keys a slot), load is what the servers say (CLUSTER SLOT-STATS, Valkey ≥ 8).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from slotferry._core import SLOTS
from slotferry.errors import SlotferryError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import encode, not_ready
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.wire import Wire, count_of, is_error, refused, slot_commands, text_of

MEMORY_USAGE = b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n"
_SLOTS_AT_ONCE = 250


@dataclass
class Weights:
    """Per slot: how many keys, how many bytes (estimated), how much load (CPU µs as the server counts it)."""

    keys: list[int] = field(default_factory=lambda: [0] * SLOTS)
    bytes: list[int] = field(default_factory=lambda: [0] * SLOTS)
    load: list[float] = field(default_factory=lambda: [0.0] * SLOTS)
    sampled: int = 0

    def of(self, by: str) -> Sequence[float]:
        """Return the weights for `--by slots|keys|bytes|load`."""
        choices: dict[str, Sequence[float]] = {
            "slots": [1] * SLOTS,
            "keys": self.keys,
            "bytes": self.bytes,
            "load": self.load,
        }
        return choices[by]


def measure(connector: Connector, cluster: Cluster, *, by: str, samples: int) -> Weights:
    """Measure every slot at its owner. Raises `SlotferryError` where a node can't be asked.

    `samples` is how many keys of a slot are sized at most; 0 is all of them.
    """
    weights = Weights()
    owners = [member for member in cluster.primaries if member.slots]
    with ThreadPoolExecutor(max_workers=max(1, len(owners)), thread_name_prefix="slotferry-measure") as pool:
        jobs = [
            pool.submit(_measure_node, connector, member, cluster.slots_of(member.id), by, samples, weights)
            for member in owners
        ]
        for job in jobs:
            weights.sampled += job.result()
    return weights


def _measure_node(
    connector: Connector, member: Member, slots: list[int], by: str, samples: int, weights: Weights
) -> int:
    """Fill in the slots of one node (threads share `weights`, but no slot) and return the keys sized."""
    sampled = 0
    with Wire(connector, member.address) as wire:
        counts = wire.each(slot_commands("COUNTKEYSINSLOT", slots))
        for slot, count in zip(slots, counts, strict=True):
            if is_error(count):
                raise refused(str(member), "CLUSTER COUNTKEYSINSLOT", count)
            weights.keys[slot] = count_of(count)
        if by == "load":
            _read_load(wire, member, slots, weights)
        filled = [slot for slot in slots if weights.keys[slot]]
        for first in range(0, len(filled), _SLOTS_AT_ONCE):
            sampled += _sample(wire, filled[first : first + _SLOTS_AT_ONCE], samples, weights)
    return sampled


def _sample(wire: Wire, slots: list[int], samples: int, weights: Weights) -> int:
    limits = [min(weights.keys[slot], samples or weights.keys[slot]) for slot in slots]
    asked = [
        encode("CLUSTER", "GETKEYSINSLOT", slot, limit) for slot, limit in zip(slots, limits, strict=True)
    ]
    found = wire.each_keys(asked)
    sizes = iter(memory_usage(wire, [key for keys in found for key in keys]))
    for slot, keys in zip(slots, found, strict=True):
        known = [size for size in (next(sizes) for _ in keys) if size]
        if known:
            weights.bytes[slot] = round(sum(known) / len(known) * weights.keys[slot])
    return sum(map(len, found))


def memory_usage(wire: Wire, keys: Sequence[bytes]) -> list[int]:
    """Return what each encoded key takes in memory, 0 where it is gone. Raises where it is not allowed."""
    answers = wire.each([MEMORY_USAGE + key for key in keys])
    joined = b" ".join(answers)
    # Neither an error nor a key that is gone is the usual case, read at one go.
    if re.fullmatch(rb"(:[0-9]{1,18}( |$))+", joined):
        return list(map(int, joined.replace(b":", b"").split()))
    for reply in answers:
        if is_error(reply) and not reply.startswith((b"-ASK", b"-MOVED")):
            raise refused(str(wire.address), "MEMORY USAGE", reply)
    return [count_of(reply) for reply in answers]


def _read_load(wire: Wire, member: Member, slots: list[int], weights: Weights) -> None:
    stats = wire.call("CLUSTER", "SLOT-STATS", "SLOTSRANGE", 0, SLOTS - 1)
    hint = "it takes Valkey ≥ 8 or Redis ≥ 8.2 with cluster-slot-stats-enabled; else use --by bytes"
    if is_error(stats):
        raise _no_load(member, text_of(stats), hint)
    own = set(slots)
    for slot, figures in wire.take(_parse_stats, stats, "CLUSTER SLOT-STATS"):
        if b"cpu-usec" not in figures:
            raise _no_load(member, "it counts keys alone", hint)
        if slot in own:
            weights.load[slot] = float(figures[b"cpu-usec"])


def _parse_stats(reply: object) -> list[tuple[int, dict[bytes, int]]]:
    """Return the slots of CLUSTER SLOT-STATS, each with its figures."""
    found = []
    for row in replies.array(reply):
        slot, fields, *_ = replies.array(row, 2)
        names, values = replies.array(fields)[::2], fields[1::2]
        figures = dict(zip(replies.texts(names), map(replies.integer, values), strict=False))
        found.append((replies.integer(slot, most=SLOTS - 1), figures))
    return found


def _no_load(member: Member, why: str, hint: str) -> SlotferryError:
    return not_ready("cluster", f"can't say the load of its slots at {member}: {why}", hint)
