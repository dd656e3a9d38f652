"""What a person sees while a migration runs; every display is fed by events and writes to stderr.

Invariant: a display never ends a run: where its stream is gone it falls silent.
"""

from __future__ import annotations

import sys
from typing import Literal, TextIO

from slotferry.report.base import Display

__all__ = ["Display", "ProgressStyle", "choose_display"]

ProgressStyle = Literal["auto", "bar", "lines", "none"]


def choose_display(style: ProgressStyle, stream: TextIO | None = None) -> Display:
    """Return the display for `style`: `auto` is a bar on a terminal and lines elsewhere."""
    stream = stream or sys.stderr
    if style == "auto":
        style = "bar" if stream.isatty() else "lines"
    if style == "bar":
        from slotferry.report.bar import BarDisplay

        return BarDisplay(stream)
    if style == "lines":
        from slotferry.report.lines import LinesDisplay

        return LinesDisplay(stream)
    return Display(stream)
