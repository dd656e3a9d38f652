"""Why a run found no key to copy or to compare.

Invariant: a run that found nothing says so, with the likely reason; it never passes for work that was done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from slotferry.model.counts import Keys
from slotferry.model.key_filter import Selection
from slotferry.model.report import Emptiness
from slotferry.text import count_of
from slotferry.topology.databases import Route, keys_elsewhere, total_keys
from slotferry.topology.discovery import SourceFacts


@dataclass(frozen=True)
class Names:
    """A list of keys: how many it has, how many of them the filters take, and what it is called."""

    listed: int
    taken: int
    where: str


def found_none(keys: Keys, *, named: bool) -> bool:
    """Whether there was no key, by scan or, where all were `named`, at the source."""
    return keys.scanned == (keys.vanished if named else 0)


def explain(
    facts: SourceFacts,
    routes: Sequence[Route],
    selection: Selection,
    *,
    names: Names | None = None,
    sample: float | None = None,
) -> Emptiness:
    """Return the likely reason why no key was found in these databases of the source."""
    chosen = {route.source for route in routes}
    there = tuple((number, keys) for number, keys in sorted(facts.databases.items()) if number not in chosen)
    others = keys_elsewhere(facts, chosen, "; ")
    place = f"{'database' if len(chosen) == 1 else 'databases'} {', '.join(map(str, sorted(chosen)))}"
    held, filters = total_keys(routes, facts), selection.describe_filters()
    if names is not None and not names.listed:
        return Emptiness("names", f"{names.where} names no key", "write one key a line")
    if names is not None and not names.taken:
        message = f"none of the {count_of(names.listed, 'key')} in {names.where} passes {filters}"
        return Emptiness("filters", message, "correct the filters or the list")
    if names is not None:
        message = f"none of the {count_of(names.taken, 'listed key')} is at the source {facts.server.node}"
        message += f", {place} ({count_of(held, 'key')}){others}"
        hint = "check the names (each line is one key, without quotes)"
        return Emptiness("names", message, f"{hint}{_or_another(others)}", there)
    if not held:
        message = f"the source {facts.server.node} has no keys in {place}{others or ', nor in any other'}"
        hint = "name the right database in the source's URL, or choose with --db or --all-dbs"
        return Emptiness("source", message, hint if others else "check the source's address", there)
    what = f"of the {count_of(held, 'key')} in {place} of the source {facts.server.node}"
    if filters:
        message = f"none {what} passes {filters}{others}"
        return Emptiness("filters", message, f"correct the filters{_or_another(others)}", there)
    if sample is not None:
        return Emptiness("sample", f"none {what} falls into the sample", "take a larger --sample", there)
    message = f"none {what} was left when they were scanned: they expired or were deleted"
    return Emptiness("gone", message, "look at what the source's clients do", there)


def _or_another(others: str) -> str:
    return ", or name another database" if others else ""
