"""Engine jobs that read the primaries of a source side by side, driven as one.

Invariant: they share one budget and one rate, whatever their number: their parts add up to no more. One that
fails lets the others finish what is under way, and what ended it is what the group ends with.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from slotferry._core import Checkpoint, EngineError, ErrorKind, Snapshot

if TYPE_CHECKING:
    from slotferry._core import Access, Event, Job

_LOOK_SECONDS = 0.02
EngineJob: TypeAlias = "Job | JobGroup"
"""What does a `Work`: one engine job, or several."""


@dataclass(frozen=True)
class Rates:
    """What may be read in a second, over all jobs of a group."""

    keys: int | None
    bytes: int | None

    def share(self, count: int) -> dict[str, int | None]:
        """Return the part of one of `count` jobs, as the engine takes it."""
        return {
            "max_keys_per_second": _share(self.keys, count),
            "max_bytes_per_second": _share(self.bytes, count),
        }


def _share(limit: int | None, count: int) -> int | None:
    return None if limit is None else max(1, limit // max(1, count))


class JobGroup:
    """Several engine jobs, with the number from which on each counts its partitions; at least one."""

    def __init__(self, jobs: Sequence[tuple[Job, int]], rates: Rates) -> None:
        """Take jobs that were made with their parts of the `rates`."""
        self._jobs = list(jobs)
        self._rates = rates
        self._running = len(self._jobs)
        self._error: EngineError | None = None
        self._seen: set[int] = set()

    def start(self) -> None:
        """Start all of them."""
        for job, _ in self._jobs:
            job.start()

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for the end of all; return whether that has come."""
        until = time.monotonic() + timeout
        while True:
            waiting = self._unfinished()
            if not waiting:
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            waiting[0].wait(min(left, _LOOK_SECONDS if len(waiting) > 1 else left))

    def _unfinished(self) -> list[Job]:
        """Return the jobs that go on, and look at those that have ended since the last call."""
        waiting = []
        for number, (job, _) in enumerate(self._jobs):
            if number in self._seen:
                continue
            if not job.wait(0.0):
                waiting.append(job)
                continue
            self._seen.add(number)
            self._take_result(job)
        if len(waiting) != self._running:
            self._running = len(waiting)
            self._share_rates()
        return waiting

    def _take_result(self, job: Job) -> None:
        try:
            job.result()
        except EngineError as error:
            first = self._error is None
            if first or (self._error is not None and self._error.args[0] == ErrorKind.INTERRUPTED):
                self._error = error
            if first and error.args[0] != ErrorKind.INTERRUPTED:
                self.cancel()

    def _share_rates(self) -> None:
        """Give what a job that has ended leaves to the others."""
        if self._running and (self._rates.keys is not None or self._rates.bytes is not None):
            self._hand_on()

    def _hand_on(self) -> None:
        share = self._rates.share(self._running)
        for number, (job, _) in enumerate(self._jobs):
            if number not in self._seen:
                job.set_rate(
                    max_keys_per_second=share["max_keys_per_second"],
                    max_bytes_per_second=share["max_bytes_per_second"],
                )

    def snapshot(self) -> Snapshot:
        """Return what all of them are at this instant."""
        return Snapshot.merged([job.snapshot() for job, _ in self._jobs])

    def drain_events(self) -> list[Event]:
        """Return the events of all since the last call."""
        return [event for job, _ in self._jobs for event in job.drain_events()]

    def checkpoint(self) -> Checkpoint:
        """Return what may be recorded of all of them."""
        return Checkpoint.merged([(job.checkpoint(), first) for job, first in self._jobs])

    def set_topology(self, topology: Sequence[tuple[int, int, str, int]], nodes: Sequence[str], /) -> None:
        """Replace the target's topology."""
        for job, _ in self._jobs:
            job.set_topology(topology, nodes)

    def set_access(self, side: str, access: Access, /) -> None:
        """Open connections of one side with `access` from now on."""
        for job, _ in self._jobs:
            job.set_access("source" if side == "source" else "target", access)

    def pause(self) -> None:
        """Read nothing more for now."""
        for job, _ in self._jobs:
            job.pause()

    def resume(self) -> None:
        """Go on."""
        for job, _ in self._jobs:
            job.resume()

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        """Limit what all of them read in a second."""
        self._rates = Rates(max_keys_per_second, max_bytes_per_second)
        self._hand_on()

    def cancel(self, *, immediately: bool = False) -> None:
        """End all of them."""
        for job, _ in self._jobs:
            job.cancel(immediately=immediately)

    def result(self) -> None:
        """Return where all have ended well; raises the `EngineError` of the first that has not."""
        self._unfinished()
        if self._error is not None:
            raise self._error
