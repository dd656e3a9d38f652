"""What `slotferry check` prints for a person: the rows by group, each that is not ok with what to do.

Invariant: figures and words are the report's; a line more is only layout.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from slotferry.model.checks import CHECKS
from slotferry.preflight.application.analysis import Application
from slotferry.preflight.application.crossslot import CommandUse
from slotferry.preflight.keyspace.summary import Keyspace, PlacedShare, Share
from slotferry.preflight.report import CheckReport
from slotferry.preflight.rows import Row
from slotferry.report.columns import align
from slotferry.text import format_bytes, format_duration, shorten_key

_PATTERNS_SHOWN = 15
_USES_SHOWN = 25
_LEAST_TEXT = 30
_NAME_WIDTH = max(len(name) for checks in CHECKS.values() for name in checks)

Paint = Callable[[str, str], str]


def _plain(text: str, _status: str) -> str:
    return text


def check_table(report: CheckReport, width: int | None = None, paint: Paint = _plain) -> str:
    """Return the whole report; sentences are broken where they are longer than `width`.

    `paint` is given each status, and what it is.
    """
    lines = [f"{report.source} to {report.target}"]
    for group in CHECKS:
        rows = [row for row in report.rows if row.group == group]
        if rows:
            lines += ["", group, *(line for row in rows for line in _row_lines(row, width, paint))]
    if report.keyspace is not None and report.keyspace.sampled:
        lines += _data_tables(report.keyspace)
    if report.application is not None and report.application.uses:
        lines += _command_tables(report.application, width)
    return "\n".join([*lines, "", _verdict(report)])


def _command_tables(application: Application, width: int | None) -> list[str]:
    """Return the commands with several keys, and below each that breaks what makes it work."""
    heads = ("COMMAND", "CALLS", "CROSSING", "KEYS")
    shown = application.uses[:_USES_SHOWN]
    rows = [(shorten(u.command, 40), f"{u.calls:,}", f"{u.crossing:,}", _keys(u)) for u in shown]
    head, *table = align([heads, *rows], numbers=(1, 2), indent="  ")
    lines = ["", f"the application's commands, from {', '.join(application.sources)}", "", head]
    for use, line in zip(shown, table, strict=True):
        lines.append(line)
        if use in application.advice:
            lines += _broken("    > ", application.advice[use], width)
    if len(application.uses) > _USES_SHOWN:
        lines.append(f"  and {len(application.uses) - _USES_SHOWN:,} more")
    return lines


def _keys(use: CommandUse) -> str:
    undeclared = f" (undeclared: {' '.join(use.undeclared)})" if use.undeclared else ""
    return shorten(" ".join(use.patterns), 100) + undeclared


def _data_tables(keyspace: Keyspace) -> list[str]:
    """Return what the data consists of and where it will be."""
    about = "all keys" if keyspace.full else f"estimated from {keyspace.sampled:,} of {keyspace.keys:,} keys"
    lines = ["", f"the data, {about}"]
    parts = [("TYPE", keyspace.by_type), ("KEY PATTERN", keyspace.by_pattern[:_PATTERNS_SHOWN])]
    for head, shares in parts:
        rows = [(head, "KEYS", "BYTES", "SHARE", "TTL"), *(_share_row(s, keyspace) for s in shares)]
        lines += ["", *align(rows, numbers=(1, 2, 3, 4), indent="  ")]
    if len(keyspace.by_pattern) > _PATTERNS_SHOWN:
        lines.append(f"  and {len(keyspace.by_pattern) - _PATTERNS_SHOWN:,} more patterns")
    if keyspace.bytes_known:
        big = [(shorten_key(k.key, 60), k.type, format_bytes(k.bytes or 0)) for k in keyspace.biggest[:5]]
        lines += ["", *align([("BIGGEST KEY", "TYPE", "BYTES"), *big], numbers=(2,), indent="  ")]
    for head, placed in (
        ("PRIMARY", keyspace.primaries),
        ("HOTTEST SLOT", keyspace.hot_slots),
        ("HOTTEST HASH TAG", keyspace.hot_tags),
    ):
        if placed:
            rows = [(head, "KEYS", "BYTES", "SHARE", "AT"), *(_placed_row(p, keyspace) for p in placed)]
            lines += ["", *align(rows, numbers=(1, 2, 3), indent="  ")]
    return lines


def _share_row(share: Share, keyspace: Keyspace) -> tuple[str, ...]:
    return (
        shorten(share.name),
        *_amounts(share.keys, share.bytes, keyspace),
        f"{share.with_ttl / share.keys:.0%}" if share.keys else "",
    )


def _placed_row(placed: PlacedShare, keyspace: Keyspace) -> tuple[str, ...]:
    where = "" if placed.node == placed.name else placed.node
    return (shorten(placed.name), *_amounts(placed.keys, placed.bytes, keyspace), where)


def _amounts(keys: int, size: int, keyspace: Keyspace) -> tuple[str, str, str]:
    scale = keyspace.scale
    part = size / keyspace.bytes if keyspace.bytes else keys / keyspace.sampled
    known = format_bytes(size * scale) if keyspace.bytes_known else "?"
    return f"{keys * scale:,.0f}", known, f"{part:.1%}"


def shorten(text: str, limit: int = 60) -> str:
    """Return a name that is no longer than `limit`."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _row_lines(row: Row, width: int | None, paint: Paint) -> list[str]:
    status = "skipped" if row.skipped else row.status
    lines = _broken(f"  {status:<8} {row.name:<{_NAME_WIDTH}}  ", row.message, width)
    lines[0] = f"  {paint(status, row.status)}{lines[0][2 + len(status) :]}"
    if row.advice and row.status != "ok":
        lines += _broken(f"  {'':<8} {'':<{_NAME_WIDTH}}  > ", row.advice, width)
    return lines


def _broken(head: str, text: str, width: int | None) -> list[str]:
    """Return `text` behind `head`, its further lines below its first."""
    if width is None or width - len(head) < _LEAST_TEXT:
        return [head + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _verdict(report: CheckReport) -> str:
    errors, warnings = len(report.errors), len(report.warnings)
    good = len(report.rows) - errors - warnings
    counts = f"{good} ok, {_count(warnings, 'warning')}, {_count(errors, 'error')}"
    verdict = "a migration would be refused" if errors else "nothing stands against a migration"
    return f"{verdict}: {counts}, in {format_duration(report.elapsed_seconds)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
