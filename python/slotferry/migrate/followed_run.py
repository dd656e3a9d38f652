"""A run that follows its source, from what an earlier cut-over has left to the cut-over that ends it.

Invariant: nothing is followed before the source takes writes again and no killed cut-over is left open; once
one is done, nothing that happens afterwards makes the run fail. A run that only copies loads none of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slotferry.errors import MigrationInterrupted, RefusedError, SlotferryError, TargetNotReadyError
from slotferry.jobs.control.controls import Controls
from slotferry.jobs.driver import Emit, EngineDriver, Sides
from slotferry.jobs.options import Options
from slotferry.migrate.account.target_watch import look_at_all
from slotferry.model.events import Notice
from slotferry.text import count_of

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.migrate.account.accounting import Accounting
    from slotferry.migrate.cutover.attempts import Cutovers
    from slotferry.migrate.cutover.unattended import WhenReady
    from slotferry.migrate.following.follower import Handler
    from slotferry.migrate.following.run_follower import RunFollower
    from slotferry.migrate.following.runner import FollowRunner
    from slotferry.model.cutover import CutoverReport
    from slotferry.model.follow import FollowProgress, Lag


class FollowedRun:
    """How one run follows; of one that only copies it stays as it is made."""

    def __init__(self, job: str, options: Options, controls: Controls, emit: Emit) -> None:
        self._job = job
        self._options = options
        self._controls = controls
        self._emit = emit
        self._follower: RunFollower | None = None
        self._runner: FollowRunner | None = None
        self.cutovers: Cutovers | None = None
        """The cut-overs that may be begun; None where the source is not followed, or not yet."""
        self.handlers: dict[str, Handler] = {}
        """What answers more requests of the control socket, while a source is followed."""

    @property
    def lag(self) -> Lag | None:
        """How far behind a followed source the target is; None while none is followed."""
        return None if self._follower is None else self._follower.lag()

    @property
    def progress(self) -> FollowProgress | None:
        """How the source was followed at last."""
        return None if self._runner is None else self._runner.progress

    @property
    def started_over(self) -> bool:
        """Whether the source changed during the run, so that its counts began anew."""
        return self._runner is not None and self._runner.started_over

    @property
    def cutover(self) -> CutoverReport | None:
        """What came of the last cut-over that was tried."""
        return None if self.cutovers is None else self.cutovers.report

    def state(self) -> dict[str, str]:
        """Return what a run that cuts over is shown with besides."""
        return {} if self.cutovers is None else self.cutovers.state()

    def answer(self, command: str, request: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Answer a request of the control socket; None for one that nobody knows. Raises `RefusedError`."""
        if not self._options.follow:
            if command != "cutover":
                return None
            raise RefusedError(
                f"the job {self._job} copies and does not follow its source",
                hint="give another --job and run it with 'slotferry migrate --follow'",
            )
        if self._follower is None:
            raise RefusedError(
                f"the job {self._job} does not follow its source yet", hint="see 'slotferry jobs show'"
            )
        handler = self.handlers.get(command)
        return None if handler is None else handler(self._follower, request)

    def recover(self, sides: Sides) -> None:
        """Undo what a cut-over that was killed has left. Raises `RefusedError` where it may be done."""
        from slotferry.jobs.journal.cutovers import CutoverRecords
        from slotferry.migrate.cutover.recovery import recover
        from slotferry.migrate.cutover.settings import put_back

        records = CutoverRecords(self._options.journal_path, self._job)
        if self._options.restart:
            messages = put_back(sides.source, records)
            records.forget_attempts()
        else:
            messages = recover(sides.source, records)
        for text in messages:
            self._emit(Notice(text))

    def refuse_full_target(self, sides: Sides) -> None:
        """Raise where a comparison would delete keys of the target that nobody copied there."""
        if "existing-keys" in self._options.skip_check:
            return
        (way,) = sides.ways
        held = sum(
            node.count({way.target}) for node in look_at_all(sides.target, sides.target_facts.topology)
        )
        if held:
            raise TargetNotReadyError(
                f"the target holds {count_of(held, 'key')} already, and a target that is followed into "
                "becomes equal to the source: what the source lacks may be deleted",
                hint="empty it, or give --skip-check existing-keys where all of it comes from this source",
            )

    def run(self, journal: Journal, driver: EngineDriver, accounting: Accounting) -> None:
        """Copy and follow until the run is asked to end, or cut over. Raises `SlotferryError`."""
        from slotferry.jobs.journal.cutovers import CutoverRecords
        from slotferry.migrate.cutover.attempts import Cutovers
        from slotferry.migrate.cutover.check import BothSides
        from slotferry.migrate.following.run_follower import RunFollower
        from slotferry.migrate.following.runner import FollowRunner

        path = self._options.journal_path
        (way,) = driver.sides.ways
        follower = RunFollower(self._job, driver.sides.source, self._controls, way.source)
        self._follower = follower
        records = CutoverRecords(path, self._job)
        check = BothSides(driver, path, self._job, lambda: follower.shared_names)
        self.cutovers = cutovers = Cutovers(follower, records, check, self._emit, driver.cancel)
        self.handlers["cutover"] = cutovers.answer
        when_ready = self._when_ready(follower, cutovers)

        def attend() -> None:
            cutovers.tell()
            if when_ready is not None:
                when_ready.look()

        self._runner = FollowRunner(journal, self._job, driver, accounting, follower, attend)
        try:
            self._runner.run()
        except SlotferryError as error:
            if cutovers.end() is None:
                raise
            if not isinstance(error, MigrationInterrupted):
                self._emit(Notice(f"after the cut-over: {error}"))
        finally:
            cutovers.end()

    def _when_ready(self, follower: RunFollower, cutovers: Cutovers) -> WhenReady | None:
        """Return what cuts over by itself, where that is asked for."""
        wanted, window = self._options.cutover_when_ready, self._options.window
        if wanted is None:
            return None
        from slotferry.migrate.cutover.unattended import WhenReady

        when = "" if window is None else f" between {window.replace('-', ' and ')}"
        self._emit(Notice(f"it is cut over by itself as soon as it is ready{when}"))
        return WhenReady(follower, cutovers.begin, wanted, window, self._emit)
