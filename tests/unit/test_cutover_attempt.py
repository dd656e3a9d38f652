"""A cut-over that is done stays done, whatever becomes of what is written down of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from slotferry.cli.common.cutover_client import CutoverClient
from slotferry.errors import JournalError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.migrate.cutover.attempts import Attempt
from slotferry.migrate.cutover.machine import Cutover
from slotferry.model.cutover import CutoverOptions, CutoverReport, CutoverStep


class _Done:
    """A cut-over that ends well."""

    def perform(self) -> CutoverReport:
        return CutoverReport("cut_over", "", "go", 5, 12.0, 3, 0, 1)


class _Full:
    """Records on a full disk."""

    def keep(self, report: CutoverReport, steps: Sequence[CutoverStep]) -> None:
        raise JournalError("the journal can't be written: no space is left")


def test_a_report_that_cannot_be_kept_is_no_failure_of_the_cut_over() -> None:
    attempt = Attempt(1, CutoverOptions(), CancelRequest())
    attempt.perform(cast(Cutover, _Done()), cast(CutoverRecords, _Full()))
    report = attempt.result()
    assert report.is_done
    assert "no space is left" in report.warning


def test_steps_that_nobody_heard_before_the_run_was_gone_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = CutoverRecords(tmp_path / "journal.db", "shop")
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create(
            "shop", Setup("redis://old:1/0", "redis+cluster://new:1/0", None, None, "replace"), 1, ""
        )
    number = records.begin()
    report = CutoverReport("cut_over", "", "go", 5, 12.0, 3, 0, number)
    lost = "lost: 1 key was written at the source after the fence: basket"
    steps = [CutoverStep("go", "done", "writes were stopped", 1.0), CutoverStep("hold", "done", lost, 2.0)]
    records.keep(report, steps)
    records.end(number, "cut_over", "")

    client = CutoverClient(tmp_path / "journal.db", "shop", as_json=False)
    assert client._recorded(seen=1) == records.report(number) == report.to_dict()
    (line,) = capsys.readouterr().err.splitlines()
    assert "hold   ok  lost: 1 key was" in line
