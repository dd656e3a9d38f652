"""Where a run of a job starts: anew, from its marks, or with the keys that are left.

Invariant: cursors are used only against the server process that they come from (`run_id`), and only for
the setup they were taken with.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from slotferry.errors import JobMismatchError
from slotferry.jobs.cluster.source import partitions_of_node
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import COMPLETED, JobRecord, Setup
from slotferry.jobs.options import Options
from slotferry.jobs.partitions import plan_partitions, useful_partitions
from slotferry.jobs.runner import is_followed_alone
from slotferry.migrate.key_list import KeyList
from slotferry.net.endpoints import Endpoint
from slotferry.text import count_of
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.databases import Databases, Route
from slotferry.topology.discovery import SourceFacts

_POLICY = ("on_conflict", "field_ttl", "wait_replicas", "eviction_metadata")


def make_setup(source: Endpoint, target: Endpoint, options: Options) -> Setup:
    """Return what every run of this job has to share."""
    selection = options.selection
    return Setup(
        source=source.identity,
        target=target.target_identity,
        match=selection.describe_names(),
        type=selection.describe_types(),
        on_conflict=options.on_conflict,
        field_ttl=options.field_ttl,
        wait_replicas=options.wait_replicas,
        filters=selection.describe_others(),
        rules=selection.describe_rules(),
        databases=describe_databases(options.db),
        map_db="; ".join(options.map_db) or None,
        eviction_metadata="kept" if options.keep_eviction_metadata else None,
        follow="yes" if options.follow else None,
        read="snapshot" if options.read == "snapshot" else None,
    )


def describe_databases(databases: Databases) -> str | None:
    """Return `--db` or `--all-dbs` as text; None for the database that the source's URL names."""
    if databases is None or databases == "all":
        return databases
    return ",".join(map(str, sorted(databases)))


def default_job_name(source: Endpoint, target: Endpoint) -> str:
    """Return a name for the job between these two: readable, and unique by a hash of both identities."""
    service = source.service.name if source.service else None
    places = [source.path or service or str(source.addresses[0]), str(min(target.addresses))]
    source_part, target_part = (re.sub(r"[^A-Za-z0-9.]+", "-", place)[-40:].strip("-.") for place in places)
    digest = hashlib.sha256(f"{source.identity} {target.target_identity}".encode()).hexdigest()[:8]
    return f"{source_part or 'source'}-to-{target_part or 'target'}-{digest}"


def check_setup(record: JobRecord, setup: Setup) -> None:
    """Raise `JobMismatchError` where the journal's job was started with another setup.

    One that has ended its work may begin another pass with another policy.
    """
    known = replace(record.setup, **_policy(setup)) if _has_ended(record) else record.setup
    differences = known.differences(setup)
    if differences:
        # A verification that starts over does not take the place of what has copied.
        raise JobMismatchError(
            f"the job {record.name} was started with another setup: {'; '.join(differences)}",
            hint="give another --job, or discard this one with 'slotferry jobs discard'"
            if setup.purpose == "verify" != record.setup.purpose
            else "give the same options to resume it, another --job, or --restart to start it over",
        )


def starts_over(record: JobRecord, setup: Setup, options: Options) -> bool:
    """Whether the job is done from the start, whatever the journal knows of it.

    It is when asked to be, when all is done, and when it has ended and gets another policy: that one has
    to hold for every key, also for those that are settled.
    """
    if options.restart or record.status == "completed":
        return True
    return _has_ended(record) and record.setup != setup


def _has_ended(record: JobRecord) -> bool:
    """Whether the job was scanned to its end."""
    return record.status in COMPLETED


def _policy(setup: Setup) -> dict[str, Any]:
    """Return what each pass of a job may have anew; all else says which keys go where."""
    return {name: getattr(setup, name) for name in _POLICY}


def planned_partitions(options: Options, facts: SourceFacts) -> int:
    """Return the number of partitions for a job that starts now."""
    return _partitions(options, facts, facts.keys)


