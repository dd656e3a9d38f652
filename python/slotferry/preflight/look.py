"""Samples the chosen keys of the source, database by database, and says how far it is.

Invariant: the rate holds over all databases together, and each has the part of the sample that it has of the
keys. Figures are for the chosen keys alone: how many there are is an estimate, unless all were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from slotferry.model.address import Address
from slotferry.model.key_filter import Selection
from slotferry.net.connector import Connector
from slotferry.preflight.keyspace.sampling import Choice, Sampler
from slotferry.preflight.keyspace.summary import KeyspaceSums
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.databases import Route
from slotferry.topology.discovery import SourceFacts
from slotferry.topology.product import scans_by_slot

Notify = Callable[[str], None]
Progress = Callable[[int, int], None]
"""Told how many keys were looked at, and how many are to be."""

_UNEXPLAINED = 0.15  # as much may be the servers' own tables
_SOUGHT = 4  # times the sample, where its keys do not explain the memory in use


@dataclass
class Looked:
    """What was found. keys: how many are chosen, as far as is known; rdb_types: as `Sampler` has them."""

    sums: KeyspaceSums = field(default_factory=KeyspaceSums)
    keys: int = 0
    rdb_types: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class DataMemory:
    """The memory that the keys take, 0 where that is not known; more than that, where it is not exact."""

    bytes: int = 0
    is_exact: bool = True


@dataclass(frozen=True)
class _Place:
    """A server; `slots` are those that it owns, where its SCAN goes from slot to slot."""

    address: Address | None
    slots: Sequence[int] = ()


class Look:
    """Looks at the keys of the source that a migration would take."""

    def __init__(
        self,
        connector: Connector,
        facts: SourceFacts,
        selection: Selection,
        rate: float,
        notify: Notify,
        progress: Progress,
    ) -> None:
        self._connector = connector
        self._facts = facts
        self._selection = selection
        self._rate = rate
        self._notify = notify
        self._progress = progress
        self._done = 0

    def run(self, routes: Sequence[Route], counts: Sequence[int], wanted: int, memory: DataMemory) -> Looked:
        """Look at about `wanted` keys of the routes' databases, which have so many `counts`.

        Raises `SourceLostError`, and `ResponseError` where SCAN is refused.
        """
        total = sum(counts)
        looked = Looked()
        shares = [keys if wanted >= total else -(-wanted * keys // total) for keys in counts]
        for route, keys, share in zip(routes, counts, shares, strict=True):
            for place, parts in self._places(keys, share):
                with self._sampler(looked, route, min(wanted, total), place) as sampler:
                    sampler.run(*parts)
                    looked.keys += sampler.estimate(parts[0])
                    for kind, key in sampler.rdb_types.items():
                        looked.rdb_types.setdefault(kind, key)
        missing = looked.sums.unexplained(total, memory.bytes)
        if wanted >= total or missing <= memory.bytes * _UNEXPLAINED:
            return looked
        self._notify(
            f"the sample explains {1 - missing / memory.bytes:.0%} of the memory in use"
            f"{'' if memory.is_exact else ', in which other databases have a part'}: asking "
            f"up to {min(total, _SOUGHT * wanted):,} more keys for their size"
        )
        for route, share in zip(routes, shares, strict=True):
            for place, (_, part) in self._places(total, share):
                with self._sampler(looked, route, min(wanted, total), place) as sampler:
                    sampler.seek(total, memory.bytes, _SOUGHT * part, _UNEXPLAINED)
        return looked

    def _places(self, keys: int, share: int) -> Iterator[tuple[_Place, tuple[int, int]]]:
        """Yield where to look, and at how many of how many keys: of a cluster, at each primary's part."""
        facts = self._facts
        if not isinstance(facts, ClusterFacts):
            yield _Place(facts.address(self._connector.endpoint)), (keys, share)
            return
        count = len(facts.nodes)
        for node in facts.nodes:
            by_slot = node.server is not None and scans_by_slot(node.server.product)
            place = _Place(node.address, sorted(node.slots) if by_slot else ())
            yield place, (-(-keys // count), -(-share // count))

    @contextmanager
    def _sampler(self, looked: Looked, route: Route, total: int, place: _Place) -> Iterator[Sampler]:
        """Give what looks at the keys of a route's database."""
        before = self._done

        def on_progress(asked: int) -> None:
            self._done = before + asked
            self._progress(self._done, max(total, self._done))

        with self._connector.open(place.address) as node:
            if route.source:
                node.need("SELECT", route.source)
            yield Sampler(
                node,
                self._rate,
                self._facts.round_trip,
                choice=Choice.of(self._selection, route),
                sums=looked.sums,
                on_progress=on_progress,
                slots=place.slots,
            )
