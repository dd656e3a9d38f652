"""The page of a migration or a verification, from what the journal has of it.

Invariant: nothing is asked of a server and nothing is written; a job that runs, one that was killed and one
of an older Slotferry have a page as well. What is too much for a page is counted, and the page says where it
is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotferry._core import __version__
from slotferry.jobs.journal.records import COMPLETED
from slotferry.jobs.journal.series import SeriesRow, failed_by_slot, owners, series
from slotferry.jobs.lock import is_running
from slotferry.model.differences import DIFFERENCES, Difference
from slotferry.report.page.charts import Axis, lag_chart, rate_chart
from slotferry.report.page.content import Chart, Count, Page, Table, Tone, clean
from slotferry.report.page.findings import Findings, findings, unread_keys
from slotferry.report.page.slot_map import slot_map
from slotferry.report.phrases import describe_following
from slotferry.text import count_of, format_bytes, format_duration, local_time, shorten_key
from slotferry.verify import misplaced

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.jobs.journal.records import JobRecord, RunRecord
    from slotferry.model.counts import FailedKey
    from slotferry.model.history import HistoryEntry

MOST_KEYS = 1_000
_MOST_BYTES = 100_000  # of the text of all keys in one table
_MOST_HAPPENINGS = 200
_LONGEST_KEY = 200
_KEY_HEADS = ("Key", "Slot", "Kind", "Node", "Why")
_OUTCOMES = {
    "migrated": "written to the target",
    "unchanged": "the target had the same value",
    "skipped": "the target has the key, and it was left as it is",
    "expired": "the TTL ran out on the way",
    "vanished": "not at the source, or no longer",
    "pending": "their slots stayed unavailable, or the target lost them; the next run takes them up first",
    "failed": "given up; the table below says why",
}
_COMPARED = {
    "unchanged": ("equal", "the same on both sides"),
    "expired": ("expired", "the TTL ran out meanwhile"),
    "vanished": ("vanished", "deleted at the source meanwhile"),
    "pending": ("pending", "could not be read: their slots stayed unavailable"),
    "failed": ("differ", "not the same, or could not be compared; the table below says how"),
}


@dataclass(frozen=True)
class _Job:
    """What the parts of a page are made of."""

    journal: Journal
    path: Path
    record: JobRecord
    runs: Sequence[RunRecord]
    rows: Sequence[SeriesRow]
    history: Sequence[HistoryEntry]
    live: dict[str, Any] | None
    found: Findings | None
    """Of a verification, None of a migration."""
    notes: int
    """How many keys a policy gave up something of."""

    @property
    def verifies(self) -> bool:
        return self.found is not None

    @property
    def status(self) -> str:
        if self.record.status != "running":
            recorded = self.record.status
            return recorded if self.found is None else self.found.status(recorded)
        return "running" if is_running(self.path, self.record.name) else "interrupted"

    @property
    def of_this_pass(self) -> Sequence[RunRecord]:
        """The runs that the job's figures are of: since it began, or began anew."""
        begun = max((n for n, run in enumerate(self.runs) if not run.resumed), default=0)
        return self.runs[begun:]

    def seconds(self, run: RunRecord) -> float:
        """Return how long a run took; of one without an end, as long as it was heard of."""
        if run.elapsed_seconds is not None:
            return run.elapsed_seconds
        heard = [row.at for row in self.rows if row.run == run.number]
        return max(heard) - min(heard) if heard else 0.0


def job_page(journal: Journal, path: Path, record: JobRecord, live: dict[str, Any] | None) -> Page:
    """Return the page of a job; `live` is what its run says of itself, where one goes on."""
    history = journal.history(record.name)
    found = findings(journal, record.name) if record.setup.purpose == "verify" else None
    notes = journal.count_notes(record.name) if found is None else 0
    runs, rows = journal.runs(record.name), series(journal, record.name)
    job = _Job(journal, path, record, runs, rows, history, live, found, notes)
    marked = failed_by_slot(journal, record.name) if found is None else found.slots
    shown = slot_map("Slots of the target", owners(journal, record.name), marked)
    sentence, tone = _outcome(job)
    charts = _charts(job)
    return Page(
        title=clean(record.name, 120),
        kind="Verification" if job.verifies else "Migration",
        sentence=clean(sentence, 1_000),
        tone=tone,
        facts=[(name, clean(value)) for name, value in _facts(job)],
        made=local_time(time.time()),
        version=__version__,
        counts=_counts(job),
        sum=_sum(job),
        maps=() if shown is None else (shown,),
        charts=charts,
        no_charts="" if charts else _no_charts(job),
        happened=_happened(job),
        keys=_keys(job),
        tables=[_runs(job), *_cutovers(job)],
        settings=[(name, clean(value, 2_000)) for name, value in _settings(record)],
    )


