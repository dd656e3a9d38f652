"""Which slots move: fewest, in few ranges, and never in circles."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from slotferry._core import SLOTS
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.plan.balance import Balance, balance
from slotferry.text import ranges_of, slots_in


def even(nodes: str, slots: int = SLOTS) -> list[str | None]:
    return [nodes[slot * len(nodes) // slots] for slot in range(slots)]


def loads(owners: list[str | None], weights: list[float], result: Balance) -> dict[str, float]:
    after = {move.slot: move.target for move in result.moves}
    found: dict[str, float] = {}
    for slot, owner in enumerate(owners):
        node = after.get(slot, str(owner))
        found[node] = found.get(node, 0) + weights[slot]
    return found


def range_count(owners: list[str | None], result: Balance) -> int:
    after = {move.slot: move.target for move in result.moves}
    final = [after.get(slot, owner) for slot, owner in enumerate(owners)]
    return sum(len(ranges_of(s for s in range(SLOTS) if final[s] == node)) for node in set(final))


def test_what_is_balanced_stays_as_it_is() -> None:
    assert balance(even("abc"), [1] * SLOTS, {"a": 1, "b": 1, "c": 1}).moves == ()


def test_a_new_node_gets_its_share_in_few_ranges() -> None:
    owners = even("abc")
    result = balance(owners, [1] * SLOTS, dict.fromkeys("abcd", 1))
    assert 4055 <= len(result.moves) <= 4096
    assert {move.target for move in result.moves} == {"d"}
    assert range_count(owners, result) <= 6
    for load in loads(owners, [1.0] * SLOTS, result).values():
        assert abs(load / 4096 - 1) <= 0.02


def test_a_drained_node_is_emptied_even_of_slots_that_weigh_nothing() -> None:
    owners = even("abc")
    result = balance(owners, [0.0] * SLOTS, {"a": 1, "b": 1, "c": 0})
    after = loads(owners, [1.0] * SLOTS, result)
    assert "c" not in after
    assert abs(after["a"] - after["b"]) <= 1
    assert range_count(owners, result) <= 4


def test_weights_of_nodes() -> None:
    owners = even("ab")
    after = loads(owners, [1.0] * SLOTS, balance(owners, [1] * SLOTS, {"a": 3, "b": 1}))
    assert abs(after["a"] / (SLOTS * 3 / 4) - 1) <= 0.02


def test_one_heavy_slot_that_can_be_balanced() -> None:
    owners = even("abc")
    weights = [1.0] * SLOTS
    weights[100] = SLOTS / 4  # 20 % of all
    result = balance(owners, weights, dict.fromkeys("abc", 1))
    after = loads(owners, weights, result)
    assert max(after.values()) <= sum(weights) / 3 * 1.05
    assert result.remarks == ()


def test_a_slot_heavier_than_a_share_is_said_and_the_rest_is_even() -> None:
    owners = even("abc")
    weights = [1.0] * SLOTS
    weights[100] = SLOTS * 2.0
    result = balance(owners, weights, dict.fromkeys("abc", 1), names={"a": "node-a"})
    after = loads(owners, weights, result)
    assert abs(after["b"] / after["c"] - 1) < 0.02
    assert "node-a" in result.remarks[0]
    assert "slot 100" in result.remarks[0]


def test_no_more_moves_than_allowed() -> None:
    result = balance(even("ab"), [1] * SLOTS, {"a": 1, "b": 1, "c": 1}, max_moves=100)
    assert len(result.moves) == 100
    assert "100 moves" in result.remarks[0]


def test_a_second_plan_finds_nothing_to_do() -> None:
    rng = random.Random(7)
    owners = even("abcd")
    weights = [rng.expovariate(1) * (1 + 3 * (slot < SLOTS // 4)) for slot in range(SLOTS)]
    shares = dict.fromkeys("abcd", 1)
    first = balance(owners, weights, shares)
    for move in first.moves:
        owners[move.slot] = move.target
    assert first.moves
    assert balance(owners, weights, shares).moves == ()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), nodes=st.integers(2, 6), drained=st.integers(0, 1))
def test_a_slot_moves_once_and_no_node_gives_and_takes(seed: int, nodes: int, drained: int) -> None:
    rng = random.Random(seed)
    names = "abcdef"[:nodes]
    owners: list[str | None] = [rng.choice(names) for _ in range(256)]
    weights = [rng.choice([0.0, 1.0, 5.0, rng.random() * 100]) for _ in range(256)]
    shares = {name: rng.uniform(0.5, 2) for name in names}
    if drained:
        shares[names[0]] = 0
    moves = balance(owners, weights, shares).moves
    assert len({move.slot for move in moves}) == len(moves)
    assert all(owners[move.slot] == move.source for move in moves)
    assert not {move.source for move in moves} & {move.target for move in moves}
    if drained:
        assert sum(move.source == names[0] for move in moves) == owners.count(names[0])


def test_ranges_as_text() -> None:
    assert format_ranges([3, 1, 2, 9]) == "1-3,9"
    assert slots_in("1-3,9") == [1, 2, 3, 9]
    assert slots_in(format_ranges([])) == []
