"""The page of a reshard, from its plan and what the journal has of it.

Invariant: nothing is asked of a cluster and nothing is written. A slot is where the plan found it until the
journal says that it has moved.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from slotferry._core import __version__
from slotferry.jobs.journal.series import SeriesRow
from slotferry.jobs.lock import is_running
from slotferry.report.page.charts import Axis, rate_chart, slots_chart
from slotferry.report.page.content import Chart, Count, Page, SlotMap, Table, Tone, clean
from slotferry.report.page.slot_map import Ranges, slot_map
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.journal import ReshardJournal, ReshardRecord
from slotferry.reshard.plan.model import Plan
from slotferry.reshard.repair.health import Health
from slotferry.text import count_of, format_bytes, local_time, ranges_of, slots_in

_FULLEST = 20


def reshard_page(
    journal: ReshardJournal, path: Path, record: ReshardRecord, live: dict[str, Any] | None
) -> Page:
    """Return the page of a job; `live` is what its run says of itself, where one goes on."""
    name, plan = record.name, record.plan
    moved, left, opened = (journal.slots(name, state) for state in ("moved", "left", "open"))
    status = record.status
    if status == "running":
        status = "running" if is_running(path, name, "reshard") else "interrupted"
    remaining = plan.slots - len(moved) - len(left)
    reasons = tuple((clean(slots), clean(why)) for why, slots in journal.reasons(name).items())
    runs = [
        (
            str(r.number),
            local_time(r.started),
            local_time(r.ended),
            r.status.replace("_", " "),
            clean(r.host),
            clean(r.why),
        )
        for r in journal.runs(name)
    ]
    sentence, tone = _outcome(record, status, len(moved), len(left), remaining, live)
    charts = _charts(journal, record)
    return Page(
        title=clean(name, 120),
        kind="Reshard",
        sentence=clean(sentence, 1_000),
        tone=tone,
        facts=[
            ("Status", status.replace("_", " ")),
            ("Keys moved", f"{record.keys:,}"),
            ("Payloads", format_bytes(record.bytes)),
            ("Planned", local_time(plan.created)),
            ("Began", local_time(record.created)),
            ("Changed last", local_time(record.updated)),
            ("Runs", f"{record.runs:,}"),
            ("Conflicts", f"{record.conflicts:,}"),
        ],
        made=local_time(time.time()),
        version=__version__,
        counts=[
            Count("moved", len(moved), "slots that are where the plan wants them"),
            Count(
                "left",
                len(left),
                "slots that stay where they are, for the reasons below",
                "warning" if left else "",
            ),
            Count("remaining", remaining, f"slots for the next run; {len(opened):,} of them are open"),
        ],
        sum=f"{len(moved):,} + {len(left):,} + {remaining:,} = {count_of(plan.slots, 'slot')} planned.",
        charts=charts,
        no_charts="" if charts else _no_charts(len(moved)),
        maps=_maps(plan, moved),
        keys=[Table(f"Slots that were left ({len(left):,})", ("Slots", "Why"), reasons)] if reasons else [],
        tables=[
            nodes_table(plan),
            Table("Runs", ("No.", "Began", "Ended", "Status", "Host", "Why"), runs, (0,)),
        ],
        settings=plan_settings(plan),
    )


def _charts(journal: ReshardJournal, record: ReshardRecord) -> list[Chart]:
    """Return how fast keys and slots were moved, from what was written down with each slot."""
    ended = {run.number: run for run in journal.runs(record.name)}
    keys: list[SeriesRow] = []
    slots: list[SeriesRow] = []

    def add(at: float, run: int) -> None:
        of = (at, run, "reshard", "running")
        keys.append(SeriesRow(*of, sum_keys, sum_bytes, 0, 0, None, None))
        slots.append(SeriesRow(*of, sum_slots, 0, 0, 0, None, None))

    sum_slots = sum_keys = sum_bytes = 0
    for number, steps in groupby(journal.steps(record.name), key=lambda step: step.run):
        run = ended.get(number)
        if run is None:
            continue
        add(run.started, number)
        last = run.started
        for step in steps:
            sum_slots, sum_keys, sum_bytes = (
                sum_slots + step.slots,
                sum_keys + step.keys,
                sum_bytes + step.bytes,
            )
            # What was moved within a second is there at its end, which may lie behind that of the run.
            last = max(last, min(step.at + 1.0, run.ended or step.at + 1.0))
            add(last, number)
        if run.ended is not None and run.ended > last:
            add(run.ended, number)
    if not keys:
        return []
    axis = Axis(keys)
    found = [
        rate_chart("keys", "Keys moved per second", keys, axis, (), "keys"),
        rate_chart("bytes", "Payload bytes per second", keys, axis, (), "B"),
        slots_chart(slots, axis, record.plan.slots),
    ]
    return [chart for chart in found if chart is not None]


def _no_charts(moved: int) -> str:
    return "The journal does not say when the slots were moved." if moved else "Nothing moved yet."


def plan_page(plan: Plan) -> Page:
    """Return the page of a plan that nobody has carried out yet."""
    what = f"{count_of(plan.slots, 'slot')} of {plan.cluster} would move, with {count_of(plan.keys, 'key')}"
    return Page(
        title=f"Plan for {clean(plan.cluster, 120)}",
        kind="Plan of a reshard",
        sentence="The cluster is balanced: nothing is to be moved." if plan.balanced else f"{what}.",
        tone="good" if plan.balanced else "running",
        facts=[
            ("Slots to move", f"{plan.slots:,}"),
            ("Keys in them", f"{plan.keys:,}"),
            ("Memory", format_bytes(plan.bytes)),
            ("Made", local_time(plan.created)),
        ],
        made=local_time(time.time()),
        version=__version__,
        maps=_maps(plan, None),
        tables=[
            nodes_table(plan),
            *([Table("Remarks", ("Remark",), [(clean(r),) for r in plan.remarks])] if plan.remarks else []),
        ],
        settings=plan_settings(plan),
    )


def status_page(health: Health, jobs: Sequence[Mapping[str, Any]]) -> Page:
    """Return the page of a cluster as it is, with the reshards of it that are not done."""
    cluster, findings = health.cluster, health.findings
    keys: Counter[str] = Counter()
    for held in health.holders.values():
        keys.update(held)
    ranges = [
        (first, last, str(member)) for member in cluster.primaries for first, last in ranges_of(member.slots)
    ]
    shown = slot_map("Slots", sorted(ranges))
    nodes = [
        (str(m), f"{len(m.slots):,}", f"{keys[m.id]:,}", f"{len(cluster.replicas_of(m.id)):,}")
        for m in cluster.primaries
    ]
    sums = {slot: sum(held.values()) for slot, held in health.holders.items()}
    fullest = sorted(sums, key=lambda slot: -sums[slot])[:_FULLEST]
    unfinished = [(clean(j["job"], 120), j["status"], f"{j['moved']:,} of {j['slots']:,}") for j in jobs]
    wrong = [(clean(format_ranges(f.slots)), clean(f.what), clean(f.action)) for f in findings]
    found = count_of(len(findings), "thing")
    good = "Every slot has an owner, is closed, and has its keys at home."
    return Page(
        title="Slots of a cluster",
        kind="Status of a cluster",
        sentence=good if health.ok else f"{found} to put right: see below.",
        tone="good" if health.ok else "bad",
        facts=[("Primaries", f"{len(nodes):,}"), ("Keys", f"{sum(keys.values()):,}")],
        made=local_time(time.time()),
        version=__version__,
        maps=() if shown is None else (shown,),
        keys=[Table("What is wrong", ("Slots", "What is", "What repairs it"), wrong)] if wrong else [],
        tables=[
            Table("Nodes", ("Node", "Slots", "Keys", "Replicas"), nodes, (1, 2, 3)),
            *(
                [Table("Fullest slots", ("Slot", "Keys"), [(str(s), f"{sums[s]:,}") for s in fullest], (1,))]
                if fullest
                else []
            ),
            *([Table("Unfinished jobs", ("Job", "Status", "Slots moved"), unfinished)] if unfinished else []),
        ],
    )


def nodes_table(plan: Plan) -> Table:
    """Return what each node holds before the moves, and after them."""
    rows = [
        (
            clean(node.address, 80),
            *(f"{held.slots:,}" for held in (node.before, node.after)),
            *(f"{held.keys:,}" for held in (node.before, node.after)),
            *(format_bytes(held.bytes) for held in (node.before, node.after)),
        )
        for node in plan.nodes
    ]
    heads = ("Node", "Slots before", "after", "Keys before", "after", "Memory before", "after")
    return Table("Nodes, as planned", heads, rows, (1, 2, 3, 4, 5, 6))


def plan_settings(plan: Plan) -> list[tuple[str, str]]:
    """Return the policy that a plan was made by."""
    policy = plan.policy
    settings = [("cluster", plan.cluster), ("by", policy.by), ("threshold", f"{policy.threshold:.1%}")]
    settings += [("weight", f"{node}: {weight:g}") for node, weight in policy.weights.items()]
    settings += [("add", node) for node in policy.add] + [("drain", node) for node in policy.drain]
    settings.append(("samples", f"{policy.samples:,} keys a slot" if policy.samples else "every key"))
    if policy.max_moves is not None:
        settings.append(("max-moves", f"{policy.max_moves:,}"))
    return [(name, clean(value)) for name, value in settings]


def _maps(plan: Plan, moved: Collection[int] | None) -> tuple[SlotMap, ...]:
    """Return the map before, and the one now, or after all moves where nothing has been moved by anyone."""
    before = slot_map("Slots before", _ranges(plan, ()))
    title = "Slots after" if moved is None else "Slots now"
    after = slot_map(title, _ranges(plan, [m.slot for m in plan.moves()] if moved is None else moved))
    return tuple(shown for shown in (before, after) if shown is not None)


def _ranges(plan: Plan, moved: Collection[int]) -> Ranges:
    owner = {slot: node.address for node in plan.nodes for slot in slots_in(node.slots)}
    addresses = {node.id: node.address for node in plan.nodes} | {
        join.id: join.address for join in plan.joins
    }
    gone = set(moved)
    owner |= {m.slot: addresses.get(m.target, m.target) for m in plan.moves() if m.slot in gone}
    ranges: list[tuple[int, int, str]] = []
    for slot in sorted(owner):
        if ranges and ranges[-1][1] == slot - 1 and ranges[-1][2] == owner[slot]:
            ranges[-1] = (ranges[-1][0], slot, owner[slot])
        else:
            ranges.append((slot, slot, owner[slot]))
    return ranges


def _outcome(
    record: ReshardRecord, status: str, moved: int, left: int, remaining: int, live: dict[str, Any] | None
) -> tuple[str, Tone]:
    slots = count_of(record.plan.slots, "slot")
    what = f"Moving {slots} of {record.cluster}"
    if status == "running":
        state = "" if live is None else f": {live['state']}"
        return f"{what} goes on{state}; {moved:,} are moved.", "running"
    if status in ("completed", "balanced"):
        return f"{what} is complete: all are where the plan wants them.", "good"
    if status == "slots_left":
        return f"{what} is done, but {left:,} were left where they are.", "warning"
    shown = f"{moved:,} are moved, {left:,} were left, {remaining:,} remain; the same command again goes on"
    return (
        f"{what} ended early ({status.replace('_', ' ')}): {shown}.",
        "bad" if status == "failed" else "warning",
    )
