"""The page of a check: its rows by group, and what the data and the commands are.

Invariant: figures and words are the report's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from slotferry._core import __version__
from slotferry.model.checks import CHECKS
from slotferry.preflight.application.analysis import Application
from slotferry.preflight.keyspace.summary import Keyspace, PlacedShare, Share
from slotferry.preflight.report import CheckReport
from slotferry.report.page.content import Count, Page, Table, clean
from slotferry.text import count_of, format_bytes, format_duration, local_time, shorten_key

_MOST_ROWS = 100
_HEADS = ("Keys", "Memory", "Share")


def check_page(report: CheckReport) -> Page:
    """Return the page of a check."""
    errors, warnings = len(report.errors), len(report.warnings)
    good = len(report.rows) - errors - warnings
    what = f"Copying {report.source} to {report.target}"
    if errors:
        sentence = f"{what} would be refused: {count_of(errors, 'error')} to put right first."
    elif warnings:
        sentence = f"{what}: nothing stands against it, with {count_of(warnings, 'warning')} to know of."
    else:
        sentence = f"{what}: nothing stands against it."
    return Page(
        title=f"Check of {clean(report.source, 100)}",
        kind="Check before a migration",
        sentence=clean(sentence, 1_000),
        tone="bad" if errors else "warning" if warnings else "good",
        facts=[
            ("Source", clean(report.source)),
            ("Target", clean(report.target)),
            ("Took", format_duration(report.elapsed_seconds)),
        ],
        made=local_time(time.time()),
        version=__version__,
        counts_title="What was found",
        counts=[
            Count("ok", good, "checks that need nothing done"),
            Count(
                "warning", warnings, "checks that a person should know about", "warning" if warnings else ""
            ),
            Count("error", errors, "checks that a migration must not begin with", "bad" if errors else ""),
        ],
        sum=f"{good:,} + {warnings:,} + {errors:,} = {count_of(len(report.rows), 'check')}.",
        keys=[_rows(report)],
        tables=[*_data(report.keyspace), *_commands(report.application)],
    )


def _rows(report: CheckReport) -> Table:
    order, grave = list(CHECKS), ("error", "warning", "ok")
    rows = [
        (
            *(row.name, row.group, "skipped" if row.skipped else row.status),
            *(clean(row.message, 1_000), clean("" if row.status == "ok" else row.advice, 1_000)),
        )
        for row in sorted(report.rows, key=lambda r: (grave.index(r.status), order.index(r.group)))
    ]
    return Table("Checks", ("Check", "Group", "Status", "What is", "What to do"), rows)


def _data(keyspace: Keyspace | None) -> list[Table]:
    if keyspace is None or not keyspace.sampled:
        return []
    about = "all keys" if keyspace.full else f"estimated from {keyspace.sampled:,} of {keyspace.keys:,} keys"
    tables = [
        _shares(f"Types, {about}", "Type", keyspace.by_type, keyspace),
        _shares(f"Patterns of keys, {about}", "Pattern", keyspace.by_pattern, keyspace),
        _places("Primaries", "Primary", keyspace.primaries, keyspace),
        _places("Hottest slots", "Slot", keyspace.hot_slots, keyspace),
        _places("Hottest hash tags", "Hash tag", keyspace.hot_tags, keyspace),
    ]
    if keyspace.bytes_known and keyspace.biggest:
        big = [(shorten_key(k.key, 200), k.type, format_bytes(k.bytes or 0)) for k in keyspace.biggest[:20]]
        tables.append(Table("Largest keys", ("Key", "Type", "Memory"), big, (2,)))
    return [table for table in tables if table.rows]


def _shares(caption: str, head: str, found: Sequence[Share], keyspace: Keyspace) -> Table:
    rows = [
        (
            clean(s.name, 200),
            *_amounts(s.keys, s.bytes, keyspace),
            f"{s.with_ttl / s.keys:.0%}" if s.keys else "",
        )
        for s in found[:_MOST_ROWS]
    ]
    more = f"{len(found) - len(rows):,} more." if len(found) > len(rows) else ""
    return Table(caption, (head, *_HEADS, "With a TTL"), rows, (1, 2, 3, 4), more)


def _places(caption: str, head: str, found: Sequence[PlacedShare], keyspace: Keyspace) -> Table:
    rows = [
        (
            clean(p.name, 200),
            *_amounts(p.keys, p.bytes, keyspace),
            "" if p.node == p.name else clean(p.node, 80),
        )
        for p in found[:_MOST_ROWS]
    ]
    return Table(caption, (head, *_HEADS, "At"), rows, (1, 2, 3))


def _amounts(keys: int, size: int, keyspace: Keyspace) -> tuple[str, str, str]:
    part = size / keyspace.bytes if keyspace.bytes else keys / keyspace.sampled
    known = format_bytes(size * keyspace.scale) if keyspace.bytes_known else "?"
    return f"{keys * keyspace.scale:,.0f}", known, f"{part:.1%}"


def _commands(application: Application | None) -> list[Table]:
    if application is None or not application.uses:
        return []
    rows = [
        (
            *(clean(use.command, 80), f"{use.calls:,}", f"{use.crossing:,}", clean(" ".join(use.patterns))),
            clean(application.advice.get(use, "")),
        )
        for use in application.uses[:_MOST_ROWS]
    ]
    left = len(application.uses) - len(rows)
    heads = ("Command", "Calls", "Crossing slots", "Keys", "What makes it work")
    return [Table("The application's commands", heads, rows, (1, 2), f"{left:,} more." if left else "")]
