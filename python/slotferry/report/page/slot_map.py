"""The slot map: 16,384 cells, 256 a row, one path for each owner.

Invariant: every slot that has an owner is covered by that owner's path and no other's; slots side by side are
one piece of it, so the picture of a whole cluster is small, and the most scattered one is below 120 kB.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from slotferry._core import SLOTS
from slotferry.report.page.content import Owner, SlotMap, clean

COLUMNS = 256
# Told apart by people who see colours in different ways; red is for what went wrong.
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#8cd17d")
_MOST_NAMED = 64

Ranges = Sequence[tuple[int, int, str]]


def slot_map(title: str, ranges: Ranges, marked: Mapping[int, int] | None = None) -> SlotMap | None:
    """Return the map of (first, last, node) of each range; None where nothing is known of any slot.

    `marked` says how many keys of a slot are failed or pending.
    """
    slots: dict[str, list[tuple[int, int]]] = {}
    for first, last, node in ranges:
        slots.setdefault(node, []).append((first, last))
    if not slots:
        return None
    names = sorted(slots, key=lambda node: min(slots[node]))
    owners = tuple(
        Owner(clean(node, 80), _colour(number), _size(slots[node]), cells(slots[node]))
        for number, node in enumerate(names)
    )
    unserved = SLOTS - sum(owner.slots for owner in owners)
    shown = ", ".join(f"{owner.name} has {owner.slots:,}" for owner in owners[:_MOST_NAMED])
    description = f"A picture of all {SLOTS:,} hash slots, {COLUMNS} a row: {shown}."
    if unserved:
        description += f" {unserved:,} have no owner."
    if marked:
        description += f" {len(marked):,} slots hold keys that are failed or pending."
    spots = cells(_pieces(sorted(marked or ())))
    return SlotMap(title, description, owners, unserved, spots, len(marked or ()))


def cells(ranges: Iterable[tuple[int, int]]) -> str:
    """Return the path whose line, as thick as a cell, covers these slots; in units of a cell."""
    parts = []
    at = (-1, 0)  # where the line has come to: row and column
    for first, last in ranges:
        while first <= last:
            row, column = divmod(first, COLUMNS)
            width = min(last - first + 1, COLUMNS - column)
            # A scattered owner has thousands of pieces: within a row, the way from the last one is shortest.
            start = f"m{column - at[1]} 0" if row == at[0] and column >= at[1] else f"M{column} {row}.5"
            parts.append(f"{start}h{width}")
            at = (row, column + width)
            first += width
    return "".join(parts)


def _pieces(slots: Sequence[int]) -> list[tuple[int, int]]:
    """Return sorted slots as ranges: those side by side are one."""
    pieces: list[tuple[int, int]] = []
    for slot in slots:
        if pieces and pieces[-1][1] == slot - 1:
            pieces[-1] = (pieces[-1][0], slot)
        else:
            pieces.append((slot, slot))
    return pieces


def _size(ranges: Sequence[tuple[int, int]]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _colour(number: int) -> str:
    if number < len(_COLOURS):
        return _COLOURS[number]
    # By the golden angle: neighbours differ, however many there are.
    return f"hsl({(number * 137.5 + 20) % 360:.0f} {45 + number % 3 * 12}% {48 + number % 2 * 12}%)"
