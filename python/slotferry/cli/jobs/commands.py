"""`slotferry jobs`: what the journal knows.

Invariant: `list` and `show` change nothing; `discard` asks no job that is running.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.lazy import Home, LazyGroup
from slotferry.cli.jobs.verifications import (
    differences,
    first_differences,
    shown_differences,
    shown_outcome,
)
from slotferry.cli.options.job_argument import job_argument
from slotferry.errors import JournalError, RefusedError, UsageError
from slotferry.redaction import json_text
from slotferry.text import iso_time, local_time, show_key
from slotferry.verify.jobs import extra_job

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.jobs.journal.records import JobRecord, RunRecord

settings = {"auto_envvar_prefix": "SLOTFERRY"}

journal_option = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, envvar="SLOTFERRY_JSON", help="JSON lines on stdout, each with a type."
)

kind_option = click.option(
    "--kind",
    type=click.Choice(["migrate", "verify", "reshard"]),
    help="Which, where both have a job of that name.",
)


_MESSAGE_WIDTH = 1_000  # whole, with its advice; only what a server made of it is cut

_EXAMPLES = """\
\b
Examples:
  slotferry jobs list
  slotferry jobs show old-6379-to-new1-7000-1f2e3d4c
  slotferry jobs failures nightly > keys
  slotferry jobs pause nightly
  slotferry jobs rate nightly --max-keys-per-second 20000
  slotferry jobs discard nightly
"""
_SHOW_EXAMPLES = """\
\b
Examples:
  slotferry jobs show nightly
  slotferry jobs show nightly --watch
  slotferry jobs show nightly --json | jq -r 'select(.type == "live") | .state + " " + .reason'
  slotferry jobs show nightly --limit 1000000 --json | jq -r 'select(.type == "failure").message'
"""
_DISCARD_EXAMPLES = """\
\b
Examples:
  slotferry jobs discard nightly
