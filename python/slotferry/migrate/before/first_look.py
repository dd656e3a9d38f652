"""The look at both sides that every run begins with, and what is told of it.

Invariant: nothing is written to either side. What stands against the run is raised, the gravest first, before
anything else is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from slotferry import preflight
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.hangup import looking
from slotferry.jobs.driver import Emit, Sides
from slotferry.jobs.options import Options
from slotferry.model.events import Notice
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.preflight.servers import refuse_streams
from slotferry.topology.cluster_source.facts import discover_any_source
from slotferry.topology.databases import check_routes, plan_routes
from slotferry.topology.discovery import discover_target
from slotferry.topology.rdb_file import look_at_file

Judge = Callable[[Sides], Sequence[preflight.Row]]


class FirstLook:
    """How both sides of one run are reached and looked at."""

    def __init__(self, source: Endpoint, target: Endpoint, options: Options, cancel: CancelRequest) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._cancel = cancel
        self._ends: tuple[Connector, Connector] | None = None

    def connectors(self) -> tuple[Connector, Connector]:
        """Return how both sides are reached. Raises `UsageError` where TLS files make no sense."""
        if self._ends is None:
            address_map = self._options.address_map_rules
            self._ends = (
                Connector(self._source, "source", address_map),
                Connector(self._target, "target", address_map),
            )
        return self._ends

    def look(
        self, judge: Judge, emit: Emit, warn: Emit, preferred: str = "", databases: Sequence[int] = ()
    ) -> Sides:
        """Look at both sides and check that they are fit. Raises the gravest problem, tells of the others.

        `preferred` is the run_id of a replica to read, `databases` are those that the job to resume has.
        """
        options = self._options
        refuse_streams(self._source, follow=options.follow, snapshot=options.read == "snapshot")
        source, target = self.connectors()
        with looking(self._cancel, source, target):
            is_file = self._source.is_file
            source_facts = look_at_file(self._source) if is_file else discover_any_source(source, preferred)
            for note in source_facts.notes:
                emit(Notice(note))
            self._cancel.check()
            target_facts = discover_target(target, source_facts.server)
            self._cancel.check()
            sides = Sides(source, target, source_facts, target_facts)
            rows = judge(sides)
            self._tell_warnings(rows, emit, warn)
            problems = [row.error() for row in rows if row.status == "error"]
            for problem in problems[1:]:
                emit(Notice(str(problem)))
            if problems:
                raise problems[0]
            self._cancel.check()
            chosen = databases if databases and options.db == "all" else options.db
            routes = plan_routes(self._source, self._target, chosen, options.map_db, source_facts)
            for notice in check_routes(routes, source, target, target_facts):
                emit(Notice(notice))
            return replace(sides, routes=routes)

    def _tell_warnings(self, rows: Sequence[preflight.Row], emit: Emit, warn: Emit) -> None:
        for row in rows:
            if row.skipped:
                emit(Notice(f"check {row.name} is skipped: {row.message}"))
        # A target that holds keys is what every resume finds: not worth a word here. Nor are keys in other
        # databases, where it was said which to copy.
        quiet = {"existing-keys", *([] if self._options.db is None else ["databases"])}
        for row in rows:
            if row.status == "warning" and not row.skipped and row.name not in quiet:
                # What is so at every run is no part of the job's history.
                warn(Notice(f"warning ({row.name}): {row.message}; {row.advice}"))