def _outcome(job: _Job) -> tuple[str, Tone]:
    """Return what was done and how that ended, in a sentence."""
    record, keys, status = job.record, job.record.totals.keys, job.status
    sides = f"{record.setup.source} {'with' if job.verifies else 'to'} {record.setup.target}"
    what = f"{'Comparing' if job.verifies else 'Copying'} {sides}"
    why = job.runs[-1].error_message if job.runs else None
    if status == "running":
        state = "" if job.live is None else f": {job.live['state']}{_because(job.live)}"
        return f"{what} goes on{state}; {keys.done:,} keys are done and recorded.", "running"
    in_part = f" Of {count_of(job.notes, 'key')} a policy gave up something: see below." if job.notes else ""
    well: Tone = "warning" if job.notes else "good"
    if status == "cut_over":
        return f"{what} is done, and the application was cut over to the target.{in_part}", well
    if job.found is not None and status in COMPLETED:
        return _compared(what, job.found, keys.unchanged)
    if status == "completed":
        at_target = count_of(keys.migrated + keys.unchanged, "key")
        return f"{what} is complete: {at_target} of the source's are at the target.{in_part}", well
    if status == "completed_with_failures":
        left = [f"{n:,} {how}" for n, how in ((keys.failed, "failed"), (keys.pending, "are pending")) if n]
        shown = f"{' and '.join(left)}, of {count_of(keys.scanned, 'key')}"
        return f"{what} came to its end, but {shown}.{in_part}", "warning"
    ending = f" ({why.rstrip('.')})" if why else ""
    how = "interrupted" if status == "interrupted" else "ended by an error"
    done = f"{keys.done:,} keys are done and recorded; the same command again goes on"
    return f"{what} was {how}{ending}: {done}.", "warning" if status == "interrupted" else "bad"


def _compared(what: str, found: Findings, equal: int) -> tuple[str, Tone]:
    unread = f"{found.unread:,} could not be read"
    if found.differ:
        more = f", and {unread}" if found.unread else ""
        return f"{what}: {count_of(found.differ, 'key')} of both sides differ{more}.", "bad"
    if found.unread:
        return f"{what}: no difference was found, but {unread}.", "warning"
    return f"{what}: both sides are the same, {count_of(equal, 'key')} compared equal.", "good"


def _because(live: dict[str, Any]) -> str:
    return f" ({live['reason']})" if live.get("reason") else ""


def _facts(job: _Job) -> list[tuple[str, str]]:
    record, totals = job.record, job.record.totals
    runs = job.of_this_pass
    active = sum(map(job.seconds, runs))
    earlier = f"; {record.runs - len(runs):,} of earlier passes" if record.runs > len(runs) else ""
    facts = [
        ("Status", job.status.replace("_", " ")),
        ("Keys compared" if job.verifies else "Keys scanned", f"{totals.keys.scanned:,}"),
        ("Payloads", format_bytes(totals.bytes)),
        ("Began", local_time(record.created)),
        ("Changed last", local_time(record.updated)),
        ("Runs", f"{len(runs):,}, {format_duration(active)} together{earlier}"),
        ("Redirects", f"{totals.moved:,} MOVED, {totals.ask:,} ASK"),
        ("Retries", f"{totals.retries:,}"),
    ]
    if active and job.status != "running":
        facts.insert(3, ("On average", f"{totals.keys.settled / active:,.0f} keys/s"))
    if job.live is not None and job.live.get("follow") is not None:
        from slotferry.model.follow import FollowProgress

        facts.append(("Following", describe_following(FollowProgress(**job.live["follow"]))))
    return facts


def _counts(job: _Job) -> list[Count]:
    keys = job.record.totals.keys
    texts = _COMPARED if job.verifies else {name: (name, text) for name, text in _OUTCOMES.items()}
    tones: dict[str, Any] = {"pending": "warning", "failed": "bad"}
    counts = [
        Count(shown, count, text, tones.get(name, "") if count else "")
        for name, (shown, text) in texts.items()
        if (count := getattr(keys, name)) or name in ("migrated", "unchanged", "failed")
    ]
    if in_hand := keys.scanned - keys.done:
        counts.append(Count("in hand", in_hand, "scanned, and without an outcome yet"))
    if job.notes:
        text = "keys that a policy gave up something of, such as the TTLs of fields; counted above as well"
        counts.append(Count("in part", job.notes, text, "warning"))
    if job.found is not None:
        counts += _found_counts(job.found)
    return counts


def _found_counts(found: Findings) -> list[Count]:
    counts = []
    if found.sought is not None:
        text = "keys of the target that were looked for at the source"
        counts.append(Count("other way", found.sought, text))
    if found.sought_unread:
        text = "keys of the target that could not be looked for: slots stayed unavailable"
        counts.append(Count("other way: pending", found.sought_unread, text, "warning"))
    for kind, number in found.kinds.items():
        text = DIFFERENCES.get(kind, "could not be compared")
        counts.append(Count(f"difference: {kind}", number, text, "bad"))
    return counts


def _sum(job: _Job) -> str:
    keys = job.record.totals.keys
    parts = {**asdict(keys), "in hand": keys.scanned - keys.done}
    del parts["scanned"]
    shown = " + ".join(f"{count:,}" for count in parts.values() if count)
    return f"{shown or 0} = {count_of(keys.scanned, 'key')} scanned."


