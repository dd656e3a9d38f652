"""How a cut-over is told in lines: its steps with their times, and what came of it.

Invariant: figures are the report's; what was not done is not told as if it were.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MARKS = {"begun": "..", "done": "ok", "failed": "!!"}


def describe_step(step: str, state: str, message: str, seconds: float) -> str:
    """Return the line of a step: how long after the beginning, which, how it stands."""
    return f"{seconds:8.3f} s  {step:<5}  {_MARKS[state]:<2}  {message}"


def describe_report(job: str, report: Mapping[str, Any]) -> str:
    """Return what came of a cut-over, of which `report` is the JSON object."""
    lines = []
    stopped = report["write_stop_ms"]
    if report["outcome"] == "cut_over":
        facts = [] if stopped is None else [f"writes were stopped for {stopped:,.0f} ms"]
        if report["checked"]:
            facts.append(f"{report['checked']:,} keys compared, no difference")
        lines.append(": ".join([f"job {job}: cut over", *([", ".join(facts)] if facts else [])]))
        if report["written_afterwards"]:
            lines.append(
                f"lost: {report['written_afterwards']:,} keys were written at the source afterwards; "
                "the target lacks these writes"
            )
    else:
        ready = "not ready, no write was stopped" if report["outcome"] == "not_ready" else "abandoned"
        lines.append(f"job {job}: {ready}: {report['reason']}")
        if stopped is not None:
            lines.append(f"writes were stopped for {stopped:,.0f} ms and flow again; following goes on")
    if report["warning"]:
        lines.append(f"warning: {report['warning']}")
    return "\n".join(lines)
