"""Whether a migration will work, told before anything is written: what `migrate` refuses to begin with.

Invariant: everything here only reads. `find_rows` is the part that every migration runs; `slotferry check`
(check.py) adds the data and the application's commands.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from slotferry.errors import SlotferryError
from slotferry.net.connector import Connector
from slotferry.preflight.compatibility import judge_compatibility
from slotferry.preflight.fitness import judge_fitness, judge_target, slot_owners, tag_might_overflow
from slotferry.preflight.following import judge_following, judge_snapshot, look_at_stream
from slotferry.preflight.keyspace.sampling import quick_shares
from slotferry.preflight.rights import judge_rights
from slotferry.preflight.rows import Row, apply_skips
from slotferry.preflight.servers import judge_servers, source_is_cluster
from slotferry.preflight.survey import Survey, survey_target, take_survey
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.discovery import SourceFacts, TargetFacts

__all__ = [
    "Row",
    "apply_skips",
    "find_problems",
    "find_rows",
    "judge_servers",
    "judge_survey",
    "source_is_cluster",
]


def find_problems(
    source: Connector, source_facts: SourceFacts, target: Connector, target_facts: TargetFacts
) -> list[SlotferryError]:
    """Return all that stands against the migration, the gravest first; empty when both sides are fit.

    Raises `SourceLostError` or `TargetLostError` where a server goes away meanwhile.
    """
    rows = find_rows(source, source_facts, target, target_facts)
    return [row.error() for row in rows if row.status == "error"]


def find_rows(
    source: Connector,
    source_facts: SourceFacts,
    target: Connector,
    target_facts: TargetFacts,
    skips: Collection[str] = (),
    *,
    keys: int | None = None,
    filtered: bool = False,
    renamed: bool = False,
    wait_replicas: int = 0,
    follow: bool = False,
    snapshot: bool = False,
) -> list[Row]:
    """Return the rows of everything but the data and the commands; only the first few where they are grave.

    Errors that `skips` names are told as skipped warnings. `keys` is how many are to be moved, where that is
    not what the source's database has; `filtered`: or fewer, by filters; `renamed`: not in the slots that
    their names have at the source; `wait_replicas`: replicas of each primary that are to confirm; `follow`:
    whether the source's stream is to be read, too; `snapshot`: whether its keys are read from one.

    Raises `SourceLostError` or `TargetLostError` where a server goes away meanwhile.
    """
    rows = apply_skips(judge_servers(source_facts, target_facts, target.endpoint.database), skips)
    if any(row.status == "error" for row in rows):
        return rows
    if source_facts.file is not None:
        return rows + apply_skips(judge_target_alone(target, target_facts, wait_replicas), skips)
    survey = take_survey(source, source_facts, target, target_facts)
    keys_to_move = survey.source_keys if keys is None else keys
    survey = replace(survey, source_keys=keys_to_move, filtered=filtered, wait_replicas=wait_replicas)
    shares = None
    one = not isinstance(source_facts, ClusterFacts)  # of a cluster's keys one node has but a part
    if one and keys is None and not filtered and not renamed and tag_might_overflow(survey):
        shares = quick_shares(source, source_facts, slot_owners(survey.topology))
    rows += apply_skips(judge_survey(survey, shares), skips)
    if snapshot:
        with source.open(source_facts.address(source.endpoint)) as node:
            rows += apply_skips(judge_snapshot(node, source_facts.server), skips)
    if follow:
        with source.open(source_facts.address(source.endpoint)) as node:
            # Who waits for a copy does not wait for a measurement: the server's own average does.
            stream = look_at_stream(node, source_facts.server, seconds=0.0)
        rows += apply_skips(judge_following(stream), skips)
    return rows


def judge_target_alone(target: Connector, facts: TargetFacts, wait_replicas: int) -> list[Row]:
    """Return the rows that need no server as the source. Raises `TargetLostError`."""
    survey = replace(survey_target(target, facts), wait_replicas=wait_replicas)
    denied = {view.node: view.denied for view in survey.primaries}
    return [*judge_rights("target", denied), *judge_target(survey)]


def judge_survey(survey: Survey, shares: Mapping[str, float] | None = None) -> list[Row]:
    """Return the rows that a survey answers; `shares` are the primaries' of the data, where known."""
    return [
        *judge_rights("source", {survey.source.node: survey.source.denied}),
        *judge_rights("target", {view.node: view.denied for view in survey.primaries}),
        *judge_fitness(survey, shares),
        *judge_compatibility(survey),
    ]
