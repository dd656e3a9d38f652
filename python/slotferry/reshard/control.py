"""What a program steers a reshard with while that goes on in another thread.

Invariant: it may be asked at any instant, also before the run begins, and asking never waits for the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from signal import SIGINT

from slotferry.errors import UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.controls import Controls, Rates


class Control:
    """Given to `Plan.apply`: pauses that run, lets it go on, limits and ends it. From any thread."""

    def __init__(self) -> None:
        self.request = CancelRequest()
        """Whether the end was asked for."""
        self._lock = threading.Lock()
        self._controls: Controls | None = None
        self._asked: list[Callable[[Controls], None]] = []

    def pause(self) -> None:
        """Begin no further slot until `resume`; those in hand are finished. Returns at once."""
        self._ask(lambda controls: setattr(controls, "paused", True))

    def resume(self) -> None:
        """Go on after `pause`."""
        self._ask(lambda controls: setattr(controls, "paused", False))

    def set_rate(self, *, max_bytes_per_second: int | None) -> None:
        """Limit what is moved in a second from now on; None is no limit.

        Raises `UsageError` for a limit below 1.
        """
        Rates(max_bytes_per_second=max_bytes_per_second)  # the moment to complain
        self._ask(lambda controls: controls.change_rates({"max_bytes_per_second": max_bytes_per_second}))

    def cancel(self, *, immediately: bool = False, signal: int = SIGINT) -> None:
        """Ask the run to end: finish the slots in hand, or stop at once; the same plan again goes on.

        Returns at once; may be called from a signal handler too, whose `signal` then sets the exit code.
        """
        self.request.ask(immediately=immediately, signal=signal)

    def attach(self, controls: Controls) -> None:
        """Hand on what was and will be asked to a run's controls. Raises `UsageError` for a second run."""
        with self._lock:
            if self._controls is not None:
                raise UsageError("a Control steers one run", hint="make another one for the next run")
            self._controls = controls
            for change in self._asked:
                change(controls)

    def _ask(self, change: Callable[[Controls], None]) -> None:
        with self._lock:
            if self._controls is None:
                self._asked.append(change)
            else:
                change(self._controls)
