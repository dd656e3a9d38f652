"""Compares both sides, in both directions, while the source is followed.

Invariant: every key that differs, or that one side alone has, is handed to the follower, which reads it
again; so a key that was only in motion is copied once more and nothing worse. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from slotferry.errors import TargetLostError
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.migrate.following.beside import comparison_settings, sweeps_of
from slotferry.topology.discovery import discover_target
from slotferry.topology.identity import Slots

if TYPE_CHECKING:
    from slotferry._core import Job

_MAX_NAMES = 32 << 20  # bytes of names that are kept until the end
_MAX_TARGET_CHANGES = 5


class Comparison:
    """Both directions, driven by `driver`, which is nobody else's; `followed` copies what differs."""

    def __init__(
        self, driver: EngineDriver, followed: Job, *, slots: Slots | None, settles: bool, touches: bool
    ) -> None:
        """Compare the target's `slots`, None: all.

        With `settles` it is one that `Job.begin_comparison` began; with `touches`, what differs is copied
        although the engine itself has no doubt about it.
        """
        self._driver = driver
        self._followed = followed
        self._settles = settles
        self._touches = touches
        self._settings = comparison_settings(driver, slots)
        self._differing: list[bytes] = []
        self._size = 0
        self._overflowed = False
        self.found = 0

    def run(self, partitions: int) -> None:
        """Compare until all that differs is handed over. Raises `SlotferryError`."""
        while True:
            self._overflowed = False
            self._look(Work(partitions=[(i, i) for i in range(partitions)]), partitions)
            self._look_back()
            if not self._overflowed:
                break
            # The engine's doubt has to stand until a pass finds so little that it is kept whole.
            self._hand_over()
        if self._settles:
            self._followed.end_comparison(self._differing)
        if self._touches:
            self._followed.touch(self._differing)

    def _look_back(self) -> None:
        """Look for the target's keys at the source, until the target stays the same meanwhile."""
        sides = self._driver.sides
        for _ in range(_MAX_TARGET_CHANGES):
            facts = discover_target(sides.target, sides.source_facts.server)
            try:
                self._look(Work(settings={"sweeps": sweeps_of(facts)}), 1)
            except TargetLostError as error:
                if error.kind != "target_changed":
                    raise
                continue
            after = discover_target(sides.target, sides.source_facts.server)
            if facts.fingerprint == after.fingerprint:
                return
        raise TargetLostError(
            "the target's nodes or slots change all the time, so both sides can't be compared",
            hint="run the same command again once it is at rest",
        )

    def _look(self, work: Work, partitions: int) -> None:
        work = replace(work, settings={**self._settings, **work.settings})
        job = self._driver.new_job(work, partitions)
        self._driver.drive(job, lambda: self._take(job))
        self._take(job)

    def _take(self, job: Job) -> None:
        checkpoint = job.checkpoint()
        self._add([found.key for found in checkpoint.failures])
        self._add([pending.key for pending in checkpoint.pending])

    def _add(self, keys: Sequence[bytes]) -> None:
        self._differing += keys
        self.found += len(keys)
        self._size += sum(map(len, keys))
        if self._size > _MAX_NAMES:
            self._overflowed = True
            self._hand_over()

    def _hand_over(self) -> None:
        self._followed.touch(self._differing)
        self._differing, self._size = [], 0
