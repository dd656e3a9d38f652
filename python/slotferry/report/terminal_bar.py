"""How every bar is set up, on a terminal or in a notebook.

Invariant: a terminal that does not know its size shows a bar too. In a notebook it is tqdm's own widget.
"""

from __future__ import annotations

import os
from typing import NoReturn, TextIO, cast

from tqdm import tqdm

from slotferry.report.base import is_notebook

_DEFAULT_SIZE = (100, 25)


def open_bar(stream: TextIO, total: int | None, layout: str, description: str = "") -> tqdm[NoReturn]:
    """Return a bar in tqdm's `layout` that is drawn at each change."""
    columns, rows = (None, None) if _has_size(stream) else _DEFAULT_SIZE
    # Progress comes ten times a second already; tqdm need not choose among it.
    return _kind_of_bar()(
        desc=description,
        total=total,
        file=stream,
        dynamic_ncols=columns is None,
        ncols=columns,
        nrows=rows,
        mininterval=0,
        miniters=1,
        bar_format=layout,
    )


def _kind_of_bar() -> type[tqdm[NoReturn]]:
    if not is_notebook():
        return tqdm
    from tqdm.auto import tqdm as widget

    return cast("type[tqdm[NoReturn]]", widget)  # it has the same face


def _has_size(stream: TextIO) -> bool:
    """Whether the terminal knows its size; some don't, and tqdm would show nothing there."""
    try:
        return os.get_terminal_size(stream.fileno()).columns > 0
    except (OSError, ValueError):
        return False
