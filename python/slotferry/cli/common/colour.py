"""Whether and how a command colours what it prints.

Invariant: a colour never carries what the words do not say. Colour is for terminals that have it: none where
NO_COLOR is set or TERM is dumb, unless `--color always` asks for it.
"""

from __future__ import annotations

import os
from typing import Literal, TextIO

import click

Colour = Literal["red", "green", "yellow"]

_choice = "auto"


def choose_colour(_context: click.Context, _parameter: click.Parameter, value: str) -> None:
    """Take what `--color` says; of this process, from now on."""
    global _choice
    _choice = value


def has_colour(stream: TextIO) -> bool:
    """Return whether what goes to `stream` is coloured."""
    if _choice != "auto":
        return _choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return stream.isatty()


def paint(text: str, colour: Colour, stream: TextIO) -> str:
    """Return the text in a colour, where `stream` has it."""
    return (
        click.style(text, fg=colour, bold=True if colour == "red" else None) if has_colour(stream) else text
    )
