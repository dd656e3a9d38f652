"""Short tables on stdout: results for a person.

Invariant: figures are the report's, keys are escaped, and a row that says nothing is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from slotferry.jobs.journal.records import PendingKey
from slotferry.model.counts import FailedKey
from slotferry.model.events import DryRunResult, Event, RunEnded, RunStarted
from slotferry.model.history import HistoryEntry
from slotferry.model.report import Report
from slotferry.report.base import Display
from slotferry.report.columns import align, cut
from slotferry.report.phrases import describe_report
from slotferry.text import count_of, format_bytes, format_duration, local_time, shorten_key

_OUTCOMES = {
    "migrated": "written to the target",
    "unchanged": "the target had the same value",
    "skipped": "the target has the key, left as it is",
    "expired": "the TTL ran out on the way",
    "vanished": "not at the source, or no longer",
    "pending": "their slots stayed unavailable, or the target lost them",
    "failed": "given up",
}


_MOST_HAPPENINGS = 25
_NONE = "the target has none of them"
_MESSAGE_WIDTH = 160  # 'jobs show' has the advice behind it as well


class ResultTables(Display):
    """Prints the table that a run ends with; nothing for a run that was refused before it began."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._begun = False

    def show(self, event: Event) -> None:
        """Print the event's table, if it has one."""
        if isinstance(event, RunStarted):
            self._begun = True
        elif isinstance(event, DryRunResult):
            self._begun = False  # this is its ending
            self.say(dry_run_table(event))
        elif isinstance(event, RunEnded) and self._begun:
            self.say(_ending(event.report))


def _ending(report: Report) -> str:
    from slotferry.model.report import VerifyReport
    from slotferry.report.verify_tables import verification_table

    if isinstance(report, VerifyReport):
        return verification_table(report)
    verification = report.verification
    tables = [summary_table(report), *([] if verification is None else [verification_table(verification)])]
    return "\n".join(tables)


def summary_table(report: Report) -> str:
    """Return how a run ended."""
    keys = report.keys
    rows = [("scanned", f"{keys.scanned:,}", "")]
    rows += [
        (outcome, f"{count:,}", meaning)
        for outcome, meaning in _OUTCOMES.items()
        if (count := getattr(keys, outcome)) or outcome == "migrated"
    ]
    found = ", and no key was found" if report.empty else ""
    lines = [
        f"job {report.job}: {report.status.replace('_', ' ')}{found}",
        *align(rows, numbers=(1,), indent="  "),
    ]
    lines.append(
        f"  {format_bytes(report.totals.bytes)} in run {report.runs}{', resumed' if report.resumed else ''}: "
        f"{format_duration(report.elapsed_seconds)}, {report.keys_per_second:,.0f} keys/s; redirects: "
        f"{report.totals.moved:,} MOVED, {report.totals.ask:,} ASK; retries: {report.totals.retries:,}"
    )
    if report.cutover is not None and report.status == "cut_over":
        lines.append(describe_report(report.job, report.cutover.to_dict()))
    if len(report.history) > 2:  # more than the begin and end of this run
        lines += ["what happened:", *history_lines(report.history, _MOST_HAPPENINGS)]
    if report.failures:
        lines += ["failed keys:", *failure_lines(report.failures)]
        if keys.failed > len(report.failures):
            lines.append(f"  and {keys.failed - len(report.failures):,} more")
    if report.notes:
        lines.append(f"{report.notes:,} keys lost the TTLs of their fields, as --field-ttl drop says")
    if report.collisions:
        lines.append(
            f"{report.collisions:,} names are shared by keys of the source: "
            f"'slotferry jobs show {report.job}' lists them"
        )
    if keys.failed or keys.pending:
        lines.append(f"see them with 'slotferry jobs show {report.job}'")
        lines += next_steps(report)
    return "\n".join(lines)


def next_steps(report: Report) -> list[str]:
    """Return what helps the keys that are not settled, a line for each way that they ended."""
    kinds = report.failed_kinds
    steps = []
    if report.keys.pending:
        steps.append("pending: the same command tries them again")
    if kinds.get("conflict") or kinds.get("ttl_conflict"):
        steps.append(
            "conflicts: decide with --on-conflict replace or skip, which the same job takes for another pass"
            if report.status == "completed_with_failures"
            else "conflicts: when the job has ended its work, it takes --on-conflict replace or skip"
        )
    if kinds.get("denied"):
        steps.append(
            "denied: grant the users these keys, as in ACL SETUSER <user> ~*; "
            "then the same command tries them again"
        )
    if kinds.get("payload"):
        steps.append("payload: the target can't load these values; the same command fails until it can")
    if kinds.get("too_large"):
        steps.append(
            "too large: raise the limit that the message names at every primary; "
            "then the same command tries them again"
        )
    if kinds.get("error"):
        steps.append("error: fix what the messages say; then the same command tries them again")
    return steps


def history_lines(history: Sequence[HistoryEntry], limit: int) -> list[str]:
    """Return a line for each of the last `limit` entries."""
    left_out = len(history) - limit
    rows = [
        (
            local_time(h.at),
            h.message + (f" ({h.count:,} times)" if h.count > 1 else ""),
        )
        for h in history[-limit:]
    ]
    head = [f"  {left_out} more before, see 'slotferry jobs show'"] if left_out > 0 else []
    return [*head, *align(rows, indent="  ")]


def dry_run_table(result: DryRunResult) -> str:
    """Return what a real run would do."""
    scans = count_of(result.partitions, "parallel scan")
    conflict = {
        "error": "those with another value would be recorded as conflicts",
        "replace": "they would be overwritten",
        "skip": "they would be left as they are",
    }[result.on_conflict]
    lines = [f"dry run: {count_of(result.keys - result.absent, 'key')} would be copied in {scans}"]
    lines.append(
        f"the target has {result.existing:,} of them already; {conflict}" if result.existing else _NONE
    )
    if result.absent:
        lines.append(f"{count_of(result.absent, 'listed key')} more: not at the source")
    rows = [(node, f"{count:,}", "keys") for node, count in result.keys_by_primary]
    return "\n".join([*lines, *align(rows, numbers=(1,), indent="  "), "nothing was written"])


def failure_lines(failures: Sequence[FailedKey], width: int = _MESSAGE_WIDTH) -> list[str]:
    """Return a line for each failed key, with its message up to a width."""
    rows = [(key_place(f), f"slot {f.slot}", f.kind, f.node, cut(f.message, width)) for f in failures]
    return align(rows, indent="  ")


def key_place(key: FailedKey | PendingKey) -> str:
    """Return a key's name, with its database where that is not 0."""
    name = shorten_key(key.key)
    return f"db {key.database}: {name}" if key.database else name
