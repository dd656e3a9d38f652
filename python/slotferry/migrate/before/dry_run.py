"""What a dry run counts: the keys that a real run would copy, and those that the target has already.

Invariant: nothing is written. Values are never read: of an empty target nothing is asked, of another one
whether it has each key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from slotferry.jobs.driver import EngineDriver, Sides, Work
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.progress import ProgressReporter
from slotferry.migrate.key_list import KeyList, in_chunks
from slotferry.model.counts import Keys, Totals
from slotferry.model.events import DryRunResult
from slotferry.net.replies import keys_by_database
from slotferry.topology.databases import Route, total_keys

_LOOK: dict[str, Any] = {"verify": (1.0, "existence", False), "wait_replicas": 0, "eviction": None}


class DryRun:
    """Counts once; `totals` are what is counted so far: listed keys that the source lacks are `vanished`."""

    def __init__(self, driver: EngineDriver, names: KeyList | None) -> None:
        self._driver = driver
        self._names = names
        self._progress = ProgressReporter(driver.emit, driver.figures, counts_only=True)
        self._looks = names is not None or _holds_keys(driver.sides)
        self._existing = 0
        self.totals = Totals()

    def run(self, partitions: Mapping[int, int]) -> DryRunResult:
        """Count; `partitions` says into how many each database is cut. Raises `SlotferryError`."""
        if self._names is not None:
            self._count_names(self._names.distinct())
        else:
            for route in self._driver.sides.ways:
                self._count_keys(route, partitions[route.source])
        return DryRunResult(
            self.totals.keys.scanned,
            tuple(sorted(self._driver.keys_by_primary.items())),
            self._driver.options.on_conflict,
            max(partitions.values()),
            self._existing,
            self.totals.keys.vanished,
        )

    def _count_names(self, names: Iterator[bytes]) -> None:
        """Look for listed keys on both sides."""
        for some in in_chunks(names):
            self._count(self._driver.new_work(Work(keys=some, settings=_LOOK), 1), len(some))

    def _count_keys(self, route: Route, count: int) -> None:
        """Count the keys of one database."""
        partitions = [(index, index) for index in range(count)]
        settings = _LOOK if self._looks else {}
        work = Work(partitions, scan_only=not self._looks, route=route, settings=settings)
        self._count(self._driver.new_work(work, count))

    def _count(self, job: EngineJob, named: int | None = None) -> None:
        """Add what a job finds, of which so many keys are `named`; None: those that it scans."""
        before, existing, driver = self.totals, self._existing, self._driver
        expected = total_keys(driver.sides.ways, driver.sides.source_facts)

        def tick() -> None:
            job.checkpoint()  # what the target lacks is counted, and need not be named
            snapshot = job.snapshot()
            counts = snapshot.counts
            self._existing = existing + counts.unchanged
            found = Keys(counts.scanned) if named is None else Keys(named, vanished=counts.vanished)
            self.totals = before + Totals(found)
            scanned = self.totals.keys.scanned
            self._progress.report(
                snapshot, self.totals, None if driver.options.filtered else max(expected, scanned)
            )

        try:
            driver.drive(job, tick)
        finally:
            tick()


def _holds_keys(sides: Sides) -> bool:
    """Whether the target has any key in the databases that are copied to."""
    targets = {route.target for route in sides.ways}
    for address in sides.target_facts.topology.primaries:
        with sides.target.open(address) as node:
            if targets & keys_by_database(node.info()).keys():
                return True
    return False
