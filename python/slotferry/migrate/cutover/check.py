"""Compares both sides while writes are stopped.

Invariant: what counts as compared was read on both sides behind the fence, and what differs was read twice.
Keys that the job could not copy are among the compared ones, at every depth. Nothing is written but what a
source does not tell its replicas, and so not the run: that is copied by the run itself, and compared again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from slotferry.errors import MigrationInterrupted, RefusedError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.journal.journal import Journal
from slotferry.migrate.cutover.border import CheckRequest
from slotferry.migrate.following.beside import comparison_settings, driver_beside, sweeps_of
from slotferry.model.cutover import Checked
from slotferry.net.node import raise_for
from slotferry.net.replies import ResponseError
from slotferry.topology.discovery import discover_target

if TYPE_CHECKING:
    from slotferry._core import Job
    from slotferry.model.events import Event
    from slotferry.net.node import Node

_SAMPLED = 2_000
_MOST_UNSETTLED = 100_000
_MOST_DIFFERING = 100_000
_SHOWN = 10
_PARTITIONS = 8
_PARK_SECONDS = 1.0
_ASKED_AT_ONCE = 1_000
_UNTOLD_TYPES = (b"stream", b"vectorset")
"""Deliveries and consumers of groups, and new vectors of elements: see docs/follow.md."""


class BothSides:
    """A `border.Check` of the job that `driver` drives."""

    def __init__(
        self, driver: EngineDriver, journal: Path, job: str, always: Callable[[], Sequence[bytes]]
    ) -> None:
        """Take the run's driver and job, and what tells keys that are compared at every depth."""
        self._driver = driver
        self._always = always
        self._journal = journal
        self._job = job
        (way,) = driver.sides.ways
        self._key_map = driver.options.selection.key_map(way.prefix, whole=True)

    def __call__(self, request: CheckRequest) -> Checked:
        """Compare what is asked for, as long as it is wanted. Raises `SlotferryError`."""
        if request.depth == "none":
            return Checked(0, 0)
        comparison, copied = _Comparison(self._driver, request), 0
        try:
            names = [*request.touched, *self._unsettled(), *self._always()]
            if request.depth == "sample":
                names += self._sample()
            if self._key_map is not None:
                names = [name for name in names if self._key_map.place(name) is not None]
            if request.depth == "full":
                comparison.scan()
                comparison.sweep()
            comparison.compare(list(dict.fromkeys(names)))
            comparison.look_again(self._there(list(comparison.differing)))
            again: set[bytes] = set()
            for whole in (False, True):
                untold = self._untold(list(comparison.differing))
                if untold and request.copy_again(untold, whole):
                    again.update(untold)
                    comparison.look_again(list(comparison.differing))
            copied = len(again)
        except MigrationInterrupted:
            # Ended by itself: it is asked for no more, or enough is known.
            if request.is_wanted() and len(comparison.differing) <= _MOST_DIFFERING:
                raise
        found = list(comparison.differing)
        return Checked(comparison.keys, len(found), tuple(found[:_SHOWN]), copied)

    def _unsettled(self) -> list[bytes]:
        """Return the keys that failed or are pending: whether they are equal by now is to be seen."""
        (way,) = self._driver.sides.ways
        found: list[bytes] = []
        with Journal.open(self._journal, is_checked=True) as journal:  # by the run, when it began
            for names in journal.unsettled_keys(self._job, with_failed=True, database=way.source):
                found += names
                if len(found) > _MOST_UNSETTLED:
                    raise RefusedError(
                        f"the job {self._job} has more than {_MOST_UNSETTLED:,} failed or pending keys",
                        hint="see 'slotferry jobs failures'",
                    )
        return found

    def _sample(self) -> list[bytes]:
        """Return keys of the source that are chosen by chance."""
        with self._at_source() as node:
            replied = node.call_many([("RANDOMKEY",)] * _SAMPLED)
        for reply in replied:
            if isinstance(reply, ResponseError):
                raise_for(reply, node, "RANDOMKEY")
        return [reply for reply in replied if isinstance(reply, bytes)]

    def _untold(self, names: Sequence[bytes]) -> list[bytes]:
        """Return those of these keys that a source may change without a word to its replicas.

        Where it does not tell their types (NOPERM), there are none.
        """
        found: list[bytes] = []
        if not names:
            return found
        with self._at_source() as node:
            for begin in range(0, len(names), _ASKED_AT_ONCE):
                asked = names[begin : begin + _ASKED_AT_ONCE]
                types = node.call_many([("TYPE", name) for name in asked])
                found += [name for name, kind in zip(asked, types, strict=True) if kind in _UNTOLD_TYPES]
        return found

    def _there(self, names: Sequence[bytes]) -> list[bytes]:
        """Return these keys; for one that the source lacks, those that it has and that get the same name."""
        key_map = self._key_map
        if key_map is None or key_map.is_one_to_one or not names:
            return list(names)
        found: dict[bytes, None] = {}
        with self._at_source() as node:
            for name in names:
                placed = key_map.place(name)
                sharing = (placed and key_map.sources(placed[0])) or [name]
                replies = node.call_many([("EXISTS", key) for key in sharing])
                there = [key for key, reply in zip(sharing, replies, strict=True) if reply == 1]
                found.update(dict.fromkeys(there or [name]))
        return list(found)

    @contextmanager
    def _at_source(self) -> Iterator[Node]:
        sides = self._driver.sides
        (way,) = sides.ways
        with sides.source.open(sides.source_facts.address(sides.source.endpoint)) as node:
            if way.source:
                node.need("SELECT", way.source)
            yield node


