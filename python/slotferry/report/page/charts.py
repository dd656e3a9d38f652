"""Figures over time as lines, from the rows of a job's series.

Invariant: a rate is what a sum grew by between two rows of one run and one phase, so thinned rows change how
fine it is and not what it says. The time between two runs is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from slotferry.jobs.journal.series import SeriesRow
from slotferry.report.page.content import Band, Chart, Mark, Tick
from slotferry.text import format_bytes

WIDTH, HEIGHT = 880.0, 160.0
_MOST_POINTS = 500
_GAP = 14.0
_SHORTEST = 0.2  # seconds: a rate over less says nothing
_CALM = ("running", "following", "finished", "draining", "connecting")
_NICE_SECONDS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3600, 10800, 21600, 86400, 604800, 2592000)

_Step = tuple[SeriesRow, SeriesRow, float]


@dataclass(frozen=True)
class _Piece:
    """One run on the axis of time."""

    run: int
    begin: float
    end: float
    left: float
    width: float


class Axis:
    """Places instants on the axis of time, the runs one behind the other."""

    def __init__(self, rows: Sequence[SeriesRow]) -> None:
        spans: dict[int, tuple[float, float]] = {}
        for row in rows:
            begin, end = spans.get(row.run, (row.at, row.at))
            spans[row.run] = (min(begin, row.at), max(end, row.at))
        # By their numbers: a clock may have been set back meanwhile.
        ordered = [(run, *spans[run]) for run in sorted(spans)]
        total = sum(max(end - begin, _SHORTEST) for _, begin, end in ordered)
        gap = min(_GAP, WIDTH / 4 / max(1, len(ordered)))
        room = WIDTH - gap * (len(ordered) - 1)
        self.pieces: list[_Piece] = []
        left = 0.0
        for run, begin, end in ordered:
            width = room * max(end - begin, _SHORTEST) / total
            self.pieces.append(_Piece(run, begin, end, left, width))
            left += width + gap
        self.gaps = tuple(piece.left - gap / 2 for piece in self.pieces[1:])

    def place(self, at: float, run: int | None = None) -> float:
        """Return where an instant (of a run) is; one outside of all runs is at the nearest edge of one."""
        pieces = [piece for piece in self.pieces if run in (None, piece.run)]
        best = min(pieces, key=lambda p: max(p.begin - at, at - p.end, 0.0))
        share = (at - best.begin) / max(best.end - best.begin, _SHORTEST)
        return round(best.left + best.width * min(1.0, max(0.0, share)), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Return times of day where there is room for them; of one short run, seconds from its begin."""
        total = sum(piece.end - piece.begin for piece in self.pieces)
        step = next((s for s in _NICE_SECONDS if total / s <= 8), _NICE_SECONDS[-1])
        ticks: list[Tick] = []
        for piece in self.pieces:
            relative = len(self.pieces) == 1 and total < 120
            at = piece.begin if relative else math.ceil(piece.begin / step) * step
            while at <= piece.end and len(ticks) < 40:
                where = self.place(at)
                if not ticks or where - ticks[-1].at > WIDTH / 14:
                    label = f"{round(at - piece.begin, 1):g} s" if relative else _clock(at, step)
                    ticks.append(Tick(where, label))
                at = round(at + step, 3)
        return tuple(ticks)


def rate_chart(
    name: str,
    title: str,
    rows: Sequence[SeriesRow],
    axis: Axis,
    marks: Iterable[tuple[float, int]],
    unit: str,
) -> Chart | None:
    """Return the chart of how fast `done` or `bytes` (as `name` says) grew; None where nothing was seen."""
    value: Callable[[SeriesRow], int] = (lambda row: row.bytes) if name == "bytes" else (lambda row: row.done)
    steps: list[_Step] = []
    total_grown = total_seconds = 0.0
    for before, after in _pairs(rows):
        seconds, grown = after.at - before.at, value(after) - value(before)
        if grown >= 0 and seconds > 0:
            steps.append((before, after, grown / seconds))
            total_grown, total_seconds = total_grown + grown, total_seconds + seconds
    if not steps or not total_grown:
        return None
    most = max(rate for _, _, rate in steps)
    mean = total_grown / total_seconds
    description = f"On average {_figure(mean, unit)}/s, at most {_figure(most, unit)}/s between two rows."
    return _chart(name, title, description, steps, rows, axis, marks, f"{unit}/s")


def lag_chart(rows: Sequence[SeriesRow], axis: Axis, marks: Iterable[tuple[float, int]]) -> Chart | None:
    """Return the chart of the lag; None where no source was followed."""
    steps = [
        (before, after, after.lag_seconds)
        for before, after in _pairs(rows)
        if after.lag_seconds is not None and before.lag_seconds is not None
    ]
    if not steps:
        return None
    most, last = max(lag for _, _, lag in steps), steps[-1][2]
    description = f"At most {most:.1f} s behind the source, {last:.1f} s at last."
    return _chart("lag", "Lag behind the source", description, steps, rows, axis, marks, "s")


