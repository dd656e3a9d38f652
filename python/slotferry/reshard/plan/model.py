"""A plan: which slots move where, and what the cluster was when it was made.

Invariant: a plan is a value that is applied as shown or not at all. It carries a digest of itself, so that an
edited one is refused, and the owners it started from, so that a cluster that has changed since is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from slotferry.errors import OptionError, RefusedError, UsageError
from slotferry.reshard.plan.balance import Move
from slotferry.reshard.plan.joining import Joining
from slotferry.text import ranges_of, slots_in

_AnyPlan = TypeVar("_AnyPlan", bound="Plan")

BY = ("slots", "keys", "bytes", "load")
DEFAULT_SAMPLES = 100
DEFAULT_THRESHOLD = 0.02
_VERSION = 1
# What moves at the least on a small machine; the estimate is there for planning a window, not for betting.
_KEYS_PER_SECOND, _BYTES_PER_SECOND, _SLOTS_PER_SECOND = 50_000.0, 50e6, 1_000.0


@dataclass(frozen=True)
class Policy:
    """What balance is wanted: as `plan_reshard` takes it. Nodes are named `host:port` or by id."""

    by: str = "slots"
    weights: Mapping[str, float] = field(default_factory=dict)
    add: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    max_moves: int | None = None
    threshold: float = DEFAULT_THRESHOLD
    samples: int = DEFAULT_SAMPLES

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise UsageError(f"{self.by!r} is nothing to balance by", hint=f"use one of {', '.join(BY)}")
        if not 0 < self.threshold < 1:
            raise OptionError("{threshold} is not between 0% and 100%", hint="write it like 2%")
        if self.max_moves is not None and self.max_moves < 1:
            raise OptionError("{max_moves} is less than 1", hint="leave it out to move as many as it takes")
        if self.samples < 0:
            raise OptionError("{samples} is negative", hint="use 0 to size every key")


@dataclass(frozen=True)
class Holding:
    """What a node holds: before the moves, or after them."""

    slots: int = 0
    keys: int = 0
    bytes: int = 0
    load: float = 0.0


@dataclass(frozen=True)
class PlannedNode:
    """A primary of the plan. `share` is its part of the whole; `nodes` its own id and its replicas'."""

    id: str
    address: str
    nodes: tuple[str, ...]
    share: float
    slots: str
    before: Holding
    after: Holding


@dataclass(frozen=True)
class Transfer:
    """The slots that go from one node to another, with what they held when the plan was made."""

    source: str
    target: str
    slots: str
    keys: int
    bytes: int

    @property
    def slot_list(self) -> list[int]:
        """The slots, in order."""
        return slots_in(self.slots)


