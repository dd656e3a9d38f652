"""Keys of the target that lie on a node which does not own their slots: no client is sent there for them.

Invariant: what is told as misplaced was in the node's SCAN, and a second look found the slot another
primary's, open on neither of the two, and the key among those that the node still holds of it. Looking
changes nothing: what becomes of such a copy is for `reshard fix`, which gives up none that differs from its
owner's without being asked.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any
from urllib.parse import quote

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.journal import Journal
from slotferry.model.address import Address
from slotferry.model.counts import FailedKey
from slotferry.net import replies
from slotferry.net.cluster_nodes import cluster_nodes
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.net.node import Node, raise_for
from slotferry.net.replies import ResponseError
from slotferry.text import format_slots
from slotferry.topology.databases import Route
from slotferry.topology.discovery import Topology
from slotferry.topology.identity import unite
from slotferry.verify.jobs import extra_job

KIND = "misplaced"
_MOST_NAMES = 1_000
"""Keys of a slot on the wrong node are asked for by name; of more, it is enough that some are there still."""

_AT_ONCE = 500
_ROWS = 1_000


@dataclass(frozen=True)
class _Slots:
    """What a node says of its own slots."""

    owned: Collection[int]
    open: Collection[int]


def found(journal: Journal, job: str) -> Iterator[FailedKey]:
    """Yield the keys that are noted as misplaced."""
    after = 0
    while rows := journal.select(
        "SELECT id, key, slot, kind, message, node, db, source, target FROM notes "
        "WHERE job = ? AND kind = ? AND id > ? ORDER BY id LIMIT ?",
        *(job, KIND, after, _ROWS),
    ):
        after = rows[-1][0]
        for row in rows:
            yield FailedKey(*row[1:])


def all_differences(journal: Journal, job: str) -> Iterator[FailedKey]:
    """Yield what a verification has found; misplaced keys, which are copies, come last."""
    return chain(journal.failed_of((job, extra_job(job))), found(journal, extra_job(job)))


def count_all(journal: Journal, job: str) -> dict[str, int]:
    """Return how many keys a verification has found of each kind."""
    counts = journal.difference_counts((job, extra_job(job)))
    if astray := journal.count_notes(extra_job(job), KIND):
        counts[KIND] = astray
    return counts


def repair_command(target: Endpoint) -> str:
    """Return what brings misplaced keys to their owners; it asks before it gives up a value."""
    user = f"{quote(target.username, safe='')}@" if target.username else ""
    scheme = "rediss+cluster" if target.uses_tls else "redis+cluster"
    where = f"{scheme}://{user}{','.join(map(str, target.addresses))}"
    return f"slotferry reshard fix {shlex.quote(where)} --apply"


def look_again(
    journal: Journal,
    job: str,
    connector: Connector,
    topology: Topology,
    ways: Sequence[Route],
    cancel: CancelRequest,
    tell: Callable[[str], None],
) -> None:
    """Take out of the job's notes what is not misplaced, by a fresh `topology`. Raises `SlotferryError`.

    `tell` is told of slots whose keys can't be judged, since they are open.
    """
    owners = _owners(topology)
    known: dict[Address, _Slots] = {}
    for name, database in journal.select(
        "SELECT DISTINCT node, db FROM notes WHERE job = ? AND kind = ?", job, KIND
    ):
        rows = journal.select(
            "SELECT DISTINCT slot FROM notes WHERE job = ? AND kind = ? AND node = ? AND db = ?",
            *(job, KIND, name, database),
        )
        slots = [slot for (slot,) in rows]
        address = next((each for each in topology.primaries if str(each) == name), None)
        closed: list[int] = []
        if address is not None:
            for each in {address, *(owners[slot] for slot in slots if slot in owners)}:
                cancel.check()
                known[each] = known.get(each) or _slots_of(connector, each)
            closed = [slot for slot in slots if _is_astray(slot, address, owners, known)]
            opened = [slot for slot in slots if _is_open(slot, address, owners, known)]
            if opened:
                ranges = format_slots(unite(((slot, slot),) for slot in opened), 4)
                tell(
                    f"slots {ranges} are open (a move is under way, or was broken off): their keys on {name} "
                    "are not judged; where nothing moves them any more, use 'slotferry reshard fix'"
                )
        _forget_slots(journal, job, database, name, set(slots) - set(closed))
        if address is not None and closed:
            target = next((route.target for route in ways if route.source == database), 0)
            with connector.open(address) as node:
                if target:
                    node.need("SELECT", target)
                _look_at_keys(journal, job, database, node, name, closed, cancel)


def _owners(topology: Topology) -> dict[int, Address]:
    return {
        slot: Address(host, port)
        for first, last, host, port in topology.ranges
        for slot in range(first, last + 1)
    }


def _is_astray(
    slot: int, here: Address, owners: Mapping[int, Address], known: Mapping[Address, _Slots]
) -> bool:
    """Whether a slot is another primary's by both nodes' own word, and not on its way between any."""
    owner = owners.get(slot)
    if owner is None or owner == here:
        return False
    return (
        slot not in known[here].owned
        and slot not in known[here].open
        and slot in known[owner].owned
        and slot not in known[owner].open
    )


def _is_open(
    slot: int, here: Address, owners: Mapping[int, Address], known: Mapping[Address, _Slots]
) -> bool:
    """Whether a slot is another primary's, and on its way between this one and that one or any other."""
    owner = owners.get(slot)
    return owner is not None and owner != here and slot in {*known[here].open, *known[owner].open}


