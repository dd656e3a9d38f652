"""A look at names before anything is written: what becomes of them, and which would meet.

Invariant: only SCAN (and what filters ask) is sent to the source, and nothing at all to the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from slotferry._core import Survey, key_slot
from slotferry.errors import RefusedError
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance
from slotferry.migrate.key_list import KeyList
from slotferry.migrate.resume import partitions_by_database
from slotferry.model.counts import FailedKey
from slotferry.model.events import Notice
from slotferry.model.key_filter import Selection
from slotferry.text import shorten_key, show_key
from slotferry.topology.databases import Route, total_keys
from slotferry.topology.discovery import Topology

_SHOWN = 3


@dataclass(frozen=True)
class Sample:
    """One key: its database and slot at the source, its name and slot at the target."""

    database: int
    source: bytes
    source_slot: int
    target: bytes
    target_slot: int


@dataclass(frozen=True)
class Collision:
    """Keys of the source that get one name: `sources` are some (database, key), `keys` is how many."""

    database: int
    target: bytes
    sources: tuple[tuple[int, bytes], ...]
    keys: int

    def __str__(self) -> str:
        shown = [_place(database, key) for database, key in self.sources]
        more = f" and {self.keys - len(shown):,} more" if self.keys > len(shown) else ""
        return f"{', '.join(shown)}{more} become {_place(self.database, self.target)}"


@dataclass(frozen=True)
class Findings:
    """What a look at names found; `slots_before` and `slots_after` are keys by slot.

    `more` says that there were more names that come twice than were looked at.
    """

    keys: int
    renamed: int
    samples: tuple[Sample, ...]
    slots_before: tuple[int, ...]
    slots_after: tuple[int, ...]
    collisions: tuple[Collision, ...]
    more: bool

    @property
    def colliding_keys(self) -> int:
        """How many keys of the source share a name with another one."""
        return sum(collision.keys for collision in self.collisions)

    def by_primary(self, topology: Topology) -> list[tuple[str, int, int]]:
        """Return each primary with its keys under the old and under the new names."""
        rows = []
        for address in topology.primaries:
            ranges = [
                (first, last)
                for first, last, host, port in topology.ranges
                if (host, port) == (address.host, address.port)
            ]
            before, after = (
                sum(sum(slots[first : last + 1]) for first, last in ranges)
                for slots in (self.slots_before, self.slots_after)
            )
            rows.append((str(address), before, after))
        return rows

    def refusal(self) -> RefusedError:
        """Return the error for collisions that are not wanted."""
        if len(self.collisions) == 1 and self.colliding_keys == self.keys:
            what = f"the rules give all {self.keys:,} keys one name"
        else:
            more = "more than " if self.more else ""
            what = (
                f"{more}{self.colliding_keys:,} keys of the source would share {len(self.collisions):,} names"
            )
        examples = "; ".join(map(str, self.collisions[:_SHOWN]))
        return RefusedError(
            f"{what}: {examples}",
            hint="change the rules or the prefix ('slotferry rewrite test' shows all), or let --on-conflict "
            "decide with --on-collision record",
            kind="collision",
        )


def find_collisions(driver: EngineDriver, names: KeyList | None) -> tuple[Collision, ...]:
    """Scan all names that are to be copied, and return those that two keys would share.

    Raises the refusal, where they are not wanted; `SlotferryError` for the source.
    """
    sides, options = driver.sides, driver.options
    driver.emit(
        Notice(
            f"the names of {total_keys(sides.ways, sides.source_facts):,} keys are scanned first, to see "
            "whether two of them would share one"
        )
    )
    if names is None:
        found = survey_source(
            driver, partitions_by_database(options, sides.source_facts, sides.ways), samples=0
        )
    else:
        found = survey_names(
            names.names(), options.selection, sides.ways, samples=0, memory=options.memory_limit
        )
    if not found.collisions:
        return ()
    refusal = found.refusal()
    if options.on_collision == "refuse" and not options.dry_run:
        raise refusal
    driver.emit(Notice(refusal.message))
    return found.collisions


def record_collisions(journal: Journal, job: str, collisions: Sequence[Collision]) -> None:
    """Write down which keys share a name, each under its first source."""
    for collision in collisions:
        database, key = collision.sources[0]
        note = FailedKey(key, key_slot(collision.target), "collision", str(collision), "", database)
        journal.record(job, Advance(notes=[note], database=database))


def survey_source(
    driver: EngineDriver,
    partitions: Mapping[int, int],
    samples: int = 10,
    tick: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Scan the names of every database and return what becomes of them. Raises `SlotferryError`.

    `partitions` says into how many each is cut.

    `tick` is told now and then how many keys were seen.
    """
    ways = driver.sides.ways
    survey = Survey(
        expected_keys=total_keys(ways, driver.sides.source_facts),
        memory=driver.options.memory_limit,
        samples=samples,
    )
    before, cpu = driver.keys_by_primary.copy(), driver.engine_cpu_seconds
    while survey.next_pass():
        for route in ways:
            count = partitions[route.source]
            todo = [(index, index) for index in range(count)]
            work = Work(todo, scan_only=True, route=route, settings={"survey": survey})
            job = driver.new_work(work, count)
            driver.drive(job, lambda job=job: tick(job.snapshot().counts.scanned))  # type: ignore[misc]
    driver.keys_by_primary, driver.engine_cpu_seconds = before, cpu
    return _findings(survey)


def survey_names(
    keys: Iterable[bytes], selection: Selection, routes: Sequence[Route], samples: int, memory: int
) -> Findings:
    """Return what becomes of `keys`, as keys of each of the databases."""
    names = list(keys)
    survey = Survey(expected_keys=len(names) * len(routes), memory=memory, samples=samples)
    while survey.next_pass():
        for route in routes:
            key_map = selection.key_map(route.prefix)
            survey.add(names, key_map, source_database=route.source, target_database=route.target)
    return _findings(survey)


def _findings(survey: Survey) -> Findings:
    keys, renamed, samples, before, after, collisions, more = survey.findings()
    return Findings(
        keys,
        renamed,
        tuple(Sample(database, *source, *target) for database, source, target in samples),
        tuple(before),
        tuple(after),
        tuple(Collision(db, target, tuple(sources), count) for db, target, sources, count in collisions),
        more,
    )


def _place(database: int, key: bytes) -> str:
    shown = shorten_key(key, 40) if key else "the empty key"
    return f"{shown} of database {database}" if database else shown


def as_dict(collision: Collision) -> dict[str, object]:
    """Return a collision as a JSON object."""
    return {
        "type": "collision",
        "database": collision.database,
        "target": show_key(collision.target),
        "sources": [{"database": db, "key": show_key(key)} for db, key in collision.sources],
        "keys": collision.keys,
    }
