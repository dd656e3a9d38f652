"""Events as JSON lines on stdout.

Invariant: one JSON object a line, each with a `type`, flushed at once; the last one is the summary.
"""

from __future__ import annotations

import time
from typing import TextIO

from slotferry.model.notices import Event
from slotferry.redaction import json_text
from slotferry.report.base import Display

_FREQUENT = ("progress", "checkpoint")
_FREQUENT_SECONDS = 1.0


class JsonLines(Display):
    """Writes every event; of progress and of checkpoints one a second each, and another state at once."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._next: dict[str, float] = {}
        self._state = ""

    def show(self, event: Event) -> None:
        """Write the event as a line."""
        if event.type in _FREQUENT:
            now = time.monotonic()
            state = getattr(event, "state", self._state)  # checkpoints have none
            if state == self._state and now < self._next.get(event.type, 0.0):
                return
            self._state = state
            self._next[event.type] = now + _FREQUENT_SECONDS
        self.say(json_text(event.to_dict()))
