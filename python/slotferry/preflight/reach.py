"""Whether every address that the cluster announces can be reached from here.

Invariant: a primary that can't be reached ends in an error, since a part of the keys goes there; a replica in
a warning, since it may be a primary before the end.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.address_map import AddressMap
from slotferry.net.connector import Connector
from slotferry.net.replies import AnnouncedNode, ResponseError
from slotferry.preflight.rows import Row, error, not_checked, ok, warning

_AT_ONCE = 16


def judge_announced(target: Connector) -> list[Row]:
    """Connect to every node that CLUSTER SLOTS names."""
    try:
        primaries, replicas = _announced(target)
    except SlotferryError as failure:
        return [not_checked("announced-addresses", failure.message, failure.hint)]
    except ResponseError as refusal:
        return [not_checked("announced-addresses", str(refusal), "grant +cluster|slots")]
    # Side by side: one that swallows what it is sent takes seconds to give up on.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        announced = (*primaries, *replicas)
        reasons = pool.map(lambda address: _failure(target, address), announced)
        lost = {address: reason for address, reason in zip(announced, reasons, strict=True) if reason}
    lost_primaries = [address for address in primaries if address in lost]
    advice = "open the way from this host, let the nodes announce reachable addresses, or give --address-map"
    if lost_primaries:
        names = ", ".join(map(str, lost_primaries))
        return [
            error(
                "announced-addresses",
                "target",
                f"the cluster announces primaries that can't be reached: {names}: {lost[lost_primaries[0]]}",
                advice,
            )
        ]
    if lost:
        names = ", ".join(map(str, lost))
        return [
            warning(
                "announced-addresses",
                f"the cluster announces replicas that can't be reached: {names}",
                f"{advice}: after a failover the keys go there",
            )
        ]
    count = len(primaries) + len(replicas)
    return [ok("announced-addresses", f"all {count} announced addresses answer")]


def _announced(target: Connector) -> tuple[list[Address], list[Address]]:
    """Return the addresses of primaries and of replicas, each once."""
    failure: SlotferryError | None = None
    for seed in target.endpoint.addresses:
        try:
            with target.open(seed) as node:
                entries = node.parsed(replies.cluster_slots, "CLUSTER", "SLOTS")
        except SlotferryError as error_:
            failure = failure or error_
            continue
        primaries: dict[Address, None] = {}
        replicas: dict[Address, None] = {}
        for entry in entries:
            primaries[_address(entry.primary, seed, target.address_map)] = None
            replicas.update((_address(other, seed, target.address_map), None) for other in entry.replicas)
        return list(primaries), [address for address in replicas if address not in primaries]
    if failure is None:
        return [], []
    raise failure


def _address(node: AnnouncedNode, asked: Address, address_map: AddressMap) -> Address:
    """Return where a node of CLUSTER SLOTS is reached."""
    return address_map.named(node.host, node.port, asked)


def _failure(target: Connector, address: Address) -> str:
    try:
        with target.open(address):
            return ""
    except SlotferryError as failure:
        return failure.message