def _charts(job: _Job) -> list[Chart]:
    if len(job.rows) < 2:
        return []
    axis = Axis(job.rows)
    marks = [(entry.at, number) for number, entry in _numbered(job)]
    verb = "compared" if job.verifies else "settled"
    found = [
        rate_chart("keys", f"Keys {verb} per second", job.rows, axis, marks, "keys"),
        rate_chart("bytes", "Payload bytes per second", job.rows, axis, marks, "B"),
        lag_chart(job.rows, axis, marks),
    ]
    return [chart for chart in found if chart is not None]


def _no_charts(job: _Job) -> str:
    return "Nothing moved yet." if job.rows else "The journal has no series of this job over time."


def _numbered(job: _Job) -> list[tuple[int, HistoryEntry]]:
    return list(enumerate(job.history[-_MOST_HAPPENINGS:], 1))


def _happened(job: _Job) -> Table | None:
    if not job.history:
        return None
    rows = [
        (str(number), local_time(entry.at), _times(entry), clean(entry.message))
        for number, entry in _numbered(job)
    ]
    left = len(job.history) - len(rows)
    more = f"{left:,} earlier entries: 'slotferry jobs show {job.record.name}'." if left else ""
    return Table("What happened", ("No.", "When", "Times", "What"), rows, (0, 2), clean(more))


def _times(entry: HistoryEntry) -> str:
    return f"{entry.count:,}" if entry.count > 1 else ""


def _keys(job: _Job) -> list[Table]:
    name, keys = job.record.name, job.record.totals.keys
    tables = []
    pending, waits = keys.pending, job.journal.pending(name, MOST_KEYS)
    if job.found is not None:
        pending, waits = job.found.unread, list(unread_keys(job.journal, name, MOST_KEYS))
        found = map(Difference.of, islice(misplaced.all_differences(job.journal, name), MOST_KEYS))
        rows = [
            (shorten_key(d.key, _LONGEST_KEY), str(d.slot), d.kind, clean(d.source), clean(d.target), d.node)
            for d in found
        ]
        heads = ("Key", "Slot", "Kind", "Source", "Target", "Node")
        export = "'slotferry verify --differences FILE' writes all of them"
        tables.append(bounded("Differences", heads, rows, job.found.differ, export))
    else:
        export = f"'slotferry jobs failures {name}' prints all of them"
        failures = _of_keys(job.journal.failures(name, MOST_KEYS))
        tables.append(bounded("Failed keys", _KEY_HEADS, failures, keys.failed, export))
    export = f"'slotferry jobs show {name} --limit NUMBER' shows more"
    waiting = [(shorten_key(p.key, _LONGEST_KEY), str(p.slot), clean(p.reason)) for p in waits]
    tables.append(bounded("Pending keys", ("Key", "Slot", "Why"), waiting, pending, export))
    if job.notes:
        notes = _of_keys(job.journal.notes(name, MOST_KEYS))
        tables.append(bounded("Keys that were copied in part", _KEY_HEADS, notes, job.notes, export))
    return [table for table in tables if table.rows]


def _of_keys(keys: Sequence[FailedKey]) -> list[tuple[str, ...]]:
    return [(shorten_key(k.key, _LONGEST_KEY), str(k.slot), k.kind, k.node, clean(k.message)) for k in keys]


def bounded(
    caption: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], total: int, export: str
) -> Table:
    """Return a table of as many rows as there is room for, which says what is left out."""
    left = _MOST_BYTES
    kept = []
    for row in rows:
        left -= sum(len(escape(cell).encode()) for cell in row) + 10 + 9 * len(row)  # and the tags
        if left < 0:
            break
        kept.append(row)
    more = f"{total - len(kept):,} more are not shown: {export}." if total > len(kept) else ""
    return Table(f"{caption} ({total:,})", heads, kept, (1,), clean(more))


def _runs(job: _Job) -> Table:
    rows = []
    for run in job.runs[-_MOST_HAPPENINGS:]:
        took = "" if run.elapsed_seconds is None else format_duration(run.elapsed_seconds)
        status = job.status if run.status == "running" else run.status
        ended = local_time(run.ended)
        host, why = clean(run.host, 80), clean(run.error_message or "")
        rows.append(
            (str(run.number), local_time(run.started), ended, took, status.replace("_", " "), host, why)
        )
    return Table("Runs", ("No.", "Began", "Ended", "Took", "Status", "Host", "Why"), rows, (0,))


def _cutovers(job: _Job) -> list[Table]:
    if job.record.setup.follow is None:
        return []
    from slotferry.jobs.journal.cutovers import CutoverRecords

    attempts = CutoverRecords(job.path, job.record.name).attempts()
    rows = [
        (
            str(a.number),
            local_time(a.began),
            local_time(a.ended),
            a.outcome or "",
            a.step,
            clean(a.reason or ""),
        )
        for a in attempts
    ]
    heads = ("No.", "Began", "Ended", "Outcome", "Last step", "Why")
    return [Table("Cut-overs", heads, rows, (0,))] if rows else []


def _settings(record: JobRecord) -> list[tuple[str, str]]:
    setup = {name.replace("_", "-"): value for name, value in asdict(record.setup).items()}
    return [(name, str(value)) for name, value in setup.items() if value not in (None, 0)]
