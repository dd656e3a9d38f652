"""What `slotferry check` prints for a person: the rows by group, each that is not ok with what to do.

Invariant: figures and words are the report's; a line more is only layout.
"""

from __future__ import annotations

from slotferry.preflight.report import CheckReport
from slotferry.preflight.rows import CHECKS, Row
from slotferry.text import format_duration

_NAME_WIDTH = max(len(name) for checks in CHECKS.values() for name in checks)


def check_table(report: CheckReport) -> str:
    """Return the whole report."""
    lines = [f"{report.source} to {report.target}"]
    for group in CHECKS:
        rows = [row for row in report.rows if row.group == group]
        if rows:
            lines += ["", group, *(line for row in rows for line in _row_lines(row))]
    return "\n".join([*lines, "", _verdict(report)])


def _row_lines(row: Row) -> list[str]:
    status = "skipped" if row.skipped else row.status
    lines = [f"  {status:<8} {row.name:<{_NAME_WIDTH}}  {row.message}"]
    if row.advice and row.status != "ok":
        lines.append(f"  {'':<8} {'':<{_NAME_WIDTH}}  > {row.advice}")
    return lines


def _verdict(report: CheckReport) -> str:
    errors, warnings = len(report.errors), len(report.warnings)
    good = len(report.rows) - errors - warnings
    counts = f"{good} ok, {_count(warnings, 'warning')}, {_count(errors, 'error')}"
    verdict = "a migration would be refused" if errors else "nothing stands against a migration"
    return f"{verdict}: {counts}, in {format_duration(report.elapsed_seconds)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
