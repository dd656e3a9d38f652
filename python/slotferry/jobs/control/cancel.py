"""Asking a run to end, from any thread or a signal handler.

Invariant: asking takes no lock, so a signal handler may do it at any instant; the run looks by itself.
"""

from __future__ import annotations

from signal import SIGINT

from slotferry.errors import RESUME_HINT, MigrationInterrupted


class CancelRequest:
    """Whether the run is to end: `level` is 0 (go on), 1 (finish what is in hand) or 2 (at once)."""

    def __init__(self, *, saves: bool = True, within: CancelRequest | None = None) -> None:
        """Take whether the run saves what it has done, as all but a dry run do.

        The run is to end also where `within` is asked for, that of all the runs which this one is one of.
        """
        self._saves = saves
        self._within = within
        self._level = 0
        self._signal: int = SIGINT

    @property
    def level(self) -> int:
        """What is asked for now."""
        return self._level if self._within is None else max(self._level, self._within.level)

    @property
    def signal(self) -> int:
        """The signal that it was asked for with, or might have been."""
        return self._within.signal if self._within is not None and self._within.level else self._signal

    def ask(self, *, immediately: bool = False, signal: int = SIGINT) -> None:
        """Ask; a request is never taken back."""
        if self._level == 0:
            self._signal = signal
        self._level = max(self._level, 2 if immediately else 1)

    def check(self) -> None:
        """Raise `MigrationInterrupted` where the run is to end."""
        if self.level:
            raise self.error()

    def error(self) -> MigrationInterrupted:
        """Return what an interrupted run ends with."""
        if not self._saves:
            return MigrationInterrupted("interrupted; nothing was written", signal=self.signal)
        return MigrationInterrupted(
            "interrupted; what was done is saved", hint=RESUME_HINT, signal=self.signal
        )
