"""What between two looks at the target counts as something that may have cost keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.topology.identity import (
    NodeState,
    Slots,
    compare_looks,
    intersect,
    is_replaced,
    subtract,
    unite,
)

A = NodeState(
    node_id="a",
    address="n1:7000",
    slots=((0, 99),),
    run_id="run-a",
    primary=True,
    replication_id="repl-a",
    previous_replication_id="0",
    offset=1000,
    commands=500,
    resets=0,
    flushes=1,
    migrations=0,
    evicted=7,
    expired=10,
    volatile=0,
    keys={"0": 1000, "2": 50},
)
B = replace(A, node_id="b", address="n2:7000", slots=((100, 199),), run_id="run-b", replication_id="repl-b")


def kinds(before: list[NodeState], now: list[NodeState]) -> list[tuple[str, Slots]]:
    return [(doubt.kind, doubt.slots) for doubt in compare_looks(before, now, {0})[0]]


def test_what_goes_on_as_ever_is_no_doubt() -> None:
    busy = replace(A, commands=900, offset=2000, expired=310, keys={"0": 700, "2": 0}, volatile=5)
    assert kinds([A, B], [busy, B]) == []
    assert kinds([A], [replace(A, keys={"0": 995})]) == []  # temporary keys of large ones


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (replace(A, run_id="other", flushes=0, evicted=0), "restarted"),
        (replace(A, primary=False), "failed_over"),
        (replace(A, replication_id="other", previous_replication_id="repl-a"), "resynchronised"),
        (replace(A, offset=999), "resynchronised"),
        (replace(A, flushes=2, keys={}), "emptied"),
        (replace(A, evicted=8), "evicting"),
        (replace(A, commands=3, flushes=0, evicted=0, expired=0), "reset"),
        (replace(A, resets=1, commands=900, flushes=0, evicted=0, expired=0), "reset"),
        (replace(A, resets=1, commands=3, flushes=1, evicted=0, expired=0), "emptied"),
        (replace(A, keys={"0": 980, "2": 50}), "fewer"),
        (replace(A, keys={"0": 900, "2": 150}, expired=50), "fewer"),
    ],
)
def test_what_may_have_cost_keys_is_a_doubt_about_the_node_s_slots(now: NodeState, kind: str) -> None:
    assert (kind, A.slots) in kinds([A, B], [now, B])
    assert all(found == (kind, A.slots) or found[0] == "fewer" for found in kinds([A, B], [now, B]))


def test_slots_that_leave_take_their_keys_along() -> None:
    assert kinds([A], [replace(A, keys={"0": 500}, migrations=3)]) == []
    halved, grown = replace(A, slots=((0, 49),), keys={"0": 500}), replace(B, slots=((50, 199),))
    assert kinds([A, B], [halved, grown]) == [("moved", ((50, 99),))]


def test_a_replica_that_takes_over_is_told_from_slots_that_move() -> None:
    promoted = replace(A, node_id="c", run_id="run-c", replication_id="r", previous_replication_id="repl-a")
    assert kinds([A, B], [promoted, B]) == [("failed_over", A.slots)]
    demoted = replace(A, primary=False, slots=())
    assert kinds([A, B], [demoted, promoted, B]) == [("failed_over", A.slots)] * 2
    # The old primary has not heard of it yet.
    assert kinds([A, B], [A, promoted, B]) == [("failed_over", A.slots)]


def test_a_node_that_does_not_answer_is_no_news_until_another_serves_its_slots() -> None:
    doubts, known = compare_looks([A, B], [B], {0})
    assert doubts == []
    assert {node.node_id for node in known} == {"a", "b"}
    heir = replace(B, slots=((40, 199),))
    doubts, known = compare_looks(known, [heir], {0})
    assert [(d.kind, d.slots) for d in doubts] == [("failed_over", ((40, 99),))]
    assert {node.node_id: node.slots for node in known} == {"a": ((0, 39),), "b": ((40, 199),)}
    assert compare_looks(known, [heir], {0})[0] == []


def test_another_or_an_empty_cluster_has_nothing_of_what_was_written() -> None:
    assert "another cluster" in is_replaced([A, B], [replace(A, node_id="x"), replace(B, node_id="y")], {0})
    assert "every key" in is_replaced([A, B], [replace(A, keys={"2": 50}), replace(B, keys={})], {0})
    assert is_replaced([A, B], [replace(A, keys={}), replace(B, node_id="y")], {0}) == ""


def test_a_state_is_read_as_it_was_written() -> None:
    assert NodeState.from_dict(A.to_dict()) == A


def _ranges(slots: set[int]) -> Slots:
    return unite(((slot, slot),) for slot in slots)


def _members(slots: Slots) -> set[int]:
    return {slot for first, last in slots for slot in range(first, last + 1)}


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_ranges_are_sets(one: set[int], other: set[int]) -> None:
    assert _members(_ranges(one)) == one
    assert _members(intersect(_ranges(one), _ranges(other))) == one & other
    assert _members(subtract(_ranges(one), _ranges(other))) == one - other
    assert _members(unite([_ranges(one), _ranges(other)])) == one | other
