"""The table that a verification ends with.

Invariant: figures are the report's, keys are escaped, a row that says nothing is left out, and none is wider
than a terminal may be.
"""

from __future__ import annotations

from collections.abc import Sequence

from slotferry.model.differences import DIFFERENCES, Difference
from slotferry.model.report import VerifyReport
from slotferry.report.columns import align, cut
from slotferry.text import differing_keys, format_bytes, format_duration, shorten_key

# --differences and --json have all of it.
_KEY_WIDTH, _WIDTH = 40, 60

_MEANINGS = {
    **DIFFERENCES,
    "payload": "damaged, of an unknown type, or too large for its type: not compared",
    "denied": "may not be read: not compared",
    "error": "answered with an error: not compared",
}


def verification_table(report: VerifyReport) -> str:
    """Return how a verification ended."""
    keys = report.keys
    rows = [
        ("source", keys.scanned, "keys compared" if report.sample is None else "keys of the sample"),
        ("target", report.target_keys.scanned, "keys looked for at the source"),
        ("equal", keys.unchanged, _extent(report)),
        ("expired", keys.expired, "the TTL ran out meanwhile"),
        ("vanished", keys.vanished, "deleted on both sides meanwhile"),
        ("pending", report.pending, "their slots stayed unavailable: run it again"),
    ]
    rows += [(kind, report.differences.get(kind, 0), meaning) for kind, meaning in _MEANINGS.items()]
    rows += [
        ("to send", report.to_send if report.dry_run else 0, "missing or different: would be sent again"),
        ("to delete", report.to_delete if report.dry_run else 0, "extra: would be deleted from the target"),
        ("repaired", report.repaired, "sent again, and equal now"),
        ("deleted", report.deleted, "extra keys, gone from the target now"),
    ]
    shown = [
        (name, f"{count:,}", meaning) for name, count, meaning in rows if count or name in ("source", "equal")
    ]
    lines = [f"verification {report.job}: {_verdict(report)}", *align(shown, numbers=(1,), indent="  ")]
    lines.append(
        f"  {format_bytes(report.totals.bytes)} compared in run {report.runs}"
        f"{', resumed' if report.resumed else ''}: {format_duration(report.elapsed_seconds)}, "
        f"{report.keys_per_second:,.0f} keys/s; redirects: {report.totals.moved:,} MOVED, "
        f"{report.totals.ask:,} ASK; retries: {report.totals.retries:,}"
    )
    if report.dry_run:
        lines.append("  a dry run: nothing was written to the target")
    if report.examples:
        lines += ["differences (source, target):", *difference_lines(report.examples)]
        if report.differing > len(report.examples):
            lines.append(f"  and {report.differing - len(report.examples):,} more: --differences FILE")
    lines += _next_steps(report)
    if report.misplaced_repair is not None:
        lines.append(f"  bring misplaced keys to their slots' owners with '{report.misplaced_repair}'")
    return "\n".join(lines)


def _verdict(report: VerifyReport) -> str:
    if report.error is not None:
        return report.status
    if report.differing and report.differing == report.differences.get("misplaced"):
        return "1 key is misplaced" if report.differing == 1 else f"{report.differing:,} keys are misplaced"
    if report.differing:
        return differing_keys(report.differing)
    if report.empty:
        return "no key was compared"
    return "not all keys could be compared" if report.pending else "no differences"


def _next_steps(report: VerifyReport) -> list[str]:
    """Return what can be done about the differences, by the same command."""
    found = {kind for kind in DIFFERENCES if report.differences.get(kind)}
    if report.error is not None:
        return []
    steps = []
    if found - {"extra", "misplaced"}:
        steps.append("--repair sends again what is missing or different")
    if "extra" in found:
        steps.append("--repair --delete-extra deletes what is extra")
    return [f"  the same command with {', and '.join(steps)}"] if steps else []


def _extent(report: VerifyReport) -> str:
    return "in type, TTL and length" if report.quick else "in type, TTL and value"


def difference_lines(examples: Sequence[Difference]) -> list[str]:
    """Return a line for each difference."""
    rows = [
        (shorten_key(one.key, _KEY_WIDTH), one.kind, cut(one.source or "-", _WIDTH), cut(one.target, _WIDTH))
        for one in examples
    ]
    return align(rows, indent="  ")
