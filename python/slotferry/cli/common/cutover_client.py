"""Follows a cut-over that another process does: its steps as they come, Ctrl-C, and what came of it.

Invariant: the result is the run's own word, or where the run is gone the journal's; where neither says that
the job is cut over, it is not.
"""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.ending import signals
from slotferry.errors import (
    ExitCode,
    JobNotRunningError,
    JournalError,
    MigrationInterrupted,
    RefusedError,
    SlotferryError,
    UsageError,
)
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.control_socket import ask
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.jobs.lock import is_running
from slotferry.redaction import json_text
from slotferry.report.phrases import describe_report, describe_step

if TYPE_CHECKING:
    from slotferry.model.cutover import CutoverOptions

_LOOK_SECONDS = 0.1
_NOT_DONE = {
    "write_stop_ms": None,
    "checked": 0,
    "differences": 0,
    "written_afterwards": 0,
    "warning": None,
    "may_be_switched": False,
}


class CutoverClient:
    """One cut-over, seen from another terminal."""

    def __init__(self, journal: Path, job: str, as_json: bool) -> None:
        self._journal = journal
        self._job = job
        self._as_json = as_json
        self._records = CutoverRecords(journal, job)
        self._number = 0
        self._earlier = 0

    def cut_over(self, options: CutoverOptions) -> int:
        """Ask for it and follow it to its end; return the exit code. Raises `SlotferryError`."""
        cancel = CancelRequest(saves=False)
        with signals(cancel):
            self._earlier = self._latest()
            ticket = self._begin(options)
            report = self._follow(ticket, cancel)
        if self._as_json:
            click.echo(json_text({"type": "cutover", "job": self._job, **report}))
        else:
            click.echo(describe_report(self._job, report))
        return ExitCode.OK if report["outcome"] == "cut_over" else ExitCode.INCOMPLETE

    def _latest(self) -> int:
        """Return the number of the last attempt before this one; 0 where there is none."""
        try:
            return max((attempt.number for attempt in self._records.attempts()), default=0)
        except JournalError:
            return 0  # what is the matter with the journal says the request

    def _begin(self, options: CutoverOptions) -> int:
        try:
            answer = ask(self._journal, self._job, "cutover", action="begin", options=asdict(options))
        except JobNotRunningError:
            if any(attempt.outcome == "cut_over" for attempt in self._records.attempts()):
                raise RefusedError(
                    f"the job {self._job} is cut over already",
                    hint=f"see 'slotferry jobs show {self._job}'",
                ) from None
            raise
        return int(answer["ticket"])

    def _follow(self, ticket: int, cancel: CancelRequest) -> dict[str, Any]:
        seen, asked, pause = 0, False, threading.Event()
        while True:
            if cancel.level > 1:
                raise MigrationInterrupted(
                    "interrupted; the run may go on with the cut-over",
                    hint=f"see 'slotferry jobs show {self._job}'",
                    signal=cancel.signal,
                )
            try:
                if cancel.level and not asked:
                    self._abandon(ticket)
                    asked = True
                answer = ask(self._journal, self._job, "cutover", action="look", ticket=ticket, after=seen)
            except (JobNotRunningError, UsageError):
                return self._recorded(seen)
            except JournalError:
                if not is_running(self._journal, self._job):
                    return self._recorded(seen)
                pause.wait(_LOOK_SECONDS)
                continue
            seen += len(answer["steps"])
            self._number = answer["attempt"]
            for step in answer["steps"]:
                self._show(step)
            if (error := answer["error"]) is not None:
                raise _as_told(error)
            if (report := answer["report"]) is not None:
                return dict(report)
            pause.wait(_LOOK_SECONDS)

    def _abandon(self, ticket: int) -> None:
        answer = ask(self._journal, self._job, "cutover", action="abandon", ticket=ticket)
        if answer["abandoned"]:
            click.echo("slotferry: asked to abandon the cut-over", err=True)
        else:
            click.echo(
                "slotferry: the cut-over is done and can't be abandoned any more; the run ends after its "
                "hold, and Ctrl-C once more ends this command alone",
                err=True,
            )

    def _show(self, step: dict[str, Any]) -> None:
        if self._as_json:
            click.echo(json_text(step))
        else:
            click.echo(describe_step(step["step"], step["state"], step["message"], step["seconds"]), err=True)

    def _recorded(self, seen: int) -> dict[str, Any]:
        """Return what the journal has of it, now that the run is gone; show the steps behind those `seen`."""
        # A quick cut-over may be over, and its run gone, before this command has heard its number.
        ours = self._number or self._earlier + 1
        attempt = next((each for each in self._records.attempts() if each.number == ours), None)
        if attempt is None:
            known = {"outcome": "not_ready", "reason": "the run ended before the cut-over began"}
            return {**known, "step": "lag", "fence": None, "attempts": 0, **_NOT_DONE}
        if (report := self._records.report(attempt.number)) is not None:
            for step in self._records.steps(attempt.number)[seen:]:
                self._show(step)
            return report
        outcome, reason = attempt.outcome, attempt.reason
        if not outcome:
            outcome = "abandoned"
            reason = f"the run was killed in the step {attempt.step}; run it again, which lets writes flow"
            if attempt.step == "run":
                reason += (
                    ", once it is certain that the application speaks to the source: "
                    f"tell so with 'slotferry cutover {self._job} --undo'"
                )
        switched = not attempt.outcome and attempt.step == "run"
        return {
            **_NOT_DONE,
            "outcome": outcome,
            "reason": reason or None,
            "step": attempt.step,
            "fence": attempt.fence,
            "attempts": attempt.number,
            "may_be_switched": switched,
        }


def _as_told(error: dict[str, Any]) -> SlotferryError:
    """Return the error that the run met."""
    raised = SlotferryError(error["message"], hint=error["hint"] or "", kind=error["kind"])
    raised.exit_code = ExitCode(error["exit_code"])
    return raised
