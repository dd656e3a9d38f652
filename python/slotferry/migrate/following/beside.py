"""A driver beside a run's own one, for a thread that reads both sides while the run goes on.

Invariant: what it drives shares the run's limits and pauses, and none of its state: it may be used in another
thread.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.driver import Emit, EngineDriver
from slotferry.topology.discovery import TargetFacts
from slotferry.topology.identity import Slots, intersect

_TTL_TOLERANCE = 0.1


def driver_beside(driver: EngineDriver, emit: Emit, cancel: CancelRequest) -> EngineDriver:
    """Return a driver of the same sides, as they are known now."""
    facts = replace(driver.sides.target_facts, topology=driver.topology)
    sides = replace(driver.sides, target_facts=facts)
    return EngineDriver(sides, driver.options, emit, cancel, driver.controls)


def comparison_settings(driver: EngineDriver, slots: Slots | None = None) -> dict[str, Any]:
    """Return what makes an engine job compare what is followed, in the target's `slots`, None: all."""
    selection = driver.options.selection
    if slots is not None:
        chosen = intersect(slots, tuple(selection.slots)) if selection.slots else slots
        selection = replace(selection, slots=chosen)
    (way,) = driver.sides.ways
    return {
        "key_map": selection.key_map(way.prefix, whole=True),
        "match": None,
        "verify": (_TTL_TOLERANCE, "values", False),
        "wait_replicas": 0,
        "eviction": None,
    }


def sweeps_of(target: TargetFacts) -> list[tuple[int, int, str, int, str]]:
    """Return the sweeps that look for the keys of each of the target's primaries at the source."""
    primaries = zip(target.topology.primaries, target.primaries, strict=True)
    return [
        (index, 0, address.host, address.port, primary.server.run_id)
        for index, (address, primary) in enumerate(primaries)
    ]
