"""What is wrong with a cluster's slots, whoever left it so, and what mends it.

Invariant: looking changes nothing, and deciding is arithmetic over what was seen. No step drops a key: keys
are moved to the slot's owner, and where two nodes hold different values, a person is asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from slotferry._core import SLOTS
from slotferry.errors import SlotferryError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Cluster, Member, read_cluster
from slotferry.reshard.cluster.wire import Wire, count_of, format_ranges, is_error, refused, slot_commands
from slotferry.reshard.move.atomic import migration_tasks, move_ended, slot_migrations

_LOOKS, _LOOK_SECONDS = (
    8,
    0.25,
)  # for nodes that disagree: a change of owner is known everywhere within a second

StepKind = Literal["assign", "tell", "move_on", "move_back", "close"]

_WORDS: dict[StepKind, tuple[str, str]] = {
    "assign": ("no node owns them", "give them to {target}"),
    "tell": ("{source} does not take {target}, which owns them, for their owner", "tell it"),
    "move_on": ("open: half moved from {source} to {target}", "move the rest and close them"),
    "move_back": ("keys lie on {source}, and {target} owns them", "bring the keys to {target}"),
    "close": ("open on {source}, with nothing on the way", "close them"),
}


@dataclass(frozen=True)
class Step:
    """One thing to do for one slot. `source` and `target` are node ids; `assign` has no source."""

    kind: StepKind
    slot: int
    source: str = ""
    target: str = ""


@dataclass(frozen=True)
class Finding:
    """Slots that need the same: what is wrong, and what 'fix' would do (empty where it can do nothing)."""

    kind: str
    slots: tuple[int, ...]
    what: str
    action: str

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "type": "finding",
            "kind": self.kind,
            "slots": format_ranges(self.slots),
            "what": self.what,
            "action": self.action or None,
        }


@dataclass(frozen=True)
class Health:
    """What was seen at one instant. `moves` are the servers' own slot migrations that are under way."""

    cluster: Cluster
    steps: tuple[Step, ...]
    down: tuple[Finding, ...]
    moves: tuple[Finding, ...] = ()
    holders: Mapping[int, Mapping[str, int]] = field(default_factory=dict)

    @property
    def findings(self) -> list[Finding]:
        """All that is wrong, steps grouped by what they do."""
        grouped: dict[tuple[StepKind, str, str], list[int]] = {}
        for step in self.steps:
            grouped.setdefault((step.kind, step.source, step.target), []).append(step.slot)
        found = []
        for (kind, source, target), slots in grouped.items():
            names = {"source": self._name(source), "target": self._name(target)}
            what, action = (text.format(**names) for text in _WORDS[kind])
            found.append(Finding(kind, tuple(sorted(slots)), what, action))
        return [*found, *self.down, *self.moves]

    @property
    def ok(self) -> bool:
        """Whether every slot is owned and closed, with its keys at home."""
        return not self.findings

    def _name(self, node_id: str) -> str:
        member = self.cluster.members.get(node_id)
        return str(member) if member is not None else node_id[:8]


def look(connector: Connector) -> Health:
    """Look at every primary and every slot. Raises `SlotferryError` where the cluster can't be read."""
    cluster = _agreed(connector)
    holders: dict[int, dict[str, int]] = {}
    moves: list[Finding] = []
    asked = [member for member in cluster.primaries if member.answered]
    with ThreadPoolExecutor(max_workers=max(1, len(asked)), thread_name_prefix="slotferry-look") as pool:
        for member, (counts, under_way) in zip(
            asked, pool.map(lambda member: _look_at(connector, member), asked), strict=True
        ):
            for slot, count in counts.items():
                holders.setdefault(slot, {})[member.id] = count
            moves += under_way
    unknown = [m for m in cluster.primaries if not m.answered]
    down = [
        Finding("down", tuple(sorted(m.slots)), f"their owner {m} is down", "")
        for m in cluster.members.values()
        if m.is_primary and m.slots and (m.is_down or m in unknown)
    ]
    return Health(cluster, tuple(decide(cluster, holders)), tuple(down), tuple(moves), holders)


def _agreed(connector: Connector) -> Cluster:
    """Return the cluster; where its nodes disagree about owners, once the gossip has had its time."""
    cluster = read_cluster(connector)
    for _ in range(_LOOKS):
        if not any(_misled(cluster)):
            break
        time.sleep(_LOOK_SECONDS)
        cluster = read_cluster(connector)
    return cluster


