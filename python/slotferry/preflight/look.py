"""Samples the chosen keys of the source, database by database, and says how far it is.

Invariant: the rate holds over all databases together, and each has the part of the sample that it has of the
keys. Figures are for the chosen keys alone: how many there are is an estimate, unless all were looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from slotferry.model.key_filter import Selection
from slotferry.net.connector import Connector
from slotferry.preflight.keyspace.sampling import Choice, Sampler
from slotferry.preflight.keyspace.summary import KeyspaceSums
from slotferry.topology.databases import Route
from slotferry.topology.discovery import SourceFacts

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

    def run(self, routes: Sequence[Route], counts: Sequence[int], wanted: int, data_bytes: int) -> Looked:
        """Look at about `wanted` keys of the routes' databases, which have so many `counts`.

        `data_bytes` is the memory that the keys take, 0 where that is not known. Raises `SourceLostError`,
        and `ResponseError` where SCAN is refused.
        """
        total = sum(counts)
        looked = Looked()
        for route, keys in zip(routes, counts, strict=True):
            share = keys if wanted >= total else -(-wanted * keys // total)
            self._database(looked, route, keys, share, min(wanted, total), data_bytes)
        return looked

    def _database(
        self, looked: Looked, route: Route, keys: int, wanted: int, total: int, data_bytes: int
    ) -> None:
        before = self._done

        def on_progress(asked: int) -> None:
            self._done = before + asked
            self._progress(self._done, max(total, self._done))

        with self._connector.open(self._facts.address(self._connector.endpoint)) as node:
            if route.source:
                node.need("SELECT", route.source)
            sampler = Sampler(
                node,
                self._rate,
                self._facts.round_trip,
                choice=Choice.of(self._selection, route),
                sums=looked.sums,
                on_progress=on_progress,
            )
            sampler.run(keys, wanted)
            looked.keys += sampler.estimate(keys)
            for kind, key in sampler.rdb_types.items():
                looked.rdb_types.setdefault(kind, key)
            missing = sampler.sums.unexplained(keys, data_bytes)
            if wanted < keys and missing > data_bytes * _UNEXPLAINED:
                self._notify(
                    f"the sample explains {1 - missing / data_bytes:.0%} of the memory in use: asking "
                    f"up to {min(keys, _SOUGHT * wanted):,} more keys for their size"
                )
                sampler.seek(keys, data_bytes, _SOUGHT * wanted, _UNEXPLAINED)
