"""How a run that goes on is told in a table.

Invariant: it shows what the control socket says, and nothing that was worked out here.
"""

from __future__ import annotations

from typing import Any

from slotferry.jobs.control.controls import Rates
from slotferry.model.follow import FollowProgress
from slotferry.report.phrases import describe_following
from slotferry.text import format_duration


def live_rows(live: dict[str, Any]) -> list[tuple[str, str]]:
    """Return how a run is, for a table of two columns."""
    state = f"{live['state']}: {live['reason']}" if live["reason"] else str(live["state"])
    rate = live.get("keys_per_second")
    rows = [
        ("state", state),
        ("limits", str(Rates(live["max_keys_per_second"], live["max_bytes_per_second"]))),
    ]
    if rate is not None:
        rows.append(("rate", f"{rate:,.0f} keys/s, after {format_duration(live['elapsed_seconds'])}"))
    if (follow := live.get("follow")) is not None:
        rows.append(("follow", describe_following(FollowProgress(**follow))))
    return rows
