"""Keeps what the engine opens its connections with up to date while a job runs.

Invariant: whoever is asked for a secret is asked in a thread of its own, and holds nothing up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from slotferry.errors import SlotferryError

if TYPE_CHECKING:
    from slotferry._core import Access
    from slotferry.net.connector import Connector
from slotferry.net.credentials import JobSide, stamp_files


class AccessKeeper:
    """Keeps what the engine opens its connections with up to date, for the connectors of a run.

    The caller polls: `want()` when a login was refused or a connection is to be opened anew, then `poll()`,
    which also notices files that changed. Asking happens in a thread: whoever is asked may take a while.
    """

    def __init__(self, connectors: Mapping[JobSide, Connector]) -> None:
        self._connectors = connectors
        self._stamps = {side: stamp_files(connector.files) for side, connector in connectors.items()}
        # Whoever opens a connection may renew a login: what the engine was given last is kept in mind here.
        self._given = {side: connector.generation for side, connector in connectors.items()}
        self._wanted: set[JobSide] = set()
        self._thread: threading.Thread | None = None
        self._renewed: list[tuple[JobSide, Access]] = []

    def want(self, side: JobSide) -> None:
        """Ask for the credentials of that side anew."""
        self._wanted.add(side)

    def poll(self) -> list[tuple[JobSide, Access]]:
        """Return each side that has something new since the last call, with it."""
        if self._thread is not None and self._thread.is_alive():
            return []
        renewed, self._renewed, self._thread = self._renewed, [], None
        self._look_at_files()
        if self._wanted:
            wanted, self._wanted = sorted(self._wanted), set()
            # A daemon: whoever is asked must not hold up the end of the process.
            self._thread = threading.Thread(
                target=self._renew, args=(wanted,), name="slotferry-access", daemon=True
            )
            self._thread.start()
        return renewed

    def _look_at_files(self) -> None:
        for side, connector in self._connectors.items():
            stamp = stamp_files(connector.files)
            if stamp != self._stamps[side]:
                self._stamps[side] = stamp
                self._wanted.add(side)

    def _renew(self, sides: Sequence[JobSide]) -> None:
        for side in sides:
            connector = self._connectors[side]
            # A file may be half written, or nobody answer: what was there before holds.
            with contextlib.suppress(SlotferryError):
                connector.renew()
                if connector.generation != self._given[side]:
                    self._renewed.append((side, connector.access()))
                    self._given[side] = connector.generation
