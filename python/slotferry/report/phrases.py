"""How events read, for the displays that share the words.

Invariant: no secrets, keys escaped; figures are the report's, and what was not done is not told as done.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from slotferry.model.cutover import CutoverStep
from slotferry.model.events import (
    EngineNews,
    Event,
    FileProgress,
    FollowProgress,
    PhaseStarted,
    Progress,
    Resynced,
    RunEnded,
    RunStarted,
    TopologyChanged,
)
from slotferry.text import count_of, format_bytes, format_duration

NEWS_SECONDS = 5.0
_MARKS = {"begun": "..", "done": "ok", "failed": "!!"}


def describe_start(event: RunStarted) -> str:
    """Return what is about to happen."""
    what = "looks at" if event.dry_run else "resumes" if event.resumed else "begins"
    scans = "1 parallel scan" if event.partitions == 1 else f"{event.partitions} parallel scans"
    server = f"{event.source_role} {event.source_node}, " if event.source_role else ""
    keys = f", {event.expected_keys:,} keys"
    server += f"{event.source_product}{keys}"
    if event.source.startswith("file:"):
        # How many keys a file has is known at its end.
        server, scans = f"RDB file of {event.source_product}".rstrip(), "read from its beginning"
    return (
        f"{event.job} {what}: {event.source} ({server}) to "
        f"primaries {', '.join(event.target_primaries)}; {scans}"
    )


def describe_state(event: Progress) -> str:
    """Return the state, with its reason where it has one."""
    return f"{event.state}: {event.reason}" if event.reason else event.state


def describe_following(follow: FollowProgress) -> str:
    """Return how the source is followed."""
    parts = [] if follow.writes_per_second is None else [f"{follow.writes_per_second:,.0f} writes/s"]
    parts.append(f"{follow.lag_seconds:.1f} s and {format_bytes(follow.lag_bytes)} behind")
    parts.append(count_of(follow.touched, "touched key"))
    if follow.busy_keys:
        parts.append(count_of(follow.busy_keys, "busy key"))
    if not follow.connected:
        parts.append("the stream is lost")
    if follow.in_doubt:
        parts.append("both sides have to be compared")
    return ", ".join(parts)


def describe_progress(event: Progress) -> str:
    """Return a line of figures."""
    if event.state == "following" and event.follow is not None:
        return f"following: {describe_following(event.follow)}"
    parts = [f"{event.done_keys:,} keys"]
    if event.expected_keys:
        share = shown_part(event) / event.expected_keys
        parts[0] = f"{event.done_keys:,} of about {event.expected_keys:,} keys ({share:.0%})"
    if event.keys_per_second is not None:
        parts.append(f"{event.keys_per_second:,.0f} keys/s")
    parts.append(format_bytes(event.bytes))
    if event.file is not None:
        parts.append(describe_file(event.file))
    parts += unsettled_parts(event)
    parts.append(describe_state(event))
    left = seconds_left(event)
    if left is not None:
        parts.append(f"about {format_duration(left)} left")
    return ", ".join(parts)


def describe_file(file: FileProgress) -> str:
    """Return how far an RDB file is read."""
    done = format_bytes(file.bytes)
    return f"{done} of the file" if file.of is None else f"{done} of the file's {format_bytes(file.of)}"


def unsettled_parts(event: Progress) -> list[str]:
    """Return how many keys did not end well so far."""
    failed = "different" if event.purpose == "verify" else "failed"
    outcomes = {"pending": event.keys.pending, failed: event.keys.failed}
    return [f"{count:,} {outcome}" for outcome, count in outcomes.items() if count]


def seconds_left(event: Progress) -> float | None:
    """Return the time that the rest will take at the present rate; None where that can't be said.

    Where all that is left is in hand, it can't: it waits, or is large.
    """
    if not event.expected_keys or not event.keys_per_second:
        return None
    left = max(0, event.expected_keys - event.done_keys)
    in_hand = event.keys.scanned - event.done_keys
    return None if 0 < left <= in_hand else left / event.keys_per_second


def shown_part(event: Progress) -> int:
    """Return how many of the expected keys are shown as done: short of all, never what rounds to 100 %."""
    expected = event.expected_keys or 0
    return expected if event.done_keys >= expected else min(event.done_keys, expected * 994 // 1000)


class News:
    """Chooses what of the news is told: of one kind a line every few seconds, with a count of the others."""

    def __init__(self) -> None:
        self._next: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def lines(self, event: Event) -> list[str]:
        """Return the lines to print now that `event` is there, whatever it is."""
        now = time.monotonic()
        lines = []
        if isinstance(event, EngineNews):
            if now >= self._next.get(event.kind, 0.0):
                self._next[event.kind] = now + NEWS_SECONDS
                lines.append(event.message)
            else:
                self._untold[event.kind] = self._untold.get(event.kind, 0) + 1
        for kind, count in list(self._untold.items()):
            if now >= self._next[kind] or isinstance(event, RunEnded):
                self._next[kind] = now + NEWS_SECONDS
                del self._untold[kind]
                lines.append(f"{count:,} more of the kind {kind.replace('_', ' ')}")
        if line := _describe_other(event):
            lines.append(line)
        return lines


def _describe_other(event: Event) -> str | None:
    if isinstance(event, TopologyChanged):
        missing = f", {event.missing_slots} slots without a primary" if event.missing_slots else ""
        return f"the target's topology changed: {len(event.primaries)} primaries{missing}"
    if isinstance(event, (PhaseStarted, Resynced)):
        return event.message
    if isinstance(event, CutoverStep):
        return f"cut-over: {describe_step(event.step, event.state, event.message, event.seconds)}"
    if isinstance(event, RunEnded) and event.report.error is None:
        return (
            f"{event.report.status.replace('_', ' ')} after {format_duration(event.report.elapsed_seconds)}"
        )
    return None


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
