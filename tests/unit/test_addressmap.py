"""The address map: what it maps, and that it leaves the rest alone."""

import pytest

from slotferry.errors import UsageError
from slotferry.model.address import Address
from slotferry.net.address_map import AddressMap
from slotferry.topology.discovery import parse_cluster_slots

MAP = AddressMap.parse(["10.0.0.7:7000=nat:17000", "10.0.0.8=nat8.example", "[fd00::1]:7000=[::1]:7001"])


@pytest.mark.parametrize(
    ("announced", "reached"),
    [
        (Address("10.0.0.7", 7000), Address("nat", 17000)),
        (Address("10.0.0.7", 7001), Address("10.0.0.7", 7001)),
        (Address("10.0.0.8", 7001), Address("nat8.example", 7001)),
        (Address("fd00::1", 7000), Address("::1", 7001)),
        (Address("10.0.0.9", 7000), Address("10.0.0.9", 7000)),
    ],
)
def test_maps_what_it_names(announced: Address, reached: Address) -> None:
    assert MAP.reach(announced) == reached


def test_a_rule_with_a_port_goes_first_and_names_are_compared_without_case() -> None:
    rules = AddressMap.parse(["Node-1.Internal=a", "node-1.internal:7000=b:1"])
    assert rules.reach(Address("NODE-1.internal", 7000)) == Address("b", 1)
    assert rules.reach(Address("node-1.internal", 7001)) == Address("a", 7001)


def test_a_node_that_names_itself_by_its_port_alone_means_the_host_that_it_announces() -> None:
    assert MAP.announced_host(Address("nat", 17000)) == "10.0.0.7"
    assert MAP.announced_host(Address("nat8.example", 5)) == "10.0.0.8"
    assert MAP.announced_host(Address("elsewhere", 5)) == "elsewhere"
    reply = [[0, 16383, [None, 7000, b"id"]]]
    assert parse_cluster_slots(reply, Address("nat", 17000), MAP).ranges == ((0, 16383, "nat", 17000),)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("", "no '='"),
        ("a", "no '='"),
        ("=b", "unreadable host"),
        ("a=", "unreadable host"),
        ("a:0=b:1", "unreadable host or port"),
        ("a:1=b:65536", "unreadable host or port"),
        ("a:x=b:1", "unreadable host or port"),
        ("fd00::1=b", "unreadable host or port"),
        ("a=b=c", "unreadable host or port"),
        ("a:1=b", "a port on one side only"),
        ("a=b:1", "a port on one side only"),
    ],
)
def test_refuses_what_makes_no_sense(entry: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        AddressMap.parse([entry])
    assert "10.0.0.7:6379=" in caught.value.hint


def test_one_address_is_reached_at_one_place() -> None:
    with pytest.raises(UsageError, match="twice"):
        AddressMap.parse(["a=b", "A=c"])
    assert AddressMap.parse(["a=b", "A=b"]).rules == (("a", None, "b", None),)
