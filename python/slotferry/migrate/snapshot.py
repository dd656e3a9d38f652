"""How a live source is read as a snapshot.

Invariant: one snapshot is copied from its start to its end, or counts for nothing: what an earlier one has
brought to the books is taken out of them before another one is begun.
"""

from __future__ import annotations

from dataclasses import replace

from slotferry.errors import InternalError, SourceNotReadyError
from slotferry.jobs.driver import EngineDriver, Sides, Work
from slotferry.jobs.journal.journal import Journal
from slotferry.migrate.resume import taken_again
from slotferry.model.events import Notice
from slotferry.net import replies


def read_as_snapshot(journal: Journal, name: str, driver: EngineDriver, work: Work) -> tuple[Work, bool]:
    """Return `work` so that it takes its partition from a snapshot, where that is asked for.

    And whether the job starts over for that. Raises `SlotferryError`.
    """
    options = driver.options
    if options.read != "snapshot" or not work.partitions:
        return work, False
    starts_over = journal.totals(name).keys.scanned > 0
    if starts_over:
        record = journal.job(name)
        if record is None:
            raise InternalError(f"the job {name} is gone from the journal")
        databases = {mark.database: 1 for mark in journal.marks(name)}
        journal.reset(
            *(name, record.setup, 1, record.run_id, databases),
            follows_on=options.follow,
            keeps_collisions=True,
        )
        driver.emit(Notice(taken_again(options)))
        work = replace(work, keys=())
    route = work.route or driver.sides.ways[0]
    settings = {
        "key_map": options.selection.key_map(route.prefix, whole=True),
        "match": None,
        "snapshot": _source_now(driver.sides),
    }
    return replace(work, partitions=[(0, 0)], settings={**settings, **work.settings}), starts_over


def _source_now(sides: Sides) -> int:
    """Return the source's time in ms since the epoch, rather too early than too late."""
    with sides.source.open(sides.source_facts.address(sides.source.endpoint)) as node:
        try:
            return int(node.parsed(replies.clock, "TIME") * 1000)
        except replies.ResponseError as error:
            raise SourceNotReadyError(
                f"the source {node.name} does not tell its time, by which keys expire: {error}",
                hint="grant +time",
            ) from None
