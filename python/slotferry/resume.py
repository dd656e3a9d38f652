"""Where a run of a job starts: anew, from its marks, or with the keys that are left.

Invariant: cursors are used only against the server process that they come from (`run_id`), and only for
the setup they were taken with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from slotferry.discovery import SourceFacts
from slotferry.endpoints import Endpoint
from slotferry.errors import JobMismatchError
from slotferry.journal import JobRecord, Journal, Setup
from slotferry.options import Options
from slotferry.partitions import plan_partitions
from slotferry.text import escape_key


def make_setup(source: Endpoint, target: Endpoint, options: Options) -> Setup:
    """Return what every run of this job has to share."""
    match = options.match_bytes
    return Setup(
        source=source.identity,
        target=target.target_identity,
        match=None if match is None else escape_key(match),
        type=options.type,
        on_conflict=options.on_conflict,
        field_ttl=options.field_ttl,
        wait_replicas=options.wait_replicas,
    )


def default_job_name(source: Endpoint, target: Endpoint) -> str:
    """Return a name for the job between these two: readable, and unique by a hash of both identities."""
    service = source.service.name if source.service else None
    places = [source.path or service or str(source.addresses[0]), str(min(target.addresses))]
    source_part, target_part = (re.sub(r"[^A-Za-z0-9.]+", "-", place)[-40:].strip("-.") for place in places)
    digest = hashlib.sha256(f"{source.identity} {target.target_identity}".encode()).hexdigest()[:8]
    return f"{source_part or 'source'}-to-{target_part or 'target'}-{digest}"


def check_setup(record: JobRecord, setup: Setup) -> None:
    """Raise `JobMismatchError` where the journal's job was started with another setup."""
    differences = record.setup.differences(setup)
    if differences:
        raise JobMismatchError(
            f"the job {record.name} was started with another setup: {'; '.join(differences)}",
            hint="give the same options to resume it, another --job, or --restart to start it over",
        )


def planned_partitions(options: Options, facts: SourceFacts) -> int:
    """Return the number of partitions for a job that starts now."""
    return options.parallel_scans or plan_partitions(facts.round_trip, facts.keys)


def prepare_job(
    journal: Journal,
    name: str,
    setup: Setup,
    facts: SourceFacts,
    options: Options,
    notify: Callable[[str], None],
) -> bool:
    """Bring the journal's job to where this run starts; return whether it resumes earlier work.

    A job that is new, restarted or completed starts over; so does one whose source has another `run_id`,
    which `notify` is told. Otherwise its marks and unsettled keys stand.
    """
    record, run_id = journal.job(name), facts.server.run_id
    if record is None:
        journal.create(name, setup, planned_partitions(options, facts), run_id)
        return False
    if options.restart or record.status == "completed":
        journal.reset(name, setup, planned_partitions(options, facts), run_id)
        return False
    if record.run_id != run_id:
        journal.reset(name, setup, record.partition_count, run_id)
        notify(
            f"the source is another process than the one that job {name} began with (a restart or failover "
            "changed its run_id), so its cursors are void: every partition is scanned again from the start"
        )
        return False
    if options.parallel_scans not in (None, record.partition_count):
        notify(
            f"--parallel-scans {options.parallel_scans} is not used: job {name} was started with "
            f"{record.partition_count}, which its cursors depend on"
        )
    return True