def _partitions(options: Options, facts: SourceFacts, keys: int) -> int:
    if facts.file is not None:
        return 1
    if isinstance(facts, ClusterFacts):
        nodes = len(facts.nodes)
        return nodes * partitions_of_node(_wanted(options, facts, keys // nodes), facts)
    return _wanted(options, facts, keys)


def _wanted(options: Options, facts: SourceFacts, keys: int) -> int:
    if options.parallel_scans is None:
        return plan_partitions(facts.round_trip, keys)
    return useful_partitions(options.parallel_scans, keys)


def partitions_by_database(options: Options, facts: SourceFacts, routes: Sequence[Route]) -> dict[int, int]:
    """Return the number of partitions of each database for a job that starts now."""
    if len(routes) == 1:
        return {routes[0].source: planned_partitions(options, facts)}
    return {
        route.source: _partitions(options, facts, facts.databases.get(route.source, 0)) for route in routes
    }


def prepare_job(
    journal: Journal,
    name: str,
    setup: Setup,
    facts: SourceFacts,
    options: Options,
    notify: Callable[[str], None],
    routes: Sequence[Route] = (Route(),),
    names: KeyList | None = None,
    *,
    void: str = "",
) -> bool:
    """Bring the journal's job to where this run starts; return whether it resumes earlier work.

    A job that is new or `starts_over` has no earlier work; so does one whose source has another `run_id`,
    which `notify` is told, and one of whose work the target has nothing left, for the reason `void`.
    Otherwise its marks and unsettled keys stand. A job of `names` has no cursors.
    """
    record, run_id = journal.job(name), facts.run_id
    databases = partitions_by_database(options, facts, routes)
    if setup.read == "snapshot":
        databases = dict.fromkeys(databases, 1)
    most = max(databases.values())
    if record is None:
        journal.create(name, setup, most, run_id, databases, names=names)
        return False
    if starts_over(record, setup, options):
        if not options.restart and (changes := record.setup.differences(setup)):
            notify(f"the job {name} has ended its work; this is a fresh pass: {'; '.join(changes)}")
        journal.reset(name, setup, most, run_id, databases, names=names)
        return False
    if void:
        journal.reset(
            *(name, setup, most, run_id, databases),
            names=names,
            follows_on=options.follow,
            keeps_collisions=record.run_id == run_id,
        )
        notify(f"{void}: everything is copied from the start")
        return False
    if setup.read == "snapshot" and not all(mark.done for mark in journal.marks(name)):
        journal.reset(
            *(name, setup, most, run_id, databases),
            follows_on=options.follow,
            keeps_collisions=record.run_id == run_id,
        )
        notify(taken_again(options))
        return False
    if record.run_id != run_id and (names is not None or is_followed_alone(journal, name)):
        journal.adopt(name, run_id)
        return True
    if record.run_id != run_id:
        before = _as_before(databases)
        journal.reset(name, setup, record.partition_count, run_id, before, follows_on=options.follow)
        notify(_changed(name, facts))
        return False
    wanted = options.parallel_scans
    if (
        wanted is not None
        and not isinstance(facts, ClusterFacts)
        and record.partition_count not in (wanted, useful_partitions(wanted, facts.keys))
    ):
        notify(
            f"--parallel-scans {options.parallel_scans} is not used: job {name} was started with "
            f"{record.partition_count}, which its cursors depend on"
        )
    if _has_ended(record) and not options.follow:
        keys = journal.totals(name).keys
        left = count_of(keys.failed + keys.pending, "key")
        notify(
            f"the job {name} was scanned to its end before: {left} that it left will be tried again, and "
            "what the source has got since then is not looked for; --restart looks at every key"
        )
    return True


def taken_again(options: Options) -> str:
    """Return what becomes of a snapshot that was not copied to its end."""
    there = {
        "error": "is compared, and not written again where it is equal",
        "replace": "is written again",
        "skip": "is left as it is, also where the source has changed it since",
    }
    gone = "" if options.follow else "; what the source has deleted since stays there"
    return (
        "a snapshot can't be gone on with where it was interrupted: another one is taken, and what the "
        f"target has already {there[options.on_conflict]}{gone}"
    )


def _changed(name: str, facts: SourceFacts) -> str:
    """Return why nothing that the job `name` has recorded of its source holds any more."""
    if facts.file is not None:
        return (
            f"the file is another than the one that job {name} began with (its size, time or beginning "
            "differs, or it comes from stdin): it is read from its start"
        )
    return (
        f"the source is another process than the one that job {name} began with (a restart or failover "
        "changed its run_id), so its cursors are void: every partition is scanned again from the start"
    )


def _as_before(databases: dict[int, int]) -> list[int] | dict[int, int]:
    """Return what the job is cut into once more: as it was, where it has one database."""
    return list(databases) if len(databases) == 1 else databases
