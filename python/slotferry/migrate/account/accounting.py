"""Accounting for what was written: no job is complete before whatever may have been lost was looked at again.

Invariant: the target's nodes are known before the first write and compared at every look until after the
last one. What may have taken keys away stands as a doubt in the journal until every key of its slots was
looked for, by existence where a key is whole or absent, by value where an older one may have come back. What
a look finds missing is pending; what happens after it is in doubt again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slotferry._core import SLOTS
from slotferry.errors import (
    RESUME_HINT,
    JournalError,
    MixedTargetError,
    SlotferryError,
    TargetLostError,
)
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import PendingKey
from slotferry.migrate.account.book import AccountBook, OpenDoubts
from slotferry.migrate.account.decreases import Decreases
from slotferry.migrate.account.target_watch import TargetWatch, look_at_all
from slotferry.migrate.key_list import in_chunks
from slotferry.model.events import Notice
from slotferry.net.link import lost
from slotferry.text import format_slots
from slotferry.topology.databases import Route, may_collide, total_keys
from slotferry.topology.identity import (
    Doubt,
    NodeState,
    Slots,
    compare_looks,
    intersect,
    is_replaced,
    unite,
)
from slotferry.topology.views import TopologyViews

if TYPE_CHECKING:
    from slotferry.migrate.key_list import KeyList
    from slotferry.topology.discovery import Topology

_ALL: Slots = ((0, 16383),)
_TTL_TOLERANCE = (
    1.0  # seconds by which the expiries of equal keys may differ, as where RESTORE finds a key busy
)
_AGAIN_SECONDS = 0.2
_ON_THE_WAY = 100  # no more than this part of the keys has a TTL that ends just when they are copied
_EVICTING_LOOKS = 2  # after which sending keys again would only drive out others


class Accounting:
    """The accounts of one run; `begin` before the first write."""

    def __init__(
        self, journal: Journal, name: str, driver: EngineDriver, names: KeyList | None = None
    ) -> None:
        """Take the job and its run; of a job of listed keys, their `names`."""
        self._journal = journal
        self._name = name
        self._driver = driver
        self._names = names
        self._book = AccountBook(journal, name)
        self._databases = {route.target for route in driver.sides.ways}
        self._known: Sequence[NodeState] = ()
        self._expired = 0
        self._counted = False
        self._served: Slots = ()
        self._unwritten: list[Doubt] = []
        self._told: set[tuple[str, str]] = set()
        self._decreases = Decreases()
        self._watch: TargetWatch | None = None
        self._looked = 0.0  # when this run last looked by itself, at `time.monotonic`

    def void(self) -> str:
        """Return why nothing is left of what earlier runs wrote; empty where something may be."""
        before = self._book.nodes()
        return is_replaced(before, self._look_at_first(), self._databases) if before and self._written else ""

    def begin(self, watch: TargetWatch, *, resumed: bool) -> None:
        """Note what the target is before anything is written, and what a resumed job may have lost since."""
        self._watch = watch
        resumed = resumed and self._written > 0
        before = self._book.nodes() if resumed else []
        self._expired = self._book.expired() if resumed else 0
        now = self._look_at_first()
        self._known = before or now
        self._served = unite(node.slots for node in now)
        if resumed and not before:
            text = "the journal does not say which target was written to: an earlier version wrote it"
            self._unwritten.append(Doubt("unknown", "target", _ALL, text))
        self._observe(now)
        self._write()

    def tick(self, deleted: int | None = None) -> None:
        """Take in what the watch has seen; to be called again and again while the engine works.

        `deleted` says how many keys a followed run has deleted at the target so far; None: it is none.
        """
        if self._watch is None:
            return
        self._watch.follow(self._driver.topology)
        looks = self._watch.poll(self._looked)
        for seen in looks:
            self._observe(seen, deletes=deleted is not None)
        unexplained = self._decreases.judge(deleted or 0, time.monotonic())
        if looks and {node.node_id for node in self._known} <= {node.node_id for node in looks[-1]}:
            self._decreases.lapse(deleted or 0, time.monotonic())
        self._doubt(unexplained)
        if looks or unexplained:
            try:
                self._write()
            except JournalError:
                return  # as for checkpoints, which tell of it: it is written with the next look

    def examine(self, *, wait: bool) -> OpenDoubts:
        """Look at every primary, now that all is written, and return what is in doubt.

        A target that can't be asked is waited for; without `wait`, where keys are pending anyhow, it is left
        to the next run. Raises `TargetLostError`.
        """
        deadline = time.monotonic() + (self._driver.options.retry_for if wait else 0.0)
        noticed = False
        while True:
            self._driver.cancel.check()
            try:
                now = look_at_all(self._driver.sides.target, self._newest_topology())
                self._looked = time.monotonic()
                break
            except MixedTargetError:
                raise
            except SlotferryError as error:
                if not wait:
                    return OpenDoubts((), 0)
                if time.monotonic() >= deadline:
                    raise TargetLostError(
                        f"the target can't be asked whether it still has what was written: {error}",
                        hint=RESUME_HINT,
                    ) from error
                if not noticed:
                    self._tell(f"all is written; waiting to see whether the target still has it: {error}")
                    noticed = True
                time.sleep(_AGAIN_SECONDS)
        self._observe(now)
        if not self._counted:
            self._counted = True  # from here on, the looks at the nodes tell of what goes
            self._unwritten += self._shortfall(now)
        self._write()
        return self._book.doubts()

    def open_doubts(self) -> OpenDoubts:
        """Return what has to be looked at again by now."""
        return self._book.doubts()

    def works(self, looked_at: OpenDoubts, database: int, route: Route | None) -> Iterator[Work]:
        """Yield the core jobs that look for a database's keys in doubt; they write nothing."""
        selection = self._driver.options.selection
        slots = unite(doubt.slots for doubt in looked_at.doubts)
        if selection.slots:
            slots = intersect(slots, selection.slots)
        if not slots:
            return
        way = route or self._driver.sides.ways[0]
        by_value = self._driver.options.on_conflict == "replace" and any(
            doubt.may_be_stale for doubt in looked_at.doubts
        )
        # Listed keys are chosen here, by the slots that they have under their new names.
        chosen = selection if slots == _ALL or self._names is not None else replace(selection, slots=slots)
        settings: dict[str, Any] = {
            "key_map": chosen.key_map(way.prefix, whole=self._driver.sides.source.endpoint.is_file),
            "verify": (_TTL_TOLERANCE, "values" if by_value else "existence", False),
            "wait_replicas": 0,
            "eviction": None,
        }
        if self._driver.cluster is not None and self._names is None:
            # Keys may be where no partition of the job is: with who has taken slots over, or joined.
            yield Work(slots=frozenset(range(SLOTS)), settings=settings, route=route)
            return
        if self._names is None:
            marks = [mark.index for mark in self._journal.marks(self._name) if mark.database == database]
            yield Work(partitions=[(index, index) for index in marks], settings=settings, route=route)
            return
        doubted = (key for key, slot in self._names if any(first <= slot <= last for first, last in slots))
        for keys in in_chunks(doubted):
            yield Work(keys=keys, settings=settings, route=route)

    def take(self, job: EngineJob, database: int) -> int:
        """Make pending what a look has found missing, or could not ask for; return how many keys."""
        checkpoint = job.checkpoint()
        keys = [
            PendingKey(found.key, found.slot, f"gone from the target: {found.message}", database)
            for found in checkpoint.failures
            if found.kind != "extra"
        ]
        keys += [PendingKey(key.key, key.slot, key.reason, database) for key in checkpoint.pending]
        return self._book.reopen(keys)

    def close(self, looked_at: OpenDoubts, missing: int) -> None:
        """Note that the slots of these doubts were looked at."""
        self._book.close(looked_at)
        self._told.clear()
        slots = format_slots(unite(doubt.slots for doubt in looked_at.doubts), 4)
        found = f"{missing:,} keys are missing or older" if missing else "nothing is missing"
        self._tell(f"looked at slots {slots} again: {found}")

    def helps_to_send(self, looked_at: OpenDoubts, number: int) -> bool:
        """Whether sending again may help; tells what to do where it does not."""
        kinds = {doubt.kind for doubt in looked_at.doubts if doubt.is_grave}
        if kinds != {"evicting"} or number < _EVICTING_LOOKS:
            return True
        nodes = ", ".join(sorted({d.node for d in looked_at.doubts if d.kind == "evicting"}))
        self._tell(
            f"{nodes} went on evicting while missing keys were sent again: they are left pending; raise "
            "maxmemory there, or add primaries, then run the same command again"
        )
        return False

    def give_up(self, looked_at: OpenDoubts) -> None:
        """Raise `TargetLostError` where nodes go on losing keys; else tell what is not accounted for."""
        grave = [doubt for doubt in looked_at.doubts if doubt.is_grave]
        if not grave:
            self._tell(
                f"{looked_at.doubts[-1].message}, again and again: every key was there or sent again when it "
                "was looked at last; what clients do to keys since then is theirs"
            )
            self._book.close(looked_at)
            return
        hint = (
            "raise maxmemory there, then "
            if grave[-1].kind == "evicting"
            else "see what happens to it, then "
        )
        raise TargetLostError(
            f"the target goes on losing what was written, however often it is looked at: {grave[-1].message}",
            hint=hint + RESUME_HINT,
        )

    @property
    def _written(self) -> int:
        """How many keys the target should hold by the journal's word."""
        keys = self._journal.totals(self._name).keys
        return keys.migrated + keys.unchanged + keys.skipped

    def _look_at_first(self) -> list[NodeState]:
        """Look at the target as it was just discovered."""
        now = look_at_all(self._driver.sides.target, self._driver.topology)
        self._looked = time.monotonic()
        return now

    def _newest_topology(self) -> Topology:
        """Return who serves the slots now. Raises `SlotferryError`, also where that is nobody any more."""
        target, known = self._driver.sides.target, self._driver.topology
        topology = TopologyViews.of(target, known.node_ids).refresh(known.primaries)
        missing = intersect(self._served, tuple(topology.missing))
        if missing:
            raise lost(
                "target", f"has no primary for slots {format_slots(missing, 4)}", "see whether its nodes run"
            )
        self._driver.topology = topology
        return topology

    def _observe(self, now: Sequence[NodeState], *, deletes: bool = False) -> None:
        """Compare a look with what is known; a run that `deletes` keys explains that they are fewer."""
        expired = {node.node_id: node.expired for node in self._known}
        for node in now:
            grown = node.expired - expired.get(node.node_id, node.expired)
            self._expired += grown if grown >= 0 else node.expired
        doubts, self._known = compare_looks(self._known, now, self._databases)
        if deletes:
            for doubt in doubts:
                if doubt.kind == "fewer":
                    self._decreases.add(doubt, time.monotonic())
            doubts = [doubt for doubt in doubts if doubt.kind != "fewer"]
        self._doubt(doubts)

    def _doubt(self, doubts: Sequence[Doubt]) -> None:
        for doubt in doubts:
            self._unwritten.append(doubt)
            if (doubt.kind, doubt.node) not in self._told:
                self._told.add((doubt.kind, doubt.node))
                self._tell(f"{doubt.message}: what was written to it is looked at again before the end")

    def _shortfall(self, now: Sequence[NodeState]) -> list[Doubt]:
        """Return a doubt where the target holds fewer keys than were written to it."""
        options, sides = self._driver.options, self._driver.sides
        if may_collide(sides.ways, options.selection.renames) and options.on_collision != "refuse":
            return []  # several keys may have become one
        # SCAN may return a key twice, so no more are taken for granted than there were.
        written = min(self._written, total_keys(sides.ways, sides.source_facts))
        there = sum(node.count(self._databases) for node in now)
        # A key whose TTL runs out on the way is acknowledged, and neither stored nor counted as expired.
        on_the_way = written // _ON_THE_WAY if self._expired or any(node.volatile for node in now) else 0
        missing = written - there - self._expired
        if missing <= on_the_way:
            return []
        text = f"the target holds {there:,} keys, {missing:,} fewer than were written and did not expire"
        self._tell(f"{text}: all that was written is looked at again")
        return [Doubt("fewer", "target", _ALL, text)]

    def _write(self) -> None:
        self._book.enter(self._known, self._unwritten, self._expired)
        self._unwritten = []

    def _tell(self, text: str) -> None:
        self._driver.emit(Notice(text))
