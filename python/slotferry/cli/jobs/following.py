"""What `jobs list` and `jobs show` tell of a job that follows its source: how it is, and its cut-overs.

Invariant: nothing is changed; what a cut-over came to is the run's own word, as the journal has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotferry.report.columns import cut
from slotferry.text import iso_time

if TYPE_CHECKING:
    from slotferry.jobs.journal.records import JobRecord

_REASON_WIDTH = 60


def following(path: Path, record: JobRecord) -> dict[str, Any]:
    """Return what a job that follows its source is listed with besides."""
    from slotferry.jobs.control.control_socket import live_status

    if record.setup.follow is None:
        return {}
    cutovers = cutover_dicts(path, record)
    last = {"cutover": cutovers[-1]} if cutovers else {}
    live = live_status(path, record.name) if record.status == "running" else None
    return last if live is None else {**last, "state": live["state"], "follow": live["follow"]}


def shown_status(record: dict[str, Any]) -> str:
    """Return the status of a job in a table."""
    state, cutover = record.get("state"), record.get("cutover")
    if state == "cutting_over":
        return "cutting over"
    text = str(record["status"])
    if state == "following":
        text = f"following, {record['follow']['lag_seconds']:.1f} s behind"
    if cutover is not None and cutover["outcome"] in ("abandoned", "not_ready"):
        text += f"; not cut over: {cut(cutover['reason'] or '', _REASON_WIDTH)}"
    return text


def cutover_dicts(path: Path, record: JobRecord) -> list[dict[str, Any]]:
    """Return the job's cut-overs as JSON objects, the first one first; `outcome` is null without an end."""
    from slotferry.jobs.journal.cutovers import CutoverRecords

    if record.setup.follow is None:
        return []
    records = CutoverRecords(path, record.name)
    return [
        {
            "attempt": attempt.number,
            "began": iso_time(attempt.began),
            "ended": None if attempt.ended is None else iso_time(attempt.ended),
            "step": attempt.step,
            "fence": attempt.fence,
            "outcome": attempt.outcome or None,
            "reason": attempt.reason or None,
            **(records.report(attempt.number) or {}),
        }
        for attempt in records.attempts()
    ]


def cutover_rows(path: Path, record: JobRecord) -> list[tuple[str, str]]:
    """Return the job's last cut-over, for a table of two columns."""
    found = cutover_dicts(path, record)
    if not found:
        return []
    last = found[-1]
    outcome = "not ended" if last["outcome"] is None else last["outcome"].replace("_", " ")
    text = f"{outcome} in the step {last['step']}, attempt {last['attempt']}"
    if (stopped := last.get("write_stop_ms")) is not None:
        text += f", writes were stopped for {stopped:,.0f} ms"
    if last["reason"]:
        text += f": {last['reason']}"
    return [("cut-over", text)]
