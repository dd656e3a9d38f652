"""Events as records of the logger `slotferry`, with their fields.

Invariant: a program that set nothing up hears nothing; what is logged has passed the redaction that every
event passes. Progress is one record in half a minute (level INFO), or one a second (level DEBUG).
"""

from __future__ import annotations

import logging
import time
from typing import Any

from slotferry.model.notices import Event

NAME = "slotferry"
_PROGRESS_SECONDS, _DEBUG_SECONDS = 30.0, 1.0
_logger = logging.getLogger(NAME)
_logger.addHandler(logging.NullHandler())  # else Python prints warnings where nothing is set up


class EventLog:
    """Logs a run's events; each record has the event's fields as its attribute `slotferry`."""

    def __init__(self) -> None:
        self._next: dict[int, float] = {}
        self._state = ""

    def handle(self, event: Event) -> None:
        """Log the event, if it is one to log."""
        level = _level(event)
        if event.type in ("progress", "checkpoint"):
            level = self._level_now(event)
        if level and _logger.isEnabledFor(level):
            _logger.log(level, "%s", _text(event), extra={NAME: event.to_dict()})

    def _level_now(self, event: Event) -> int:
        """Return the level of what comes often, 0 where it is not logged now."""
        if event.type == "checkpoint":
            return logging.DEBUG
        now, state = time.monotonic(), str(getattr(event, "state", ""))
        if state != self._state or now >= self._next.get(logging.INFO, 0.0):
            self._state = state
            self._next = {logging.INFO: now + _PROGRESS_SECONDS, logging.DEBUG: now + _DEBUG_SECONDS}
            return logging.INFO
        if now >= self._next[logging.DEBUG]:
            self._next[logging.DEBUG] = now + _DEBUG_SECONDS
            return logging.DEBUG
        return 0


def _level(event: Event) -> int:
    kind, report = str(getattr(event, "kind", "")), getattr(event, "report", None)
    if report is not None:
        return logging.ERROR if report.error is not None else logging.INFO if report.ok else logging.WARNING
    bad = kind.endswith(("_lost", "_parked")) or event.type in ("slots_left", "resynced")
    failed = event.type == "cutover_step" and getattr(event, "state", "") == "failed"
    return logging.WARNING if bad or failed else logging.INFO


def _text(event: Event) -> str:
    """Return the event in a few words; its figures are among its fields."""
    told: dict[str, Any] = event.__dict__
    if event.type == "progress":
        done = told.get("done_keys", told.get("keys_moved", 0))
        return f"{told['state']}{': ' if told['reason'] else ''}{told['reason']}, {done:,} keys"
    if event.type == "checkpoint":
        return f"checkpoint, {told['keys'].done:,} keys are recorded"
    if event.type == "run_started":
        return f"{told['job']}: run {told['run']} {'resumes' if told['resumed'] else 'begins'}"
    if event.type == "topology":
        return f"the target's topology changed, {len(told['primaries'])} primaries"
    if event.type == "cutover_step":
        return f"cut-over, {told['step']} {told['state']}: {told['message']}"
    if event.type == "slots_left":
        return f"slots {told['slots']} stay where they are: {told['reason']}"
    if (report := told.get("report")) is not None:
        why = "" if report.error is None else f": {report.error.message}"
        return f"{report.job}: {report.status.replace('_', ' ')}{why}"
    return str(told.get("message", event.type.replace("_", " ")))
