"""Man pages, from the commands' own help: run as a module with a folder, it writes one for each command.

Invariant: a page says what `--help` says, under the same headings; no text of a command is taken for a
request of the formatter.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from slotferry._core import __version__
from slotferry.cli.common.help_groups import headings
from slotferry.cli.common.reference import commands, root


def write_man_pages(folder: Path) -> list[Path]:
    """Write a page for each command into `folder`, making it where it is missing; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for command, context in commands(*root()):
        path = folder / f"{_name(context)}.1"
        path.write_text("\n".join(_page(command, context)) + "\n", encoding="utf-8")
        written.append(path)
    return written


def _name(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def _page(command: click.Command, context: click.Context) -> Iterator[str]:
    name = _name(context)
    yield f'.TH "{name.upper()}" 1 "" "slotferry {__version__}" "Slotferry"'
    yield ".nh"  # what is divided at the end of a line can't be copied
    yield ".SH NAME"
    yield f"{_escaped(name)} \\- {_escaped(command.get_short_help_str(limit=200).rstrip('.'))}"
    yield ".SH SYNOPSIS"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\\fB{_escaped(context.command_path)}\\fR {_escaped(usage)}"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(command.help or "")
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]
    for title, below in headings(options):
        records = [record for option in below if (record := option.get_help_record(context)) is not None]
        if records:
            yield f".SH {_escaped(title.upper())}"
        for option, text in records:
            yield from (".TP", f"\\fB{_escaped(option)}\\fR", _escaped(text))
    if isinstance(command, click.Group):
        yield ".SH COMMANDS"
        for inner, below_it in commands(command, context):
            if below_it.parent is context:
                text = _escaped(inner.get_short_help_str(limit=200))
                yield from (".TP", f"\\fB{_escaped(_name(below_it))}\\fR(1)", text)
    yield from _epilog(command.epilog or "")


def _epilog(epilog: str) -> Iterator[str]:
    """Yield what stands behind the options: blocks as they are, each under its first line, and paragraphs."""
    if epilog:
        yield ".SH NOTES"
    for part in inspect.cleandoc(epilog).split("\n\n"):
        if not part.startswith("\b\n"):
            yield from _paragraphs(part)
            continue
        first, *lines = part.removeprefix("\b\n").splitlines()
        if first.endswith(":"):
            yield f".SH {_escaped(first.rstrip(':').upper())}"
        else:
            lines.insert(0, first)
        yield from (".nf", *map(_escaped, lines), ".fi")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.strip():
            yield from (".PP", _escaped(" ".join(paragraph.split())))


def _escaped(text: str) -> str:
    """Return a text that the formatter prints as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m slotferry.cli.common.man_pages FOLDER")
    for page in write_man_pages(Path(sys.argv[1])):
        click.echo(page)
