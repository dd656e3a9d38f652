"""What `slotferry jobs` tells of reshards: the journal's rows as lines, objects and tables.

Invariant: looking changes no row. A job is forgotten only while nobody runs it and nothing of it may be open:
what the journal knows of an open slot is needed to repair it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.errors import JobLockedError, RefusedError
from slotferry.redaction import json_text
from slotferry.text import iso_time

if TYPE_CHECKING:
    from slotferry.reshard.journal import ReshardJournal, ReshardRecord, ReshardRun


@contextmanager
def open_recorded(path: Path, *, is_checked: bool = False) -> Iterator[ReshardJournal | None]:
    """Open the reshards of a journal that is there; looking for jobs makes none.

    With `is_checked` it is not read as a whole, see `Journal.open`.
    """
    from slotferry.reshard.journal import ReshardJournal

    if not path.exists():
        yield None
        return
    with ReshardJournal(path, is_checked=is_checked) as journal:
        yield journal


def has(path: Path, job: str) -> bool:
    """Return whether there is a reshard of that name, be it damaged."""
    with open_recorded(path, is_checked=True) as journal:
        return journal is not None and journal.has(job)


def job_dicts(path: Path) -> list[tuple[float, dict[str, Any]]]:
    """Return when each reshard changed last, and an object of type `job`."""
    with open_recorded(path, is_checked=True) as journal:
        records = [] if journal is None else journal.jobs()
        return [(record.updated, _job_dict(path, journal, record)) for record in records if journal]


def show(path: Path, job: str, *, as_json: bool) -> None:
    """Print a reshard: its plan in short, what became of its slots, its runs."""
    from slotferry.jobs.control.control_socket import live_status

    with open_recorded(path, is_checked=True) as journal:
        record = None if journal is None else journal.job(job)
        if journal is None or record is None:
            return
        live = live_status(path, job, "reshard")
        told = _job_dict(path, journal, record)
        runs = journal.runs(job)
        reasons = journal.reasons(job)
    if not as_json:
        _show_text(record, told, live, runs, reasons)
        return
    click.echo(json_text(told))
    if live is not None:
        click.echo(json_text({**live, "type": "live"}))
    for run in runs:
        status = told["status"] if run.status == "running" else run.status
        times = {"started": iso_time(run.started), "ended": iso_time(run.ended)}
        click.echo(json_text({"type": "run", **asdict(run), **times, "status": status}))
    for why, slots in reasons.items():
        click.echo(json_text({"type": "left", "slots": slots, "reason": why}))


def discard(path: Path, job: str) -> None:
    """Forget a reshard. Raises `JobLockedError` while slots are moved, `RefusedError` while some are open."""
    from slotferry.jobs.control.control_socket import live_status
    from slotferry.jobs.journal.row_checks import DamagedRowError
    from slotferry.jobs.lock import JobLock
    from slotferry.reshard.cluster.wire import format_ranges

    with open_recorded(path) as journal, ExitStack() as locks:
        if journal is None:
            return
        try:
            record = journal.job(job)
        except DamagedRowError:
            # Whose nodes can't be read is known to be idle by its socket; of open slots the cluster knows.
            if live_status(path, job, "reshard") is not None:
                raise
            journal.discard(job)
            return
        if record is None:
            return
        try:
            for node in sorted(record.plan.nodes, key=lambda node: node.id):
                locks.enter_context(JobLock(path, f"reshard-{node.id}"))
        except JobLockedError as error:
            raise JobLockedError(
                f"slots of the cluster of {job} are being moved by {error.message.rpartition(' by ')[2]}",
                hint="wait until it has ended, or stop it",
            ) from None
        if opened := journal.slots(job, "open"):
            raise RefusedError(
                f"the job {job} may have left slots open: {format_ranges(opened)}",
                hint="run it again, or repair them with 'slotferry reshard fix --apply', then discard it",
            )
        journal.discard(job)


def _job_dict(path: Path, journal: ReshardJournal, record: ReshardRecord) -> dict[str, Any]:
    return {
        "type": "job",
        "kind": "reshard",
        "job": record.name,
        "status": job_status(path, journal, record),
        "cluster": record.cluster,
        "by": record.plan.policy.by,
        "slots": {
            "planned": record.plan.slots,
            **{state: len(journal.slots(record.name, state)) for state in ("moved", "left", "open")},
        },
        "keys": {"moved": record.keys},
        "bytes": record.bytes,
        "conflicts": record.conflicts,
        "runs": record.runs,
        "created": iso_time(record.created),
        "updated": iso_time(record.updated),
    }


def job_status(path: Path, journal: ReshardJournal, record: ReshardRecord) -> str:
    """Return a job's status; one that was running and is not was killed: interrupted."""
    from slotferry.jobs.lock import holder

    if record.status != "running":
        return record.status
    pids = {holder(path, f"reshard-{node.id}") for node in record.plan.nodes}
    return "running" if journal.runs(record.name)[-1].pid in pids else "interrupted"


def _show_text(
    record: ReshardRecord,
    told: dict[str, Any],
    live: dict[str, Any] | None,
    runs: list[ReshardRun],
    reasons: dict[str, str],
) -> None:
    from slotferry.report.columns import align
    from slotferry.report.live import live_rows
    from slotferry.text import format_bytes, local_time

    slots = told["slots"]
    parts = [f"{slots['moved']:,} of {slots['planned']:,} moved"]
    parts += [f"{slots[state]:,} {state}" for state in ("left", "open") if slots[state]]
    head = [
        ("job", record.name),
        ("kind", "reshard"),
        ("status", told["status"]),
        *([] if live is None else live_rows(live)),
        ("cluster", record.cluster),
        ("by", record.plan.policy.by),
        ("slots", ", ".join(parts)),
        ("keys", f"{record.keys:,} moved, {format_bytes(record.bytes)}"),
    ]
    if record.conflicts:
        head.append(("conflicts", f"{record.conflicts:,} keys: see 'slotferry reshard fix'"))
    click.echo("\n".join(align(head)))
    click.echo("\nruns:")
    heads = ("NUMBER", "STARTED", "ENDED", "STATUS", "HOST", "PID", "WHY")
    rows = [
        (
            *(str(run.number), local_time(run.started), local_time(run.ended)),
            told["status"] if run.status == "running" else run.status,
            *(run.host, str(run.pid), run.why),
        )
        for run in runs
    ]
    click.echo("\n".join(align([heads, *rows], numbers=(0, 5), indent="  ")))
    if reasons:
        click.echo("\nslots that were left:")
        click.echo("\n".join(f"  {which}: {why}" for why, which in reasons.items()))