def slots_chart(rows: Sequence[SeriesRow], axis: Axis, planned: int) -> Chart | None:
    """Return the chart of how many slots had been moved, as `done` of the rows counts them."""
    steps = [(before, after, float(after.done)) for before, after in _pairs(rows)]
    if not steps:
        return None
    description = f"{rows[-1].done:,} of {planned:,} that were planned."
    return _chart("slots", "Slots moved so far", description, steps, rows, axis, (), "slots")


def _chart(
    name: str,
    title: str,
    description: str,
    steps: Sequence[_Step],
    rows: Sequence[SeriesRow],
    axis: Axis,
    marks: Iterable[tuple[float, int]],
    unit: str,
) -> Chart:
    top = _nice(max(value for _, _, value in steps))
    line: list[str] = []
    area: list[str] = []
    end: SeriesRow | None = None
    for begin, until, value in steps:
        left, right = axis.place(begin.at, begin.run), axis.place(until.at, until.run)
        y = round(HEIGHT - HEIGHT * min(1.0, value / top), 1)
        # Steps, since what is known is the mean between two rows; a gap between runs is none of it.
        line.append(f"{'L' if end is begin else 'M'}{left:g} {y:g}H{right:g}")
        area.append(f"M{left:g} {HEIGHT:g}V{y:g}H{right:g}V{HEIGHT:g}z")
        end = until
    return Chart(
        name=name,
        title=title,
        description=description,
        path="".join(line),
        area="".join(area),
        times=axis.ticks(),
        values=tuple(
            Tick(HEIGHT - HEIGHT * part / 4, _figure(top * part / 4, unit.removesuffix("/s"), axis=True))
            for part in range(5)
        ),
        bands=tuple(_bands(rows, axis)),
        marks=tuple(_apart([Mark(axis.place(at), number) for at, number in marks])),
        gaps=axis.gaps,
    )


def _pairs(rows: Sequence[SeriesRow]) -> list[tuple[SeriesRow, SeriesRow]]:
    """Return rows of one run and phase that follow one another, not more than can be drawn.

    The first and the last row of each such piece are among them, so nothing of what it did is left out.
    """
    every = math.ceil(len(rows) / _MOST_POINTS)
    pairs: list[tuple[SeriesRow, SeriesRow]] = []
    for _, group in groupby(rows, key=lambda row: (row.run, row.phase)):
        first, *more = group
        kept = [first]
        for number, row in enumerate(more, 1):
            if number % every == 0 and row.at - kept[-1].at >= _SHORTEST:
                kept.append(row)
        if more and kept[-1] is not more[-1]:
            if len(kept) > 1 and more[-1].at - kept[-1].at < _SHORTEST:
                kept.pop()
            kept.append(more[-1])
        pairs += pairwise(kept)
    return pairs


def _bands(rows: Sequence[SeriesRow], axis: Axis) -> Iterable[Band]:
    """Yield the times that were spent paused or waiting."""
    begun: SeriesRow | None = None
    last = rows[0]
    for row in [*rows, None]:
        same = row is not None and begun is not None and (row.run, row.state) == (begun.run, begun.state)
        if begun is not None and not same:
            # A run that was killed ends with its last row.
            end = row.at if row is not None and row.run == begun.run else last.at
            left, right = axis.place(begun.at, begun.run), axis.place(end, begun.run)
            if right - left >= 0.5:
                yield Band(left, round(right - left, 1), begun.state)
            begun = None
        if begun is None and row is not None and row.state not in _CALM:
            begun = row
        last = row or last


def _apart(marks: list[Mark]) -> Iterable[Mark]:
    """Yield marks that do not lie on one another; the list has them all."""
    last = -math.inf
    for mark in sorted(marks, key=lambda mark: mark.at):
        if mark.at - last >= 12:
            last = mark.at
            yield mark


def _nice(value: float) -> float:
    """Return the next round figure."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 5, 8, 10) if value <= power * step * 1.0001)


def _figure(value: float, unit: str, *, axis: bool = False) -> str:
    if unit == "B":
        return format_bytes(round(value))
    if unit == "s":
        return f"{value:g} s"
    if axis and value >= 10_000:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:,.0f}" if axis else f"{value:,.0f} {unit}"


def _clock(at: float, step: float) -> str:
    layout = "%d %b" if step >= 86400 else "%d %b %H:%M" if step >= 10800 else "%H:%M:%S"
    return time.strftime(layout if step < 60 or step >= 10800 else "%H:%M", time.localtime(at))