def _misled(cluster: Cluster) -> Iterator[Step]:
    """Yield what each node is to be told that takes another one for the owner than the owner itself."""
    answered = [member for member in cluster.primaries if member.answered and member.view]
    for owner in answered:
        own = frozenset(slot for slot in owner.slots if cluster.owners[slot] == owner.id)
        for member in answered:
            # Who owns or imports a slot hears nothing of it; what is wrong there is a dispute, or open.
            missing = own - member.view.get(owner.id, frozenset()) - member.slots - member.importing.keys()
            yield from (Step("tell", slot, member.id, owner.id) for slot in sorted(missing))


def _look_at(connector: Connector, member: Member) -> tuple[dict[int, int], list[Finding]]:
    """Return how many keys of which slot a node holds, and the servers' own moves that it exports."""
    with Wire(connector, member.address) as wire:
        counts = wire.each(slot_commands("COUNTKEYSINSLOT", range(SLOTS)))
        if is_error(counts[0]):
            raise refused(str(member), "CLUSTER COUNTKEYSINSLOT", counts[0])
        held = {slot: count_of(count) for slot, count in enumerate(counts) if count not in (b":0",)}
        moves = []
        for job in [*slot_migrations(wire), *migration_tasks(wire)]:
            if not move_ended(job) and job.get("operation", "").lower() in ("export", "migrate"):
                slots = job.get("slot_ranges") or job.get("slots", "")
                what = f"{member} is moving them by itself: {job.get('state', 'under way')}"
                moves.append(
                    Finding(
                        "moving", tuple(replies.slots(slots)), what, "wait, or cancel with --cancel-moves"
                    )
                )
    return held, moves


def decide(cluster: Cluster, holders: Mapping[int, Mapping[str, int]]) -> list[Step]:
    """Return what each slot needs. `holders[slot]` maps the nodes that hold keys of it to how many."""
    migrating: dict[int, dict[str, str]] = {}
    importing: dict[int, dict[str, str]] = {}
    for member in cluster.members.values():
        for slot, other in member.migrating.items():
            migrating.setdefault(slot, {})[member.id] = other
        for slot, other in member.importing.items():
            importing.setdefault(slot, {})[member.id] = other
    disputed = {slot: (a, b) for slot, a, b in cluster.disputes}
    fewest = _fewest(cluster)
    steps: list[Step] = []
    for slot, owner in enumerate(cluster.owners):
        held = holders.get(slot, {})
        goes, comes = migrating.get(slot, {}), importing.get(slot, {})
        if owner is not None and not goes and not comes and slot not in disputed and set(held) <= {owner}:
            continue
        if owner is None:
            owner = max(held, key=lambda node: held[node]) if held else next(iter(comes), None) or fewest()
            steps.append(Step("assign", slot, target=owner))
        steps += _mend(cluster, slot, owner, goes, comes, held, disputed.get(slot))
    return [*steps, *_misled(cluster)]


def _mend(
    cluster: Cluster,
    slot: int,
    owner: str,
    goes: Mapping[str, str],
    comes: Mapping[str, str],
    held: Mapping[str, int],
    dispute: tuple[str, str] | None,
) -> list[Step]:
    steps = []
    end = owner
    if dispute is not None:
        loser = dispute[0] if dispute[1] == owner else dispute[1]
        if not held.get(loser):
            steps.append(Step("tell", slot, loser, owner))
    if owner in goes:
        target = cluster.shard_of([goes[owner]])
        if target is not None and target.id != owner and (target.id in comes or held.get(target.id)):
            steps.append(Step("move_on", slot, owner, target.id))
            end = target.id
        else:
            steps.append(Step("close", slot, owner))
    for node in sorted({*held, *comes, *goes} - {owner, end}):
        member = cluster.members.get(node)
        if member is None or not member.answered or not member.is_primary:
            continue
        if held.get(node):
            steps.append(Step("move_back", slot, node, end))
        elif node in comes or node in goes:
            steps.append(Step("close", slot, node))
    if owner in comes and end == owner:
        steps.append(Step("close", slot, owner))
    return steps


def _fewest(cluster: Cluster) -> Callable[[], str]:
    """Return what names the primary with the fewest slots, counting those it has given out."""
    counts = {member.id: len(member.slots) for member in cluster.primaries if member.answered}

    def name() -> str:
        if not counts:
            raise SlotferryError("no primary of the cluster answers")
        node = min(counts, key=lambda node: counts[node])
        counts[node] += 1
        return node

    return name


def group(steps: Sequence[Step]) -> list[tuple[StepKind, str, str, list[int]]]:
    """Return the steps in the order in which they are done, grouped by what can be done together."""
    order: tuple[StepKind, ...] = ("assign", "tell", "move_back", "move_on", "close")
    grouped: dict[tuple[StepKind, str, str], list[int]] = {}
    for step in sorted(steps, key=lambda step: (order.index(step.kind), step.slot)):
        grouped.setdefault((step.kind, step.source, step.target), []).append(step.slot)
    return [(*key, slots) for key, slots in grouped.items()]
