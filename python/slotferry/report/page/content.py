"""What stands on a page, as values that the template lays out.

Invariant: every text is printable, of bounded length and free of secrets; nothing is markup yet, so whatever
a key is called, the template escapes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from slotferry.redaction import redact

Tone = Literal["good", "warning", "bad", "running"]

_LONGEST_TEXT = 400


def clean(text: str, limit: int = _LONGEST_TEXT) -> str:
    """Return a text as it may stand on a page: printable, without secrets, not longer than `limit`."""
    text = redact(text)
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@dataclass(frozen=True)
class Count:
    """A row of counts that add up: how many, and what it means; `tone` where that is not as it should be."""

    name: str
    count: int
    meaning: str
    tone: Literal["", "warning", "bad"] = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; columns in `numbers` are figures. `more` says what is left out."""

    caption: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: tuple[int, ...] = ()
    more: str = ""


@dataclass(frozen=True)
class Owner:
    """A node on the slot map: its colour, how many slots it owns, and the path that covers them."""

    name: str
    colour: str
    slots: int
    path: str


@dataclass(frozen=True)
class SlotMap:
    """The 16,384 slots, 256 a row. `marked` covers slots with keys that are not settled."""

    title: str
    description: str
    owners: tuple[Owner, ...]
    unserved: int = 0
    marked: str = ""
    marked_slots: int = 0


@dataclass(frozen=True)
class Tick:
    """A line of a chart's grid, with its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """Something that happened, on a chart: its place, and its number in the list of what happened."""

    at: float
    number: int


@dataclass(frozen=True)
class Band:
    """A time that was not spent as it should be, such as a pause."""

    at: float
    width: float
    state: str


@dataclass(frozen=True)
class Chart:
    """A figure over time, in units of the drawing."""

    name: str
    title: str
    description: str
    path: str
    area: str
    times: tuple[Tick, ...]
    values: tuple[Tick, ...]
    bands: tuple[Band, ...]
    marks: tuple[Mark, ...]
    gaps: tuple[float, ...]


@dataclass(frozen=True)
class Page:
    """All of it. `sentence` says what was done and how that ended; `sum` how the counts add up."""

    title: str
    kind: str
    sentence: str
    tone: Tone
    facts: Sequence[tuple[str, str]]
    made: str
    version: str
    counts: Sequence[Count] = ()
    counts_title: str = "What became of it"
    sum: str = ""
    maps: Sequence[SlotMap] = ()
    charts: Sequence[Chart] = ()
    no_charts: str = ""
    happened: Table | None = None
    keys: Sequence[Table] = ()
    tables: Sequence[Table] = ()
    settings: Sequence[tuple[str, str]] = field(default=())
