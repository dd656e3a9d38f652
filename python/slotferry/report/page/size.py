"""How large a page gets: its tables share the room that pictures leave.

Invariant: a page says where rows were left out, and a table that is small enough for its share keeps all of
its rows. What is counted is what stands in the file, behind escaping.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from html import escape

from slotferry.report.page.content import Chart, Page, SlotMap, Table

MOST_BYTES = 470_000
_OF_EVERY_PAGE = 16_000  # style, script and what stands around the values
_OF_ALL_BUT_VALUES = 150  # of one thing that is drawn or a pair of values


def fitted(page: Page) -> Page:
    """Return the page with as many rows as there is room for."""
    room = MOST_BYTES - _OF_EVERY_PAGE - _drawn(page.maps, page.charts)
    pairs = [*page.facts, *page.settings, *((count.name, count.meaning) for count in page.counts)]
    room -= sum(_bytes(pair) + _OF_ALL_BUT_VALUES for pair in pairs)
    tables = [*page.keys, *page.tables, *(() if page.happened is None else (page.happened,))]
    fits: dict[int, Table] = {}
    for number, table in enumerate(sorted(tables, key=_size)):
        fit = _cut(table, room // (len(tables) - number))
        fits[id(table)] = fit
        room -= _size(fit)
    return replace(
        page,
        keys=[fits[id(table)] for table in page.keys],
        tables=[fits[id(table)] for table in page.tables],
        happened=None if page.happened is None else fits[id(page.happened)],
    )


def _cut(table: Table, room: int) -> Table:
    rows: list[tuple[str, ...]] = []
    left = room - _size(replace(table, rows=()))
    for row in table.rows:
        left -= _row(row)
        if left < 0:
            break
        rows.append(row)
    if len(rows) == len(table.rows):
        return table
    why = f"{len(table.rows) - len(rows):,} rows are left out here, since the page would be too large."
    return replace(table, rows=rows, more=f"{why} {table.more}".rstrip())


def _size(table: Table) -> int:
    return 700 + _bytes((table.caption * 4, *table.heads, table.more)) + sum(map(_row, table.rows))


def _row(row: Sequence[str]) -> int:
    return 10 + sum(25 for _ in row) + _bytes(row)


def _drawn(maps: Iterable[SlotMap], charts: Iterable[Chart]) -> int:
    size = 0
    for shown in maps:
        size += _bytes((shown.title * 2, shown.description, shown.marked)) + 2_000
        size += sum(_bytes((o.path, o.name * 2, o.colour * 2)) + _OF_ALL_BUT_VALUES for o in shown.owners)
    for chart in charts:
        size += _bytes((chart.title * 2, chart.description * 2, chart.path, chart.area)) + 1_000
        parts = (chart.times, chart.values, chart.bands, chart.marks, chart.gaps)
        size += _OF_ALL_BUT_VALUES * sum(map(len, parts))
    return size


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(escape(text).encode()) for text in texts)
