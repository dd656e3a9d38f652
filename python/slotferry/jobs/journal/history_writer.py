"""What happened to a job, over all its runs: failovers, lost nodes, decisions, ends.

Invariant: it is in the journal as it happens, so a `kill -9` takes no more than its last half second; what
happens again and again is one entry with a count, and a run has at most `_MOST_ENTRIES`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from slotferry.errors import JournalError
from slotferry.model.cutover import CutoverStep
from slotferry.model.events import EngineNews, Event, Notice, Resynced, RunStarted, TopologyChanged
from slotferry.model.history import HistoryEntry

_MOST_ENTRIES = 200
_WRITE_SECONDS = 0.5


class HistoryWriter:
    """Hears a run's events, keeps those that an operator will ask about, and hands them to `write`."""

    def __init__(self, write: Callable[[Sequence[HistoryEntry]], None]) -> None:
        self._write = write
        self._primaries: set[str] = set()
        self._unwritten: dict[tuple[str, str], HistoryEntry] = {}
        self._known: dict[tuple[str, str], str] = {}
        self._next = 0.0
        self.run = 0

    def hear(self, event: Event) -> None:
        """Take an event; write what is due."""
        if isinstance(event, RunStarted):
            self._primaries = set(event.target_primaries)
        elif isinstance(event, Notice):
            self._add("notice", event.message)
        elif isinstance(event, EngineNews):
            self._add(event.kind, event.message, event.node or event.kind)
        elif isinstance(event, Resynced):
            self._add("follow_resynced", event.message)
        elif isinstance(event, CutoverStep):
            if event.state == "failed" or event.step == "go":
                self._add("cutover", f"cut-over, {event.step}: {event.message}")
        elif isinstance(event, TopologyChanged):
            self._add("topology", self._describe(event))
        if self._unwritten and self.run and time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write what is not written yet. A journal that can't be written is tried again later."""
        self._next = time.monotonic() + _WRITE_SECONDS
        entries = [replace(entry, run=self.run) for entry in self._unwritten.values()]
        with contextlib.suppress(JournalError):
            self._write(entries)
            self._unwritten.clear()

    def _add(self, kind: str, message: str, node: str = "") -> None:
        # Of one node (or of the source, or of parked slots) only the first trouble of a kind is told in full.
        key = (kind, node or message)
        now = time.time()
        if key in self._unwritten:
            entry = self._unwritten[key]
            self._unwritten[key] = replace(entry, last=now, count=entry.count + 1)
        elif key in self._known or len(self._known) < _MOST_ENTRIES:
            first = self._known.setdefault(key, message)
            self._unwritten[key] = HistoryEntry(self.run, now, now, kind, first)

    def _describe(self, event: TopologyChanged) -> str:
        primaries = set(event.primaries)
        new, gone = sorted(primaries - self._primaries), sorted(self._primaries - primaries)
        self._primaries = primaries
        parts = [f"{', '.join(new)} took over slots"] if new else []
        parts += [f"{', '.join(gone)} has none any more"] if gone else []
        if event.missing_slots:
            parts.append(f"{event.missing_slots} slots had no primary")
        return f"the target's topology changed: {'; '.join(parts) or 'slots moved between its primaries'}"