"""


_STEERING = {
    "pause": "Pause a running job until it is resumed.",
    "resume": "Let a paused job go on.",
    "rate": "Change how fast a running job reads or moves keys.",
    "cancel": "End a running job in order, as Ctrl-C does: it can be resumed.",
}


@click.group(
    cls=LazyGroup,
    homes={
        "list": Home(
            "slotferry.cli.jobs.listing", "list_jobs", "List the jobs, the one that changed last first."
        ),
        **{name: Home("slotferry.cli.jobs.control", f"{name}_job", text) for name, text in _STEERING.items()},
        "prune": Home(
            "slotferry.cli.jobs.prune", "prune_jobs", "Forget jobs that have not changed for long."
        ),
        "failures": Home(
            "slotferry.cli.jobs.failures", "failures", "Print the names of a job's failed keys, one a line."
        ),
    },
    epilog=_EXAMPLES,
    no_args_is_help=False,
)
def jobs() -> None:
    """List, show, steer and discard the jobs in the journal."""


@jobs.command("show", context_settings=settings, epilog=_SHOW_EXAMPLES)
@job_argument
@journal_option
@click.option(
    "--limit", type=click.IntRange(0), default=20, show_default=True, help="How many keys of each kind."
)
@click.option(
    "--watch", is_flag=True, help="Show how a running job is until it ends; Ctrl-C ends the watching."
)
@json_option
@kind_option
def show_job(
    job: str, journal: Path | None, limit: int, watch: bool, as_json: bool, kind: str | None
) -> None:
    """Show a job: setup, runs, failed and pending keys; of a running one also how it is at this instant.

    Of a reshard: what became of its slots, and why some were left.
    """
    from slotferry.cli.reshard import recorded

    path = journal_path(journal)
    found = find_kind(path, job, kind)
    if watch:
        from slotferry.cli.jobs.watch import watch_job

        if as_json:
            raise UsageError("--watch is for people, and --json for programs", hint="leave one out")
        watch_job(path, job, "reshard" if found == "reshard" else "migrate")
    if found == "reshard":
        recorded.show(path, job, as_json=as_json)
        return
    with _looked_at(path, job) as (opened, record):
        if as_json:
            _show_json(opened, path, record, limit)
        else:
            _show_text(opened, path, record, limit)


@jobs.command("discard", context_settings=settings, epilog=_DISCARD_EXAMPLES)
@job_argument
@journal_option
@json_option
@kind_option
def discard_job(job: str, journal: Path | None, as_json: bool, kind: str | None) -> None:
    """Forget a job: marks, runs, failed and pending keys.

    What the job has written to the target stays. A reshard that may have left slots open is not forgotten.
    """
    path = journal_path(journal)
    forget(path, job, find_kind(path, job, kind))
    click.echo(json_text({"type": "discarded", "job": job}) if as_json else f"discarded {job}")


def forget(path: Path, job: str, kind: str) -> None:
    """Forget a job, its other direction too. Raises `RefusedError` where it runs, or is still needed."""
    from slotferry.cli.reshard import recorded
    from slotferry.jobs.lock import JobLock

    if kind == "reshard":
        recorded.discard(path, job)
        return
    # A damaged job is forgotten unread.
    with opened_journal(path, job) as opened, JobLock(path, job):
        _refuse_changed_source(path, job)
        names = [job, extra_job(job)] if _verifies(opened, job) else [job]
        for name in names:
            opened.discard(name)


def _refuse_changed_source(path: Path, job: str) -> None:
    """Raise where only this job knows what a cut-over has changed at the source."""
    from slotferry.jobs.journal.cutovers import CutoverRecords

    if CutoverRecords(path, job).changed_settings():
        raise RefusedError(
            f"the source of {job} may still refuse writes, and this job knows what it was set to before",
            hint=f"put them back with 'slotferry cutover {job} --undo', then discard it",
        )


def _verifies(opened: Journal, job: str) -> bool:
    """Return whether a job and its other direction are a verification that can be read."""
    records = []
    with suppress(JournalError):
        records = [record for name in (job, extra_job(job)) if (record := opened.job(name)) is not None]
    return len(records) == 2 and all(record.setup.purpose == "verify" for record in records)


def journal_path(journal: Path | None) -> Path:
    """Return the journal that is meant."""
    from slotferry.jobs.names import default_journal_path

    return journal or default_journal_path()


def open_journal(path: Path, *, is_checked: bool = False) -> Journal | None:
    """Open a journal that is there; looking for jobs makes none.

    With `is_checked` it is not read as a whole: who shows a part of it finds what is damaged there.
    """
    from slotferry.jobs.journal.journal import Journal

    return Journal.open(path, is_checked=is_checked) if path.exists() else None


def find_kind(path: Path, job: str, wanted: str | None) -> str:
    """Return which kind of job is meant. Raises `UsageError` where there are two of that name, or none."""
    from slotferry.cli.reshard import recorded

    opened = open_journal(path, is_checked=True)
    found = []
    if opened is not None:
        with opened:
            found += ["migrate"] if opened.has(job) else []
        found += ["reshard"] if recorded.has(path, job) else []
    # A migration and a verification of one name are one job.
    wanted = "migrate" if wanted == "verify" else wanted
    found = [kind for kind in found if wanted in (None, kind)]
    if len(found) > 1:
        raise UsageError(
            f"{job!r} is a migration and a reshard in {path}", hint="say which with --kind migrate or reshard"
        )
    if not found:
        raise _no_job(path, job)
    return found[0]


@contextmanager
def opened_journal(path: Path, job: str, *, is_checked: bool = False) -> Iterator[Journal]:
    """Open the journal that holds the job. Raises `UsageError` where none does."""
    with ExitStack() as stack:
        opened = open_journal(path, is_checked=is_checked)
        if opened is None or not stack.enter_context(opened).has(job):
            raise _no_job(path, job)
        yield opened


@contextmanager
def _looked_at(path: Path, job: str) -> Iterator[tuple[Journal, JobRecord]]:
    with opened_journal(path, job, is_checked=True) as opened:
        record = opened.look(job)
        if record is None:
            raise _no_job(path, job)
        yield opened, record


def _no_job(path: Path, job: str) -> UsageError:
    return UsageError(f"there is no job {job!r} in {path}", hint="see 'slotferry jobs list'")


def _status(path: Path, job: str, recorded: str) -> str:
    """Return the status of a job or run; one that was running and is not was killed: interrupted as well."""
    from slotferry.jobs.lock import is_running

    if recorded != "running":
        return recorded
    return "running" if is_running(path, job) else "interrupted"


def job_dict(path: Path, journal: Journal, record: JobRecord) -> dict[str, Any]:
    """Return a job as an object of type `job`."""
    found = differences(journal, record)
    return {
        "type": "job",
        "kind": record.setup.purpose,
        "job": record.name,
        "status": shown_outcome(_status(path, record.name, record.status), found),
        "setup": asdict(record.setup),
        "partitions": record.partition_count,
        "keys": asdict(record.totals.keys),
        **({} if found is None else {"differences": found}),
        "bytes": record.totals.bytes,
        "redirects": {"moved": record.totals.moved, "ask": record.totals.ask},
        "retries": record.totals.retries,
        "runs": record.runs,
        "created": iso_time(record.created),
        "updated": iso_time(record.updated),
    }


def _show_json(journal: Journal, path: Path, record: JobRecord, limit: int) -> None:
    from slotferry.cli.jobs.following import cutover_dicts
    from slotferry.jobs.control.control_socket import live_status

    live = live_status(path, record.name)
    lines: Iterator[dict[str, Any]] = chain(
        [job_dict(path, journal, record)],
        [] if live is None else [{**live, "type": "live"}],
        ({"type": "cutover", "job": record.name, **cutover} for cutover in cutover_dicts(path, record)),
        (
            {
                "type": "run",
                **asdict(run),
                "status": _status(path, record.name, run.status),
                "started": iso_time(run.started),
                "ended": iso_time(run.ended),
            }
            for run in journal.runs(record.name)
        ),
        (
            {"type": "history", **entry.to_dict()}
            for entry in journal.history(record.name)
            if entry.kind != "run"
        ),
        _failure_dicts(journal, record, limit),
        (
            {"type": "pending", **asdict(pending), "key": show_key(pending.key)}
            for pending in (journal.pending(record.name, limit) if record.totals.keys.pending else ())
        ),
        ({"type": "note", **note.to_dict()} for note in journal.notes(record.name, limit)),
    )
    for line in lines:
        click.echo(json_text(line))


def _failure_dicts(journal: Journal, record: JobRecord, limit: int) -> Iterator[dict[str, Any]]:
    if record.setup.purpose == "verify":
        for difference in first_differences(journal, record.name, limit):
            yield {"type": "difference", **difference.to_dict()}
        return
    for failure in journal.failures(record.name, limit):
        yield {"type": "failure", **failure.to_dict()}


def _show_text(journal: Journal, path: Path, record: JobRecord, limit: int) -> None:
    from slotferry.report.columns import align
    from slotferry.report.tables import history_lines

    click.echo("\n".join(align(_head_rows(journal, path, record))))
    click.echo("\nruns:")
    heads = ("NUMBER", "STARTED", "ENDED", "STATUS", "HOST", "PID", "WHY")
    rows = [_run_row(run, _status(path, record.name, run.status)) for run in journal.runs(record.name)]
    click.echo("\n".join(align([heads, *rows], numbers=(0, 5), indent="  ")))
    history = journal.history(record.name)
    if any(entry.kind != "run" for entry in history):
        click.echo("\nwhat happened:")
        click.echo("\n".join(history_lines(history, len(history))))
    _show_keys(journal, record, limit)


def _head_rows(journal: Journal, path: Path, record: JobRecord) -> list[tuple[str, str]]:
    """Return what a job is and how it stands, for a table of two columns."""
    from slotferry.cli.jobs.following import cutover_rows
    from slotferry.jobs.control.control_socket import live_status
    from slotferry.report.live import live_rows

    verifies = record.setup.purpose == "verify"
    setup, keys = record.setup, record.totals.keys
    words = {"scanned": "compared", "unchanged": "equal", "failed": "differ"} if verifies else {}
    counts = {words.get(name, name): count for name, count in asdict(keys).items()}
    found = differences(journal, record)
    counts |= {kind: (found or {}).get(kind, 0) for kind in ("extra", "misplaced")}
    live = live_status(path, record.name)
    marks = journal.marks(record.name)
    done = sum(mark.done for mark in marks)
    return [
        ("job", record.name),
        ("kind", setup.purpose),
        *([] if setup.follow is None else [("follows", "the source, after the copy")]),
        ("status", shown_outcome(_status(path, record.name, record.status), found)),
        *([] if live is None else live_rows(live)),
        *cutover_rows(path, record),
        ("source", setup.source),
        ("target", setup.target),
        ("compares", setup.comparison or "") if verifies else ("on-conflict", setup.on_conflict),
        *(
            (name, value)
            for name, value in (
                ("match", setup.match),
                ("type", setup.type),
                ("wait-replicas", str(setup.wait_replicas) if setup.wait_replicas else None),
                ("filters", setup.filters),
                ("rules", setup.rules),
                ("databases", setup.databases),
                ("map-db", setup.map_db),
                ("keys-from", setup.keys_from),
            )
            if value is not None
        ),
        ("partitions", f"{done} of {len(marks)} scanned"),
        ("keys", ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "none"),
    ]


def _show_keys(journal: Journal, record: JobRecord, limit: int) -> None:
    """Show the keys that did not end well: failed or different, pending, copied in part."""
    from slotferry.report.columns import align
    from slotferry.report.tables import failure_lines, key_place

    keys = record.totals.keys
    failures = journal.failures(record.name, limit) if keys.failed else []
    pending = journal.pending(record.name, limit) if keys.pending else []
    if record.setup.purpose == "verify":
        for line in shown_differences(journal, record, limit):
            click.echo(line)
    elif failures:
        click.echo(f"\nfailed keys ({len(failures):,} of {keys.failed:,}):")
        click.echo("\n".join(failure_lines(failures, _MESSAGE_WIDTH)))
    if pending:
        click.echo(f"\npending keys ({len(pending):,} of {keys.pending:,}):")
        shown = [(key_place(key), f"slot {key.slot}", key.reason) for key in pending]
        click.echo("\n".join(align(shown, indent="  ")))
    if notes := journal.notes(record.name, limit):
        click.echo(
            f"\ncopied in part or to a shared name ({len(notes):,} of {journal.count_notes(record.name):,}):"
        )
        click.echo("\n".join(failure_lines(notes, _MESSAGE_WIDTH)))


def _run_row(run: RunRecord, status: str) -> tuple[str, ...]:
    return (
        str(run.number),
        local_time(run.started),
        local_time(run.ended),
        status + (" (resumed)" if run.resumed else ""),
        run.host,
        str(run.pid),
        run.error_message or "",
    )
