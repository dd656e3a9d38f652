"""What a person sees while slots move: a bar or lines on stderr, and the result on stdout.

Invariant: as in slotferry.report: a display whose stream is gone falls silent, and ends no run.
"""

from __future__ import annotations

from typing import TextIO

from slotferry.model.notices import Event
from slotferry.report.base import Display, Silent
from slotferry.report.json_lines import JsonLines
from slotferry.report.reshard.lines import ReshardLines
from slotferry.report.reshard.tables import report_table
from slotferry.reshard.events import ReshardEnded


def choose_displays(
    style: str | None, as_json: bool, errors: TextIO, results: TextIO
) -> list[Display | Silent]:
    """Return the displays of a run: progress in `style` (None: none) to `errors`, results to `results`."""
    if style == "auto":
        style = "bar" if errors.isatty() else "lines"
    shown = (
        Silent() if style is None else {"bar": _bar, "lines": ReshardLines, "none": Display}[style](errors)
    )
    return [shown, JsonLines(results) if as_json else ReshardResult(results)]


def _bar(stream: TextIO) -> Display:
    from slotferry.report.reshard.bar import ReshardBar  # tqdm takes its time to load

    return ReshardBar(stream)


class ReshardResult(Display):
    """The result for a person."""

    def show(self, event: Event) -> None:
        """Print the table that a run ends with."""
        if isinstance(event, ReshardEnded) and event.report.error is None:
            self.say(report_table(event.report))