@dataclass(frozen=True)
class Plan:
    """Which slots move where; `apply.apply_plan` carries it out.

    `expected_seconds` is a careful guess. `remarks` say what no choice of slots could balance. `joins` are
    the nodes of `add` that are no members yet: applying lets them join.
    """

    cluster: str
    created: float
    policy: Policy
    fingerprint: str
    nodes: tuple[PlannedNode, ...]
    transfers: tuple[Transfer, ...]
    remarks: tuple[str, ...]
    estimated: bool
    joins: tuple[Joining, ...] = ()

    @property
    def slots(self) -> int:
        """How many slots move."""
        return sum(len(transfer.slot_list) for transfer in self.transfers)

    @property
    def keys(self) -> int:
        """How many keys they held."""
        return sum(transfer.keys for transfer in self.transfers)

    @property
    def bytes(self) -> int:
        """How many bytes of memory they took, by estimate."""
        return sum(transfer.bytes for transfer in self.transfers)

    @property
    def key_bytes(self) -> float:
        """What one of the keys took, by estimate."""
        return self.bytes / self.keys if self.keys else 0.0

    @property
    def expected_seconds(self) -> float:
        """How long it takes at careful rates, without any throttle."""
        rates = (
            (self.keys, _KEYS_PER_SECOND),
            (self.bytes, _BYTES_PER_SECOND),
            (self.slots, _SLOTS_PER_SECOND),
        )
        return max(amount / rate for amount, rate in rates)

    @property
    def balanced(self) -> bool:
        """Whether there is nothing to move."""
        return not self.transfers

    def node(self, node_id: str) -> PlannedNode:
        """Return the node of that id."""
        return next(node for node in self.nodes if node.id == node_id)

    def moves(self) -> list[Move]:
        """Return every slot that moves, in order."""
        found = [Move(slot, t.source, t.target) for t in self.transfers for slot in t.slot_list]
        return sorted(found, key=lambda move: move.slot)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a JSON object, with its digest."""
        content = {
            "type": "reshard_plan",
            "version": _VERSION,
            "cluster": self.cluster,
            "created": self.created,
            "policy": asdict(self.policy),
            "fingerprint": self.fingerprint,
            "nodes": [asdict(node) for node in self.nodes],
            "transfers": [asdict(transfer) for transfer in self.transfers],
            "cost": {
                "slots": self.slots,
                "keys": self.keys,
                "bytes": self.bytes,
                "expected_seconds": round(self.expected_seconds, 1),
            },
            "remarks": list(self.remarks),
            "estimated": self.estimated,
            **({"joins": [asdict(join) for join in self.joins]} if self.joins else {}),
        }
        return {**content, "digest": _digest(content)}

    @property
    def digest(self) -> str:
        """The digest of the plan's content: what the journal knows it by."""
        return str(self.to_dict()["digest"])

    def to_json(self) -> str:
        """Return the plan as JSON text, for a file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls: type[_AnyPlan], text: str, *, name: str = "the plan") -> _AnyPlan:
        """Read a plan. Raises `UsageError` for what is none, `RefusedError` for one that was edited."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"{name} is no JSON: {error}", hint="make it with 'slotferry reshard plan -o'"
            ) from None
        if not isinstance(content, dict) or content.get("type") != "reshard_plan":
            raise UsageError(f"{name} is no plan", hint="make one with 'slotferry reshard plan -o'")
        if content.get("version") != _VERSION:
            raise UsageError(
                f"{name} has version {content.get('version')}, and this Slotferry knows version {_VERSION}",
                hint="make it anew with 'slotferry reshard plan'",
            )
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise RefusedError(
                f"{name} was changed after it was made: its digest does not fit its content",
                hint="make it anew with 'slotferry reshard plan'; what is to be moved is said by its options",
            )
        policy = content["policy"]
        return cls(
            cluster=content["cluster"],
            created=content["created"],
            policy=Policy(**{**policy, "add": tuple(policy["add"]), "drain": tuple(policy["drain"])}),
            fingerprint=content["fingerprint"],
            nodes=tuple(
                PlannedNode(
                    **{
                        **node,
                        "nodes": tuple(node["nodes"]),
                        "before": Holding(**node["before"]),
                        "after": Holding(**node["after"]),
                    }
                )
                for node in content["nodes"]
            ),
            transfers=tuple(Transfer(**transfer) for transfer in content["transfers"]),
            remarks=tuple(content["remarks"]),
            estimated=content["estimated"],
            joins=tuple(Joining(**join) for join in content.get("joins", ())),
        )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def count_ranges(plan: Plan) -> Mapping[str, tuple[int, int]]:
    """Return in how many ranges each node's slots lie, before and after."""
    moved = {move.slot for move in plan.moves()}
    taken: dict[str, list[int]] = defaultdict(list)
    for move in plan.moves():
        taken[move.target].append(move.slot)
    counts = {}
    for node in plan.nodes:
        before = slots_in(node.slots)
        after = [slot for slot in before if slot not in moved] + taken[node.id]
        counts[node.id] = (len(ranges_of(before)), len(ranges_of(after)))
    return counts