def _slots_of(connector: Connector, address: Address) -> _Slots:
    with connector.open(address) as node:
        own = node.need_parsed(lambda reply: cluster_nodes(reply, only_itself=True), "CLUSTER", "NODES")
    owned = {slot for node in own for slot in node.slots}
    return _Slots(owned, {slot for node in own for slot in (*node.migrating, *node.importing)})


def _look_at_keys(
    journal: Journal,
    job: str,
    database: int,
    node: Node,
    name: str,
    slots: Sequence[int],
    cancel: CancelRequest,
) -> None:
    """Take out keys that the node holds no more."""
    for first in range(0, len(slots), _AT_ONCE):
        cancel.check()
        part = slots[first : first + _AT_ONCE]
        counts = _ask(node, replies.integer, "COUNTKEYSINSLOT", [(slot,) for slot in part])
        held = dict(zip(part, counts, strict=True))
        _forget_slots(journal, job, database, name, [slot for slot, count in held.items() if not count])
        for slot in (slot for slot, count in held.items() if 0 < count <= _MOST_NAMES):
            ((*names,),) = _ask(node, replies.texts, "GETKEYSINSLOT", [(slot, _MOST_NAMES)])
            _forget_others(journal, job, database, name, slot, names)


def _ask(node: Node, parse: Any, command: str, arguments: Sequence[Sequence[int]]) -> list[Any]:
    replied = node.call_many([("CLUSTER", command, *some) for some in arguments])
    for reply in replied:
        if isinstance(reply, ResponseError):
            raise_for(reply, node, f"CLUSTER {command}")
    return [node.take(parse, reply, f"CLUSTER {command}") for reply in replied]


def _forget_slots(journal: Journal, job: str, database: int, node: str, slots: Collection[int]) -> None:
    with journal.transaction() as execute:
        for slot in slots:
            execute(
                "DELETE FROM notes WHERE job = ? AND kind = ? AND db = ? AND node = ? AND slot = ?",
                (job, KIND, database, node, slot),
            )


def _forget_others(
    journal: Journal, job: str, database: int, node: str, slot: int, names: Collection[bytes]
) -> None:
    """Forget keys of a slot that are not among those which the node still holds."""
    held = set(names)
    rows = journal.select(
        "SELECT id, key FROM notes WHERE job = ? AND kind = ? AND db = ? AND node = ? AND slot = ?",
        *(job, KIND, database, node, slot),
    )
    with journal.transaction() as execute:
        for number, key in rows:
            if key not in held:
                execute("DELETE FROM notes WHERE id = ?", (number,))
