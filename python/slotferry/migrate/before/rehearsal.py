"""What a migration would make of names, tried on the servers themselves.

Invariant: the source is asked for names alone, the target for its topology; nothing is written anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

from slotferry.errors import SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.driver import EngineDriver, Sides
from slotferry.jobs.options import Options
from slotferry.migrate.before.collisions import Findings, survey_source
from slotferry.migrate.resume import partitions_by_database
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.preflight import judge_servers
from slotferry.topology.cluster_source.facts import discover_any_source
from slotferry.topology.databases import check_routes, plan_routes
from slotferry.topology.discovery import Topology, discover_target


def rehearse(
    source: Endpoint,
    target: Endpoint,
    options: Options,
    samples: int,
    cancel: CancelRequest,
    notify: Callable[[str], None],
) -> tuple[Findings, Topology]:
    """Return what becomes of the source's names, and the target's topology. Raises `SlotferryError`."""
    address_map = options.address_map_rules
    ends = Connector(source, "source", address_map), Connector(target, "target", address_map)
    source_facts = discover_any_source(ends[0])
    target_facts = discover_target(ends[1], source_facts.server)
    problems: list[SlotferryError] = [
        row.error()
        for row in judge_servers(source_facts, target_facts, target.database)
        if row.status == "error"
    ]
    if problems:
        raise problems[0]
    routes = plan_routes(source, target, options.db, options.map_db, source_facts)
    for notice in check_routes(routes, *ends, target_facts):
        notify(notice)
    sides = Sides(*ends, source_facts, target_facts, routes)
    driver = EngineDriver(sides, options, lambda _: None, cancel)
    found = survey_source(driver, partitions_by_database(options, source_facts, sides.ways), samples)
    return found, target_facts.topology
