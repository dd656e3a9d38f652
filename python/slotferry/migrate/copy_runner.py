"""Copies a job, and is done only when nothing is in doubt any more.

Invariant: `run` returns after a look at every primary that found nothing to look into, or with keys pending.
"""

from __future__ import annotations

from collections.abc import Callable

from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.job_group import EngineJob
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.runner import Runner
from slotferry.migrate.account.accounting import Accounting
from slotferry.migrate.account.book import OpenDoubts
from slotferry.migrate.snapshot import read_as_snapshot

_MOST_LOOKS = 4  # the last of them only asks whether there is still something in doubt


class CopyRunner(Runner):
    """Does everything that is left of the job `name`, and accounts for it."""

    def __init__(
        self,
        journal: Journal,
        name: str,
        driver: EngineDriver,
        accounting: Accounting,
        load_functions: Callable[[], None],
    ) -> None:
        """Take the job, its accounts, and what loads functions wherever they are missing."""
        super().__init__(journal, name, driver)
        self._accounting = accounting
        self._load_functions = load_functions

    def _do(self, work: Work) -> None:
        work, starts_over = read_as_snapshot(self._journal, self._name, self._driver, work)
        self.started_over |= starts_over
        super()._do(work)

    def _tick(self, job: EngineJob, recorder: Recorder) -> None:
        self._accounting.tick()
        super()._tick(job, recorder)

    def _account(self) -> None:
        """Look again at what may have been lost, and send it again, until nothing is in doubt any more.

        Raises `TargetLostError` where the target goes on losing keys, or can't be asked. Keys stay pending
        where sending them again is of no use.
        """
        accounting = self._accounting
        for number in range(1, _MOST_LOOKS + 1):
            wait = not self._journal.totals(self._name).keys.pending
            looked_at = accounting.examine(wait=wait)
            if not looked_at.doubts:
                break
            if number == _MOST_LOOKS:
                accounting.give_up(looked_at)
                break
            missing = self._look(looked_at)
            if any(doubt.may_be_stale for doubt in looked_at.doubts):
                self._load_functions()  # which a node loses together with its keys
            accounting.close(looked_at, missing)
            if missing and not accounting.helps_to_send(looked_at, number):
                break
            # Slots of the source that moved while keys in doubt were looked for are read again as well.
            self._do_all(self._late_works)

    def _look(self, doubts: OpenDoubts) -> int:
        """Look for the keys in doubt at the target; what is missing becomes pending. Return how many are."""
        accounting, missing = self._accounting, 0
        for database, route in self._routes():
            count = sum(mark.database == database for mark in self._journal.marks(self._name))
            for work in accounting.works(doubts, database, route):
                job = self._driver.new_work(work, max(count, 1))

                def tick(job: EngineJob = job, database: int = database) -> None:
                    nonlocal missing
                    accounting.tick()
                    missing += accounting.take(job, database)
                    totals = self._journal.totals(self._name)
                    self._progress.report(job.snapshot(), totals, totals.keys.scanned)

                self._driver.drive(job, tick)
                missing += accounting.take(job, database)
        return missing
