"""What a person sees while a migration runs; every display is fed by events and writes to stderr.

Invariant: a display never ends a run: where its stream is gone it falls silent.
"""

from __future__ import annotations

import sys
from typing import Literal, TextIO

from slotferry.report.base import Display, is_notebook

__all__ = ["Display", "ProgressStyle", "choose_display"]

ProgressStyle = Literal["auto", "bar", "lines", "none"]


def choose_display(style: ProgressStyle, stream: TextIO | None = None) -> Display:
    """Return the display for `style`: `auto` is a bar on a terminal or in a notebook, and lines elsewhere."""
    is_chosen_stream = stream is not None
    stream = stream or sys.stderr
    if style == "auto":
        style = "bar" if stream.isatty() or (is_notebook() and not is_chosen_stream) else "lines"
    if style == "bar":
        from slotferry.report.bar import BarDisplay

        return BarDisplay(stream)
    if style == "lines":
        from slotferry.report.lines import LinesDisplay

        return LinesDisplay(stream)
    return Display(stream)
