"""What may be changed about a run while it goes on: its pause, its rates, its end.

Invariant: asking only sets a value; the run looks by itself and hands on to the engine what has changed, so
anything may be asked at any instant, from any thread, also before the engine runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotferry.cancel import CancelRequest
from slotferry.errors import UsageError

if TYPE_CHECKING:
    from slotferry._core import Job


@dataclass(frozen=True)
class Rates:
    """What is read from the source in a second at the most; None is no limit.

    Raises `UsageError` for a limit below 1.
    """

    max_keys_per_second: int | None = None
    max_bytes_per_second: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_keys_per_second", "max_bytes_per_second"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}", hint="give it 1 or more, or none for no limit")

    def __str__(self) -> str:
        limits = [
            f"{value:,} {unit}/s"
            for value, unit in ((self.max_keys_per_second, "keys"), (self.max_bytes_per_second, "bytes"))
            if value is not None
        ]
        return " and ".join(limits) or "no limit"


class Controls:
    """What was asked of one run."""

    def __init__(self, cancel: CancelRequest, rates: Rates) -> None:
        """Take what asks for the end, and the rates that the run begins with."""
        self.cancel = cancel
        self.paused = False
        self.rates = rates


class Steering:
    """Hands what was asked on to a run's engine jobs, each of which begins with the run's first rates."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._first = self._rates = controls.rates
        self._paused = False

    def begin(self, job: Job) -> None:
        """Let a job that has just been started be as the one before it was."""
        if self._paused:
            job.pause()
        if self._rates != self._first:
            self._set_rate(job)

    def steer(self, job: Job) -> list[str]:
        """Hand on what has changed since the last call; return a sentence about each change."""
        changes = []
        if (paused := self._controls.paused) != self._paused:
            self._paused = paused
            if paused:
                job.pause()
            else:
                job.resume()
            changes.append("paused by the operator" if paused else "resumed by the operator")
        if (rates := self._controls.rates) != self._rates:
            self._rates = rates
            self._set_rate(job)
            changes.append(f"the operator's rate is {rates} now")
        return changes

    def _set_rate(self, job: Job) -> None:
        job.set_rate(
            max_keys_per_second=self._rates.max_keys_per_second,
            max_bytes_per_second=self._rates.max_bytes_per_second,
        )
