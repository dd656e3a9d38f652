"""What may be changed about a run while it goes on: its pause, its rates, its end.

Invariant: asking only sets a value; the run looks by itself and hands what has changed on to what does the
work (an engine job, the scheduler of a reshard), so anything may be asked at any instant, from any thread,
also before that runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

from slotferry.errors import OptionError, UsageError
from slotferry.jobs.control.cancel import CancelRequest


@dataclass(frozen=True)
class Rates:
    """What is read from the source (of a reshard: moved) in a second at the most; None is no limit.

    Raises `UsageError` for a limit below 1.
    """

    max_keys_per_second: int | None = None
    max_bytes_per_second: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_keys_per_second", "max_bytes_per_second"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(
                    "{" + name + "} is {value}", hint="give it 1 or more, or none for no limit", value=value
                )

    def __str__(self) -> str:
        limits = [
            f"{value:,} {unit}/s"
            for value, unit in ((self.max_keys_per_second, "keys"), (self.max_bytes_per_second, "bytes"))
            if value is not None
        ]
        return " and ".join(limits) or "no limit"


class Controls:
    """What was asked of one run."""

    def __init__(self, cancel: CancelRequest, rates: Rates, *, counts_keys: bool = True) -> None:
        """Take what asks for the end, the first rates, and whether the run can keep one of keys."""
        self.cancel = cancel
        self.paused = False
        self.rates = rates
        self.held = False
        """Whether a cut-over lets nothing be written, whatever the operator has paused or resumed."""
        self.handing_on = threading.Lock()
        """Held while what was asked is handed on, so that no older wish is handed on after a newer one."""
        self._counts_keys = counts_keys

    def hold(self, job: Steered) -> None:
        """Pause `job`, and whatever is begun meanwhile, until `release`. An operator's pause is another."""
        with self.handing_on:
            self.held = True
            job.pause()

    def release(self, job: Steered | None) -> None:
        """Let the run go on where the operator has not paused it; `job` is what was held, if it is there."""
        with self.handing_on:
            self.held = False
            if job is not None and not self.paused:
                job.resume()

    def change_rates(self, limits: Mapping[str, int | None]) -> None:
        """Change the limits that are named. Raises `UsageError` for what makes no sense, and changes none."""
        rates = Rates(**{**asdict(self.rates), **limits})
        if rates.max_keys_per_second is not None and not self._counts_keys:
            raise UsageError(
                "a reshard can't be limited by keys, since servers that move slots by themselves count none",
                hint="give it --max-bytes-per-second",
            )
        self.rates = rates


class Steered(Protocol):
    """What pauses, goes on and is limited as it was asked: `_core.Job`, and the scheduler of a reshard."""

    def pause(self) -> None:
        """Begin nothing more."""

    def resume(self) -> None:
        """Go on."""

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        """Limit what is done in a second."""


class Steering:
    """Hands what was asked on to what does a run's work, each of which begins with the run's first rates."""

    def __init__(self, controls: Controls) -> None:
        self._controls = controls
        self._first = self._rates = controls.rates
        self._paused = self._stands = False

    def begin(self, job: Steered) -> None:
        """Let a job that has just been started be as the one before it was."""
        if self._stands or self._controls.held:
            self._stands = True
            job.pause()
        if self._rates != self._first:
            self._set_rate(job)

    def steer(self, job: Steered) -> list[str]:
        """Hand on what has changed since the last call; return a sentence about each change."""
        changes = []
        if (paused := self._controls.paused) != self._paused:
            self._paused = paused
            changes.append("paused by the operator" if paused else "resumed by the operator")
        with self._controls.handing_on:
            if (stands := paused or self._controls.held) != self._stands:
                self._stands = stands
                if stands:
                    job.pause()
                else:
                    job.resume()
        if (rates := self._controls.rates) != self._rates:
            self._rates = rates
            self._set_rate(job)
            changes.append(f"the operator's rate is {rates} now")
        return changes

    def _set_rate(self, job: Steered) -> None:
        job.set_rate(
            max_keys_per_second=self._rates.max_keys_per_second,
            max_bytes_per_second=self._rates.max_bytes_per_second,
        )
