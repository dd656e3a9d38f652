"""Which of the nodes' views counts, and that none is waited for in vain."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from slotferry.errors import MixedTargetError, SlotferryError, TargetLostError
from slotferry.model.address import Address
from slotferry.topology.discovery import Topology
from slotferry.topology.views import TopologyViews, View

A, B, C = (Address("h", port) for port in (1, 2, 3))
OLD, NEW = Topology(((0, 16_383, "h", 1),)), Topology(((0, 16_383, "h", 2),))
PART = Topology(((0, 99, "h", 3),))


def views(**nodes: View | SlotferryError | Callable[[], View]) -> TopologyViews:
    """Nodes by the letters above, each with what it says."""

    def look(address: Address) -> View:
        answer = nodes[" abc"[address.port]]
        if isinstance(answer, SlotferryError):
            raise answer
        return answer if isinstance(answer, View) else answer()

    return TopologyViews(look, [Address("h", " abc".index(name)) for name in nodes])


def test_the_newest_view_counts_and_of_those_as_new_the_fullest() -> None:
    asked = views(a=View(OLD, 6), b=View(NEW, 7), c=View(PART, 7))
    assert asked.refresh([A]) == NEW


def test_nodes_that_do_not_answer_are_passed_over() -> None:
    gone = TargetLostError("gone")
    assert views(a=gone, b=View(NEW, 1), c=gone).refresh([A, B]) == NEW
    with pytest.raises(TargetLostError, match="gone"):
        views(a=gone).refresh([])


def test_a_node_that_hangs_is_neither_waited_for_nor_asked_again() -> None:
    freed, calls = threading.Event(), []

    def hang() -> View:
        calls.append(1)
        assert freed.wait(60)
        return View(OLD, 1)

    asked = views(a=hang, b=View(NEW, 2))
    for _ in range(3):
        assert asked.refresh([A, B]) == NEW
    assert len(calls) == 1
    freed.set()


def test_a_node_that_was_cut_off_does_not_bring_its_old_view_back() -> None:
    nodes: dict[str, View | SlotferryError] = {"a": View(OLD, 6), "b": View(NEW, 7)}
    asked = views(a=lambda: View(OLD, 6), b=lambda: _given(nodes["b"]))
    assert asked.refresh([]) == NEW
    nodes["b"] = TargetLostError("gone")
    with pytest.raises(TargetLostError, match="lags behind"):
        asked.refresh([])


def _given(answer: View | SlotferryError) -> View:
    if isinstance(answer, SlotferryError):
        raise answer
    return answer


def test_another_cluster_is_never_believed() -> None:
    def of(topology: Topology, epoch: int, *ids: str) -> View:
        return View(replace(topology, node_ids=frozenset(ids)), epoch)

    nodes = {A: of(OLD, 6, "one", "two"), B: of(NEW, 9, "strange"), C: of(NEW, 7, "two", "three")}
    asked = TopologyViews(nodes.__getitem__, [A, C], {"one", "two"})

    assert (
        asked.refresh([A, B, C]) == NEW
    )  # C's; the stranger at B, no seed, is passed over for all its epoch
    nodes[A] = of(OLD, 8, "three")  # known by now
    assert asked.refresh([A]) == OLD
    nodes[C] = of(NEW, 9, "strange")
    with pytest.raises(MixedTargetError, match="h:1 and h:3 belong to two clusters"):
        asked.refresh([A])
