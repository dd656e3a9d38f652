"""Topology: what CLUSTER SLOTS says, what is missing, and refreshing without being waited for."""

import threading
import time
from collections.abc import Callable

import pytest

from slotferry.errors import MixedTargetError, TargetLostError
from slotferry.model.address import Address
from slotferry.net.address_map import AddressMap
from slotferry.topology.discovery import Topology, parse_cluster_slots
from slotferry.topology.views import TopologyRefresher

FULL = Topology(((0, 8191, "a", 1), (8192, 16383, "b", 2)))


def test_cluster_slots_becomes_ranges() -> None:
    reply = [
        [8192, 16383, [b"10.0.0.2", 7001, b"id2"], [b"10.0.0.9", 7009, b"replica"]],
        [0, 8191, [b"10.0.0.1", 7000, b"id1", []]],
    ]
    topology = parse_cluster_slots(reply, Address("asked", 1))
    assert topology.ranges == ((0, 8191, "10.0.0.1", 7000), (8192, 16383, "10.0.0.2", 7001))
    assert topology.primaries == (Address("10.0.0.1", 7000), Address("10.0.0.2", 7001))
    assert topology.missing == []


@pytest.mark.parametrize("host", [b"", b"?", None])
def test_a_host_that_is_not_known_is_the_one_asked(host: bytes | None) -> None:
    assert parse_cluster_slots([[0, 1, [host, 7000, b"id"]]], Address("::1", 1)).ranges == (
        (0, 1, "::1", 7000),
    )


@pytest.mark.parametrize(
    ("ranges", "missing"),
    [
        ((), [(0, 16383)]),
        (((0, 16383, "a", 1),), []),
        (((1, 16382, "a", 1),), [(0, 0), (16383, 16383)]),
        (((100, 200, "b", 2), (0, 50, "a", 1)), [(51, 99), (201, 16383)]),
        (((0, 10, "a", 1), (11, 16383, "a", 1)), []),
    ],
)
def test_missing_ranges(
    ranges: tuple[tuple[int, int, str, int], ...], missing: list[tuple[int, int]]
) -> None:
    assert Topology(ranges).missing == missing


def poll_until(refresher: TopologyRefresher, condition: Callable[[Topology | None], bool]) -> Topology | None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        topology = refresher.poll()
        if condition(topology):
            return topology
        time.sleep(0.001)
    raise AssertionError("waited in vain")


def test_a_refresh_runs_beside_its_caller_and_one_at_a_time() -> None:
    gate, calls = threading.Event(), []

    def refresh() -> Topology:
        calls.append(threading.current_thread())
        assert gate.wait(20)
        return FULL

    refresher = TopologyRefresher(refresh, interval=0)
    assert refresher.poll() is None
    assert not calls  # nobody wanted it
    for _ in range(5):
        refresher.want()
        assert refresher.poll() is None  # returns though the refresh hangs
    gate.set()
    assert poll_until(refresher, bool) == FULL
    # It was wanted again meanwhile, so one more follows, and then none.
    assert poll_until(refresher, bool) == FULL
    assert refresher.poll() is None
    assert len(calls) == 2
    assert threading.current_thread() not in calls


def test_a_refresh_that_fails_is_tried_again() -> None:
    failures = [TargetLostError("gone"), TargetLostError("gone")]

    def refresh() -> Topology:
        if failures:
            raise failures.pop()
        return FULL

    refresher = TopologyRefresher(refresh, interval=0)
    refresher.want()
    assert poll_until(refresher, bool) == FULL


def test_a_refresh_that_meets_two_clusters_is_told() -> None:
    refusal = MixedTargetError("two")

    def refresh() -> Topology:
        raise refusal

    refresher = TopologyRefresher(refresh, interval=0)
    refresher.want()
    with pytest.raises(MixedTargetError):
        poll_until(refresher, bool)


def test_the_ids_of_nodes_are_those_of_primaries_and_replicas() -> None:
    reply = [
        [0, 8191, [b"h", 1, b"one", []], [b"h", 2, b"replica", []]],
        [8192, 16382, [b"h", 3, b"two"]],
        [16383, 16383, [b"h", 4]],  # a proxy that tells none
    ]
    topology = parse_cluster_slots(reply, Address("asked", 1))
    assert topology.node_ids == {"one", "two", "replica"}
    assert topology.primary_ids == {Address("h", 1): "one", Address("h", 3): "two", Address("h", 4): ""}


def test_primaries_that_an_address_map_makes_one_are_told() -> None:
    reply = [[0, 99, [b"a", 1, b"id-1"]], [100, 199, [b"b", 1, b"id-2"]], [200, 299, [b"a", 1, b"id-1"]]]
    asked = Address("a", 1)
    assert not parse_cluster_slots(reply, asked).shared
    assert parse_cluster_slots(reply, asked, AddressMap.parse(["b:1=a:1"])).shared == {Address("a", 1)}