class _Comparison:
    """One comparison: how many keys of the source were compared, and which differ."""

    def __init__(self, driver: EngineDriver, request: CheckRequest) -> None:
        self._request = request
        self._cancel = CancelRequest(within=driver.cancel)
        self._driver = driver_beside(driver, _ignore, self._cancel)
        self._settings = comparison_settings(driver)
        self.keys = 0
        self.differing: dict[bytes, None] = {}

    def compare(self, names: Sequence[bytes]) -> None:
        """Compare these keys."""
        if names:
            self.keys += self._look(Work(keys=names), 1)

    def scan(self) -> None:
        """Compare every key of the source."""
        partitions = [(index, index) for index in range(_PARTITIONS)]
        self.keys += self._look(Work(partitions=partitions), _PARTITIONS)

    def sweep(self) -> None:
        """Look for every key of the target at the source."""
        sides = self._driver.sides
        facts = discover_target(sides.target, sides.source_facts.server)
        self._look(Work(settings={"sweeps": sweeps_of(facts)}), 1)

    def look_again(self, names: Sequence[bytes]) -> None:
        """Compare once more `names`, which stand for what differs: it may have expired meanwhile."""
        self.differing = {}
        if names:
            self._look(Work(keys=names), 1)

    def _look(self, work: Work, partitions: int) -> int:
        """Return how many keys were looked at."""
        settings = {**self._settings, **work.settings}
        job = self._driver.new_job(replace(work, settings=settings, park_after=_PARK_SECONDS), partitions)
        self._driver.drive(job, lambda: self._tick(job))
        self._take(job)
        counts = job.snapshot().counts  # keys by name are in no count of scanned ones
        gone = counts.expired + counts.vanished
        return counts.unchanged + counts.failed + counts.pending + gone

    def _tick(self, job: Job) -> None:
        self._take(job)
        if not self._request.is_wanted() or len(self.differing) > _MOST_DIFFERING:
            self._cancel.ask(immediately=True)

    def _take(self, job: Job) -> None:
        checkpoint = job.checkpoint()
        names = chain((each.key for each in checkpoint.failures), (each.key for each in checkpoint.pending))
        self.differing.update(dict.fromkeys(names))


def _ignore(event: Event) -> None:
    """Tell nothing: what this engine meets, the run's own one meets as well."""
