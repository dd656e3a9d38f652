"""Which slots to move so that every node holds its share: arithmetic, without a cluster.

Invariant: a slot moves at most once, from a node above its share to one below it; no node is both giver and
taker. Few slots move and few ranges result: heavy slots one by one, the others as runs from the edge of a
range. What no choice of slots can balance is said, not hidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slotferry.text import ranges_of

_HEAVY = (
    4.0  # times the mean weight of the giver's slots: such a slot is chosen for its weight, not its place
)
_SETTLE = 0.5  # of the threshold: where moving stops, so that the next plan finds nothing to do


@dataclass(frozen=True)
class Move:
    """One slot that changes its owner."""

    slot: int
    source: str
    target: str


@dataclass(frozen=True)
class Balance:
    """The moves, and what they leave unbalanced, in words."""

    moves: tuple[Move, ...]
    remarks: tuple[str, ...] = ()


class _Node:
    def __init__(
        self, name: str, part: float, share: float, slots: list[int], weights: Sequence[float]
    ) -> None:
        self.name = name
        self.part = part  # as the caller gave it; 0 for a node to be emptied
        self.share = share  # the weight it should hold
        self.slots = set(slots)
        self.load = sum(weights[slot] for slot in slots)

    @property
    def surplus(self) -> float:
        return self.load - self.share


def balance(
    owners: Sequence[str | None],
    weights: Sequence[float],
    shares: Mapping[str, float],
    *,
    threshold: float = 0.02,
    max_moves: int | None = None,
    names: Mapping[str, str] | None = None,
) -> Balance:
    """Return the moves after which each node holds its part of `shares` of the weight, within `threshold`.

    `owners[slot]` is a node's name and `weights[slot]` what the slot counts for. `shares` are in any unit; a
    node with a share of 0 is emptied, whatever its slots weigh. Where every node is within `threshold` (a
    part of its share) nothing moves; `names` are what the remarks call the nodes.
    """
    return _Balancer(owners, weights, shares, threshold, max_moves, names or {}).run()


class _Balancer:
    def __init__(
        self,
        owners: Sequence[str | None],
        weights: Sequence[float],
        shares: Mapping[str, float],
        threshold: float,
        max_moves: int | None,
        names: Mapping[str, str],
    ) -> None:
        self.weights = weights
        self.names = names
        self.threshold = threshold
        self.limit = len(owners) if max_moves is None else max_moves
        held: dict[str, list[int]] = defaultdict(list)
        for slot, owner in enumerate(owners):
            if owner is not None:
                held[owner].append(slot)
        self.nodes = {
            name: _Node(name, shares[name], share, held.get(name, []), weights)
            for name, share in _reachable_shares(held, weights, shares).items()
        }
        self.fair = _fair_shares(sum(node.load for node in self.nodes.values()), shares)
        self.moves: list[Move] = []
        self.stuck: set[tuple[str, str]] = set()

    def run(self) -> Balance:
        for node in sorted(self.nodes.values(), key=lambda node: node.name):
            if node.part == 0:
                self.drain(node)
        if any(self.is_off(node, self.threshold) for node in self.nodes.values()):
            self.level()
        return Balance(tuple(sorted(self.moves, key=lambda move: move.slot)), tuple(self.remarks()))

    def is_off(self, node: _Node, threshold: float) -> bool:
        return abs(node.surplus) > max(threshold * node.share, 1e-9)

    def drain(self, node: _Node) -> None:
        """Give all of a node's slots away, to each taker in runs."""
        takers = [other for other in self.nodes.values() if other.part > 0]
        rest = sorted(node.slots)
        # Slots that weigh nothing would all go to one node: a run is a fair part at most.
        fair = max(1, -(-len(rest) // len(takers)))
        while rest and len(self.moves) < self.limit:
            taker = min(takers, key=lambda other: (other.surplus / other.part, len(other.slots)))
            run = self.fill(taker, rest)[: min(fair, self.limit - len(self.moves))]
            self.give(node, taker, run)
            rest = rest[len(run) :]

    def fill(self, taker: _Node, slots: list[int]) -> list[int]:
        """Return the beginning of `slots` that brings `taker` up to its share; one slot at least."""
        load = taker.load
        for count, slot in enumerate(slots):
            if count and load + self.weights[slot] / 2 > taker.share:
                return slots[:count]
            load += self.weights[slot]
        return slots

    def level(self) -> None:
        goal = self.threshold * _SETTLE
        while len(self.moves) < self.limit:
            pair = self.next_pair(goal)
            if pair is None:
                return
            giver, taker = pair
            amount = min(giver.surplus, -taker.surplus)
            tolerance = goal * min(giver.share, taker.share)
            chosen = self.choose(giver, taker, amount, tolerance)
            if not chosen:
                self.stuck.add((giver.name, taker.name))
            for slot in chosen[: self.limit - len(self.moves)]:
                self.give(giver, taker, [slot])

    def next_pair(self, goal: float) -> tuple[_Node, _Node] | None:
        """Return the node that is furthest above its share and the one furthest below, if one is off."""
        live = [node for node in self.nodes.values() if node.part > 0]
        gave, took = {move.source for move in self.moves}, {move.target for move in self.moves}
        givers = [node for node in live if node.surplus > 0 and node.name not in took]
        takers = [node for node in live if node.surplus < 0 and node.name not in gave]
        givers.sort(key=lambda node: (-node.surplus, node.name))
        takers.sort(key=lambda node: (node.surplus, node.name))
        for giver in givers:
            for taker in takers:
                off = self.is_off(giver, goal) or self.is_off(taker, goal)
                if off and (giver.name, taker.name) not in self.stuck and giver.slots:
                    return giver, taker
        return None

    def choose(self, giver: _Node, taker: _Node, amount: float, tolerance: float) -> list[int]:
        """Return slots of `giver` that weigh about `amount`, never more than what makes things worse."""
        weighty = [slot for slot in giver.slots if self.weights[slot] > 0]
        if not weighty:
            return []
        mean = sum(self.weights[slot] for slot in weighty) / len(weighty)
        chosen: list[int] = []
        left = amount
        for slot in sorted(weighty, key=lambda slot: -self.weights[slot]):
            weight = self.weights[slot]
            if weight <= _HEAVY * mean:
                break
            if weight <= left:
                chosen.append(slot)
                left -= weight
        run: list[int] = []
        for slot in self.runs(giver.slots - set(chosen), taker):
            if left <= tolerance and (chosen or run):
                break
            weight = self.weights[slot]
            # A little too much is nearer to the share than much too little.
            if weight <= left or weight - left < max(left / 2, tolerance):
                run.append(slot)
                left -= weight
            if left <= 0:
                break
        # Slots that weigh nothing keep a run together; at its end they are of no use.
        while run and not self.weights[run[-1]]:
            run.pop()
        return chosen + run

    def runs(self, slots: set[int], taker: _Node) -> list[int]:
        """Return the slots in the order that leaves few ranges: small ones whole, large ones from an edge."""
        ordered: list[int] = []
        for first, last in sorted(ranges_of(slots), key=lambda ends: ends[1] - ends[0]):
            run = range(first, last + 1)
            # Next to what the taker has already, the run only makes that range longer.
            ordered += run if first - 1 in taker.slots else reversed(run)
        return ordered

    def give(self, giver: _Node, taker: _Node, slots: Sequence[int]) -> None:
        for slot in slots:
            self.moves.append(Move(slot, giver.name, taker.name))
            giver.slots.discard(slot)
            taker.slots.add(slot)
            giver.load -= self.weights[slot]
            taker.load += self.weights[slot]

    def remarks(self) -> list[str]:
        found = []
        if len(self.moves) >= self.limit and self.limit < len(self.weights):
            found.append(f"stopped at {self.limit:,} moves; plan again after them for the rest")
            return found
        for node in self.nodes.values():
            fair = self.fair[node.name]
            over = node.load / fair - 1 if fair else 0.0
            if over > self.threshold and node.slots:
                slot = max(node.slots, key=lambda slot: self.weights[slot])
                name = self.names.get(node.name, node.name)
                part = self.weights[slot] / fair
                found.append(
                    f"{name} stays {over:.1%} above its share: its heaviest slot {slot} alone is {part:.0%} "
                    "of that share, and a slot can't be divided"
                )
        return found


def _fair_shares(total: float, shares: Mapping[str, float]) -> dict[str, float]:
    whole = sum(shares.values())
    return {name: total * share / whole for name, share in shares.items()}


def _reachable_shares(
    held: Mapping[str, list[int]], weights: Sequence[float], shares: Mapping[str, float]
) -> dict[str, float]:
    """Return what each node is to hold. One whose heaviest slot outweighs its share holds that slot alone.

    What is left is divided among the others, which is the best that can be done.
    """
    heaviest = {
        name: max((weights[slot] for slot in held.get(name, [])), default=0.0)
        for name, share in shares.items()
        if share > 0
    }
    total = sum(weights[slot] for slots in held.values() for slot in slots)
    pinned: dict[str, float] = {}
    while True:
        free = {name: share for name, share in shares.items() if name not in pinned}
        reachable = _fair_shares(total - sum(pinned.values()), free)
        over = [name for name, share in reachable.items() if heaviest.get(name, 0.0) > share]
        if not over or len(pinned) + len(over) >= len(heaviest):
            return {**reachable, **pinned}
        pinned.update({name: heaviest[name] for name in over})
