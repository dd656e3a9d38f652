"""The cut-overs that a run is asked for, from another terminal, in Python or by itself.

Invariant: one attempt at a time, in a thread of its own; the run does not end before it has. What it tells is
taken by the run's own thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from slotferry.errors import InternalError, JournalError, RefusedError, SlotferryError, UsageError, unexpected
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.migrate.cutover.border import Check
from slotferry.migrate.cutover.machine import Cutover, refuse_unready
from slotferry.migrate.cutover.settings import put_back
from slotferry.migrate.following.follower import Follower
from slotferry.migrate.following.run_follower import RunFollower
from slotferry.model.cutover import CutoverOptions, CutoverReport, CutoverStep
from slotferry.model.notices import Event

_WAIT_SECONDS = 0.1


class Attempt:
    """One cut-over; any thread may look at it."""

    def __init__(self, ticket: int, options: CutoverOptions, cancel: CancelRequest) -> None:
        self.ticket = ticket
        """Its number in this run."""
        self.options = options
        self.steps: list[CutoverStep] = []
        self.report: CutoverReport | None = None
        self.error: SlotferryError | None = None
        self.ended = threading.Event()
        self._cancel = cancel
        self._cutover: Cutover | None = None

    @property
    def number(self) -> int:
        """Its number in the journal; 0 where it is not there yet."""
        return 0 if self._cutover is None else self._cutover.number

    @property
    def is_gone(self) -> bool:
        """Whether it can't be abandoned any more."""
        return self._cutover is not None and self._cutover.is_gone

    def abandon(self) -> bool:
        """Ask for its end, unless *go* is said already; return whether it was asked."""
        if self.is_gone:
            return False
        self._cancel.ask()
        return True

    def result(self) -> CutoverReport:
        """Return what came of it, once it has ended. Raises `SlotferryError` where it could not begin."""
        if self.error is not None:
            raise self.error
        if self.report is None:
            raise InternalError("a cut-over was asked for its result before its end")
        return self.report

    def _kept(self, report: CutoverReport, records: CutoverRecords) -> CutoverReport:
        """Keep a report in the journal; what came of it stands, whether it can be kept or not."""
        try:
            records.keep(report, self.steps)
        except JournalError as error:
            problem = f"what came of it is not in the journal: {error}"
            return replace(report, warning=f"{report.warning}; {problem}" if report.warning else problem)
        return report

    def perform(self, cutover: Cutover, records: CutoverRecords) -> None:
        """Do it; raises nothing."""
        self._cutover = cutover
        try:
            self.report = self._kept(cutover.perform(), records)
        except SlotferryError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - raised where the result is asked for
            self.error = unexpected(error)
        finally:
            self.ended.set()


class Cutovers:
    """The cut-overs of one run."""

    def __init__(
        self,
        follower: RunFollower,
        records: CutoverRecords,
        check: Check,
        emit: Callable[[Event], None],
        cancel: CancelRequest,
    ) -> None:
        """Take who follows, where attempts are recorded, who compares, and the run's events and end."""
        self._follower = follower
        self._records = records
        self._check = check
        self._emit = emit
        self._cancel = cancel
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._attempts: list[Attempt] = []
        self._closed = False
        self._undoing = False

    @property
    def last(self) -> Attempt | None:
        """The attempt that was begun last."""
        return self._attempts[-1] if self._attempts else None

    @property
    def active(self) -> Attempt | None:
        """The attempt that goes on."""
        last = self.last
        return None if last is None or last.ended.is_set() else last

    @property
    def report(self) -> CutoverReport | None:
        """What came of the last attempt that has come to an end."""
        reports = (attempt.report for attempt in reversed(self._attempts))
        return next((report for report in reports if report is not None), None)

    def begin(self, options: CutoverOptions) -> Attempt:
        """Begin one in a thread. Raises `RefusedError` for a job that can't be cut over now."""
        job = self._records.job
        with self._lock:
            if self._closed:
                raise RefusedError(f"the run of the job {job} is about to end", hint="run it again")
            if self.active is not None or self._undoing:
                raise RefusedError(
                    f"a cut-over of the job {job} is under way, or undone just now",
                    hint="see 'slotferry jobs show'",
                )
            refuse_unready(self._follower, self._records)
            if self._follower.paused:
                raise RefusedError(
                    f"the job {job} is paused", hint=f"let it go on with 'slotferry jobs resume {job}'"
                )
            cancel = CancelRequest(within=self._cancel)
            attempt = Attempt(len(self._attempts) + 1, options, cancel)

            def hear(event: Event) -> None:
                if isinstance(event, CutoverStep):
                    attempt.steps.append(event)
                self._told.put(event)

            cutover = Cutover(self._follower, options, self._records, self._check, hear, cancel)
            work = (cutover, self._records)
            threading.Thread(target=attempt.perform, args=work, name="slotferry-cutover", daemon=True).start()
            self._attempts.append(attempt)
        return attempt

    def undo(self) -> list[str]:
        """Let the source take writes again; return a sentence about each thing done.

        Raises `SlotferryError`.
        """
        with self._lock:
            if self.active is not None:
                raise RefusedError(
                    f"a cut-over of the job {self._records.job} is under way",
                    hint="wait for its end, or press Ctrl-C where it was begun",
                )
            self._undoing = True
        try:  # without the lock, which the run's own thread takes
            return put_back(self._follower.source, self._records)
        finally:
            self._undoing = False

    def tell(self) -> None:
        """Emit what was told since the last call; for the run's own thread."""
        while not self._told.empty():
            self._emit(self._told.get())

    def end(self) -> CutoverReport | None:
        """Begin no more, and wait for the one that goes on: abandoned, unless *go* is said.

        Return the report of the one that is done; None where none is.
        """
        with self._lock:
            self._closed = True
        if (attempt := self.last) is not None:
            attempt.abandon()
            while not attempt.ended.wait(_WAIT_SECONDS):
                self.tell()
            self.tell()
        report = self.report
        return report if report is not None and report.is_done else None

    def state(self) -> dict[str, str]:
        """Return what a run that cuts over is shown with: its state, and the step."""
        attempt = self.active
        steps = [] if attempt is None else attempt.steps
        return {"state": "cutting_over", "reason": steps[-1].message} if steps else {}

    def answer(self, _follower: Follower, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer a request of the control socket (`follower.Handler`)."""
        action = request["action"]
        if action == "begin":
            return {"ticket": self.begin(CutoverOptions(**request["options"])).ticket}
        if action == "undo":
            return {"messages": self.undo()}
        number = int(request["ticket"])
        if not 0 < number <= len(self._attempts):
            raise UsageError(f"the run knows no cut-over {number}", hint="was it run again meanwhile?")
        attempt = self._attempts[number - 1]
        if action == "abandon":
            return {"abandoned": attempt.abandon()}
        return _describe(attempt, int(request["after"]))


def _describe(attempt: Attempt, after: int) -> dict[str, Any]:
    ended = attempt.ended.is_set()  # before its steps are taken: none comes after
    steps = attempt.steps[after:]
    error = attempt.error if ended else None
    return {
        "steps": [step.to_dict() for step in steps],
        "attempt": attempt.number,
        "report": None if attempt.report is None or not ended else attempt.report.to_dict(),
        "error": None if error is None else {**error.to_dict(), "exit_code": int(error.exit_code)},
    }
