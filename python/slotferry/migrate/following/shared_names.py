"""Looks for keys that get one name, once all is copied: some came after the first look and before the stream.

Invariant: nothing is written here; such keys are handed to the follower, which leaves the name as it is and
records them. Where they are more than can be looked at, the run ends: none is passed over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slotferry.errors import RefusedError
from slotferry.jobs.driver import EngineDriver
from slotferry.migrate.before.collisions import survey_source
from slotferry.migrate.resume import partitions_by_database
from slotferry.model.events import Notice

if TYPE_CHECKING:
    from slotferry._core import Job


class SharedNames:
    """One look, in each run; what comes later is seen by the stream."""

    def __init__(self, driver: EngineDriver) -> None:
        """Take the run's driver."""
        key_map = driver.options.selection.key_map(driver.sides.ways[0].prefix)
        self.wanted = key_map is not None and not key_map.is_one_to_one
        """Whether two keys may get one name, and it was not looked for yet."""
        self.found: tuple[bytes, ...] = ()
        """Some keys of each name that several get."""

    def find(self, driver: EngineDriver, followed: Job) -> None:
        """Look, with a driver that is nobody else's.

        Raises `RefusedError` where there are more such names than are looked at, else `SlotferryError`.
        """
        sides = driver.sides
        count = partitions_by_database(driver.options, sides.source_facts, sides.ways)
        found = survey_source(driver, count, samples=0)
        self.found = names = tuple(key for collision in found.collisions for _, key in collision.sources)
        if names:
            told = f"{len(names):,} keys of the source share their names: see 'slotferry jobs show'"
            driver.emit(Notice(told))
            followed.touch(names)
        if found.more:
            raise RefusedError(
                found.refusal().message,
                hint="delete or rename them at the source, and run the same command again",
                kind="collision",
            )
        self.wanted = False
