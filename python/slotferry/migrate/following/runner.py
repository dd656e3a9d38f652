"""Copies a job's source and follows it, in one core job, until it is asked to end.

Invariant: the place in the stream goes to the journal in the transaction of the marks it belongs to. What can
take long (a comparison, loading functions) is done aside, in a thread that never touches the journal; what it
can't do ends the run, resumable, with its doubt in the journal; a node that is lost meanwhile has as long as
it has everywhere to come back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any

from slotferry._core import FollowSettings
from slotferry.errors import (
    JournalError,
    MigrationInterrupted,
    SlotferryError,
    SourceLostError,
    SourceNotReadyError,
    TargetLostError,
    unexpected,
)
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.driver import EngineDriver, Work
from slotferry.jobs.job_group import EngineJob, JobGroup
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.libraries import LibraryRecords
from slotferry.jobs.journal.recorder import Recorder
from slotferry.jobs.runner import Runner
from slotferry.migrate.account.accounting import Accounting
from slotferry.migrate.account.book import OpenDoubts
from slotferry.migrate.following.beside import driver_beside
from slotferry.migrate.following.comparison import Comparison
from slotferry.migrate.following.run_follower import RunFollower
from slotferry.migrate.following.shared_names import SharedNames
from slotferry.migrate.functions import drop_functions, load_functions, plan_functions
from slotferry.migrate.snapshot import read_as_snapshot
from slotferry.model.events import Event, Notice
from slotferry.model.follow import FollowProgress
from slotferry.preflight.following import WITHOUT_PSYNC
from slotferry.topology.identity import Slots, unite

if TYPE_CHECKING:
    from slotferry import _core
    from slotferry._core import Job


_BETWEEN_SECONDS = 0.5


class FollowRunner(Runner):
    """Does everything that is left of the job `name`, then follows its source."""

    def __init__(
        self,
        journal: Journal,
        name: str,
        driver: EngineDriver,
        accounting: Accounting,
        follower: RunFollower,
        attend: Callable[[], None],
    ) -> None:
        """Take the job, its accounts, what tells others how it is, and what is called in each turn."""
        super().__init__(journal, name, driver)
        self._accounting = accounting
        self._follower = follower
        self._attend_others = attend
        self._aside: _Aside | None = None
        self._aside_fails_since: float | None = None
        self._next_aside = 0.0
        self._functions_wanted = driver.options.functions
        self._shared_names = SharedNames(driver)
        self._libraries = LibraryRecords(journal, name)
        self._digests: Mapping[str, str] | None = None
        """What the libraries are that were brought aside, for the journal."""
        self._compared: tuple[OpenDoubts, Comparison, int | None] | None = None
        """Doubts about the target, what they were compared by, and where the stream was after it."""

    @property
    def progress(self) -> FollowProgress | None:
        """How the source was followed at last."""
        return self._progress.follow

    def _works(self) -> Iterator[Work]:
        """Yield the one core job: what is left of the scan, the keys that are left, and the stream."""
        if self._follower.finished:
            return
        marks = self._journal.marks(self._name)
        ((database, route),) = self._routes()
        left = self._journal.unsettled_keys(self._name, with_failed=True, database=database)
        mark = self._journal.follow_mark(self._name)
        options = self._driver.options
        settings: dict[str, Any] = {
            "follow": FollowSettings(
                position=None if mark is None else mark.position,
                in_doubt=mark is not None and mark.in_doubt,
                on_flush="stop" if options.on_flush == "stop" else "compare",
            ),
            "key_map": options.selection.key_map(self._driver.sides.ways[0].prefix, whole=True),
            "match": None,
        }
        cursors = [(m.index, m.cursor) for m in marks if not m.done]
        keys = list(chain.from_iterable(left))
        yield Work(partitions=cursors, keys=keys, route=route, settings=settings)

    def _do(self, work: Work) -> None:
        work, starts_over = read_as_snapshot(self._journal, self._name, self._driver, work)
        self.started_over |= starts_over
        try:
            super()._do(work)
        except SourceNotReadyError as error:
            if error.kind != "source_refused" or self._journal.follow_mark(self._name) is not None:
                raise
            hint = (
                "grant +psync +replconf +ping +command; a managed service that refuses PSYNC is moved "
                f"{WITHOUT_PSYNC}"
            )
            raise SourceNotReadyError(error.message, hint=hint, kind=error.kind) from error
        except MigrationInterrupted:
            if not self._follower.finished:
                raise
        finally:
            self._follower.let_go()
            self._end_aside()

    def _tick(self, job: EngineJob, recorder: Recorder) -> None:
        self._attend_others()
        if self._follower.finished:
            # Nothing may be written any more, and what is in doubt now is no concern of this job.
            job.cancel(immediately=True)
            return
        follow = job.snapshot().follow
        self._accounting.tick(0 if follow is None else follow.deleted)
        copied = recorder.partitions_done == recorder.partitions
        if copied and not self._progress.copied:
            self._driver.emit(Notice("all is copied; the source is followed until the run is asked to end"))
        self._follower.copied = self._progress.copied = copied
        if not isinstance(job, JobGroup):  # a cluster is not followed
            self._attend(job, recorder.partitions)
            self._follower.see(job)
        super()._tick(job, recorder)

    def _attend(self, job: Job, partitions: int) -> None:
        """Begin aside what is wanted, and take in what has come of it."""
        if self._driver.take_functions_changed():
            self._functions_wanted = self._driver.options.functions
        try:
            open_doubts = self._accounting.open_doubts()
        except JournalError:
            return  # as for checkpoints, which tell of it: it is looked at again
        self._follower.in_doubt = bool(open_doubts.doubts) or self._shared_names.wanted
        self._follower.shared_names = self._shared_names.found
        if self._aside is not None:
            ended = self._aside.ended  # before its events are taken: none comes after
            for event in self._aside.events():
                self._driver.emit(event)
            if not ended:
                return
            aside, self._aside = self._aside, None
            self._take_result(aside)
        follow = job.snapshot().follow
        if follow is None or not follow.connected or time.monotonic() < self._next_aside:
            return
        if self._compared is not None:
            self._close_doubts(follow)
        elif self._functions_wanted:
            self._functions_wanted = False
            known = self._libraries.load()

            def bring(driver: EngineDriver) -> None:
                self._bring_functions(driver, known)

            self._aside = _Aside(self._driver, bring, loads_functions=True)
        elif self._progress.copied and self._shared_names.wanted:
            self._aside = _Aside(self._driver, lambda driver: self._shared_names.find(driver, job))
        elif self._progress.copied and (follow.in_doubt or open_doubts.doubts):
            self._compare(job, partitions, open_doubts, settles=follow.in_doubt)

    def _take_result(self, aside: _Aside) -> None:
        """Take in what has come of it; what the loss of a node has ended is to be done again."""
        try:
            aside.result()
        except (SourceLostError, TargetLostError) as error:
            now, patience = time.monotonic(), self._driver.options.retry_for
            if self._aside_fails_since is None:
                self._aside_fails_since = now
                self._driver.emit(Notice(f"{error}; what was looked at is looked at again"))
            if error.kind == "source_changed" or now - self._aside_fails_since >= patience:
                raise
            self._next_aside = now + _BETWEEN_SECONDS
            self._functions_wanted |= aside.loads_functions
        else:
            self._aside_fails_since = None
            self._record_libraries()

    def _close_doubts(self, follow: _core.FollowProgress) -> None:
        """Close the doubts about the target that were compared, once what was found is copied, or owed."""
        assert self._compared is not None  # noqa: S101 - the caller has looked
        doubts, comparison, fence = self._compared
        if fence is None:
            self._compared = doubts, comparison, follow.received
        elif not follow.in_doubt and follow.mark[1] >= fence:
            self._accounting.close(doubts, comparison.found)
            self._compared = None

    def _compare(self, job: Job, partitions: int, doubts: OpenDoubts, *, settles: bool) -> None:
        everything, numbers = job.begin_comparison() if settles else (True, [])
        slots = None if everything or doubts.doubts else _ranges(numbers)
        what = "both sides are" if slots is None else f"{len(numbers):,} slots of both sides are"
        self._driver.emit(Notice(f"{what} compared, and what differs is copied again"))
        functions = bool(doubts.doubts) and self._driver.options.functions
        known = self._libraries.load() if functions else {}

        def run(driver: EngineDriver) -> None:
            if functions:
                self._bring_functions(driver, known)  # which a node loses together with its keys
            touches = bool(doubts.doubts)
            comparison = Comparison(driver, job, slots=slots, settles=settles, touches=touches)
            comparison.run(partitions)
            driver.emit(Notice(f"both sides are compared: {comparison.found:,} keys are copied again"))
            if touches:
                self._compared = doubts, comparison, None

        self._aside = _Aside(self._driver, run)

    def _bring_functions(self, driver: EngineDriver, known: Mapping[str, str]) -> None:
        """Load the source's libraries on every primary that lacks them; delete those that it has deleted."""
        sides = driver.sides
        plan = plan_functions(
            *(sides.source, sides.source_facts, sides.target, sides.target_facts, "replace"),
            lambda text: driver.emit(Notice(text)),
            known,
        )
        load_functions(sides.target, sides.target_facts, plan)
        drop_functions(sides.target, sides.target_facts, plan)
        if plan.loads:
            driver.emit(Notice(f"{len(plan.loads)} function libraries are loaded on primaries"))
        if plan.drops:
            driver.emit(Notice(f"{len(plan.drops)} function libraries are deleted on primaries"))
        self._digests = plan.digests

    def _record_libraries(self) -> None:
        """Write down what was brought aside."""
        digests, self._digests = self._digests, None
        if digests is not None:
            self._libraries.store(digests)

    def _end_aside(self) -> None:
        """End what is under way; what it was for stands in the journal."""
        self._compared = None
        if self._aside is not None:
            self._aside.stop()
            self._aside = None


def _ranges(numbers: list[int]) -> Slots:
    """Return slots as ranges."""
    return unite([((number, number),) for number in numbers])


class _Aside:
    """A thread with a driver of its own, whose events and errors are taken by the run's thread."""

    def __init__(
        self, driver: EngineDriver, run: Callable[[EngineDriver], None], *, loads_functions: bool = False
    ) -> None:
        self.loads_functions = loads_functions
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._cancel = CancelRequest(within=driver.cancel)
        # Its notices are told; what its engine meets, the run's own engine meets as well.
        self._driver = driver_beside(driver, self._hear, self._cancel)
        self._run = run
        self._error: SlotferryError | None = None
        self._thread = threading.Thread(target=self._work, name="slotferry-aside", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return not self._thread.is_alive()

    def events(self) -> Iterator[Event]:
        """Yield what was told since the last call."""
        while not self._events.empty():
            yield self._events.get()

    def result(self) -> None:
        """Raise what ended it early."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """End it, and wait for its end."""
        self._cancel.ask(immediately=True)
        self._thread.join()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Notice):
            self._events.put(event)

    def _work(self) -> None:
        try:
            self._run(self._driver)
        except SlotferryError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - raised in the run's thread
            self._error = unexpected(error)
