"""A cut-over that is done stays done, whatever becomes of what is written down of it."""

from __future__ import annotations

from typing import cast

from slotferry.errors import JournalError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.migrate.cutover.attempts import Attempt
from slotferry.migrate.cutover.machine import Cutover
from slotferry.model.cutover import CutoverOptions, CutoverReport


class _Done:
    """A cut-over that ends well."""

    def perform(self) -> CutoverReport:
        return CutoverReport("cut_over", "", "go", 5, 12.0, 3, 0, 1)


class _Full:
    """Records on a full disk."""

    def keep(self, report: CutoverReport) -> None:
        raise JournalError("the journal can't be written: no space is left")


def test_a_report_that_cannot_be_kept_is_no_failure_of_the_cut_over() -> None:
    attempt = Attempt(1, CutoverOptions(), CancelRequest())
    attempt.perform(cast(Cutover, _Done()), cast(CutoverRecords, _Full()))
    report = attempt.result()
    assert report.is_done
    assert "no space is left" in report.warning
