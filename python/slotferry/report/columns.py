"""Rows of text with their columns below each other.

Invariant: no line ends with blanks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_CUT = "..."


def cut(text: str, width: int) -> str:
    """Return the text, or its beginning where it is longer than `width`."""
    return text if len(text) <= width else text[: width - len(_CUT)] + _CUT


def align(rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), indent: str = "") -> list[str]:
    """Return the rows as lines with their columns below each other; `numbers` are flush right."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        indent
        + "  ".join(
            cell.rjust(width) if index in numbers else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
