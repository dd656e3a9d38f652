"""Plans, reports and findings as short tables for a person.

Invariant: figures are the plan's or the report's own; an estimate is called one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from slotferry.report.columns import align
from slotferry.reshard.cluster.wire import format_ranges
from slotferry.reshard.plan.model import Holding, Plan, PlannedNode, count_ranges
from slotferry.text import differing_keys, format_bytes, format_duration

if TYPE_CHECKING:
    from slotferry.reshard.cluster.members import Cluster
    from slotferry.reshard.repair.health import Finding
    from slotferry.reshard.report import Report


def plan_table(plan: Plan) -> str:
    """Return what moves, before and after, and what it costs."""
    lines = []
    if plan.balanced:
        lines.append(f"balanced by {plan.policy.by}: nothing to move (threshold {plan.policy.threshold:.1%})")
    else:
        about = "about " if plan.estimated else ""
        lines.append(
            f"{plan.slots:,} slots to move, {plan.keys:,} keys, {about}{format_bytes(plan.bytes)}: "
            f"expected to take {format_duration(plan.expected_seconds)} or less"
        )
    ranges = count_ranges(plan)
    heads = ("NODE", "SHARE", "SLOTS", "", "KEYS", "", "BYTES", "", "OFF", "", "RANGES")
    rows = [_node_row(plan, node, ranges[node.id]) for node in plan.nodes]
    lines += align([heads, *rows], numbers=(1, 2, 4, 6, 8), indent="  ")
    if plan.transfers:
        lines.append("moves:")
        moves = [
            (plan.node(t.source).address, "→", plan.node(t.target).address, f"{len(t.slot_list):,} slots",
             f"{t.keys:,} keys", format_bytes(t.bytes), _cut(t.slots))
            for t in plan.transfers
        ]  # fmt: skip
        lines += align(moves, numbers=(3, 4, 5), indent="  ")
    lines += [f"joins: {j.address} is no member yet; 'apply' lets it join (CLUSTER MEET)" for j in plan.joins]
    lines += [f"note: {remark}" for remark in plan.remarks]
    return "\n".join(lines)


def _node_row(plan: Plan, node: PlannedNode, ranges: tuple[int, int]) -> tuple[str, ...]:
    def change(before: str, after: str) -> tuple[str, str]:
        return before, f"→ {after}"

    return (
        node.address,
        f"{node.share:.1%}",
        *change(f"{node.before.slots:,}", f"{node.after.slots:,}"),
        *change(f"{node.before.keys:,}", f"{node.after.keys:,}"),
        *change(format_bytes(node.before.bytes), format_bytes(node.after.bytes)),
        *change(_off(plan, node, node.before), _off(plan, node, node.after)),
        f"{ranges[0]} → {ranges[1]}",
    )


def _off(plan: Plan, node: PlannedNode, holding: Holding) -> str:
    """Return how far from its share a node is, in what the plan balances."""
    by = plan.policy.by
    whole = sum(float(getattr(other.before, by)) for other in plan.nodes)
    share = whole * node.share
    held = float(getattr(holding, by))
    if not share:
        return "-" if not held else "to drain"
    return f"{held / share - 1:+.1%}"


def _cut(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def report_table(report: Report) -> str:
    """Return how a run ended."""
    if report.status == "balanced":
        return "balanced: nothing to move"
    if report.status == "outside_window":
        return f"job {report.job}: {report.reason}"
    lines = [f"job {report.job}: {report.status.replace('_', ' ')}"]
    if report.reason:
        lines[0] += f": {report.reason}"
    rows = [("moved", f"{report.moved:,}", "slots")]
    stayed = len(report.left) - report.left_open
    rows += [("left", f"{stayed:,}", "slots, where they were")] if stayed else []
    rows += [("left", f"{report.left_open:,}", "slots, open between two nodes")] if report.left_open else []
    rows += [("remaining", f"{report.remaining:,}", "slots, for the next run")] if report.remaining else []
    lines += align(rows, numbers=(1,), indent="  ")
    if report.runs:
        lines.append(
            f"  {report.keys:,} keys, {format_bytes(report.bytes)} in run {report.runs}"
            f"{', resumed' if report.resumed else ''}: {format_duration(report.elapsed_seconds)}, "
            f"{report.keys_per_second:,.0f} keys/s{', by ' if report.method else ''}{report.method}"
        )
    lines += [f"  slots {_cut(slots)}: {why}" for why, slots in report.left_by_reason().items()]
    if report.conflicts:
        lines.append(f"  {differing_keys(report.conflicts)} between two nodes: see 'slotferry reshard fix'")
    if report.status == "work_left":
        lines.append("work is left: the same command again goes on")
    return "\n".join(lines)


def primary_lines(cluster: Cluster, holders: Mapping[int, Mapping[str, int]]) -> list[str]:
    """Return a line for each primary: its slots, its keys, its replicas."""
    keys: dict[str, int] = {}
    for held in holders.values():
        for node, count in held.items():
            keys[node] = keys.get(node, 0) + count
    heads = ("NODE", "SLOTS", "KEYS", "REPLICAS")
    rows = [
        (str(m), f"{len(m.slots):,}", f"{keys.get(m.id, 0):,}", f"{len(cluster.replicas_of(m.id))}")
        for m in cluster.primaries
    ]
    return align([heads, *rows], numbers=(1, 2, 3))


def finding_lines(findings: Sequence[Finding], *, with_action: bool = False) -> list[str]:
    """Return a line for each finding, or that there is none."""
    if not findings:
        return ["nothing is wrong: every slot has an owner, is closed, and has its keys at home"]
    lines = []
    for finding in findings:
        action = f"; would {finding.action}" if with_action and finding.action else ""
        lines.append(f"slots {_cut(format_ranges(finding.slots))}: {finding.what}{action}")
    return lines
