"""The public API: a migration from a standalone server into a cluster.

Invariant: a `Migration` is one run. It may be used from any thread; what it tells comes as events, and
whoever follows them can neither slow it down nor break it.

    with Migration("redis://old:6379", "redis+cluster://new1:7000,new2:7000") as migration:
        for event in migration.events():
            print(event)
        report = migration.result()
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from types import TracebackType

from slotferry.api.event_queue import AsyncEvents, EventQueue
from slotferry.errors import MigrationInterrupted, RefusedError, UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.controls import Rates
from slotferry.jobs.options import Options
from slotferry.migrate.file_source import check_file_options
from slotferry.migrate.session import Session, as_our_error, status_of
from slotferry.model.counts import Keys
from slotferry.model.cutover import CutoverOptions, CutoverReport
from slotferry.model.events import Event, RunEnded
from slotferry.model.follow import Lag
from slotferry.model.report import Report
from slotferry.net.endpoints import Endpoint, file_endpoint, parse_endpoint

__all__ = ["CutoverOptions", "CutoverReport", "Keys", "Lag", "Migration", "Options", "Report"]


class Migration:
    """One run of a migration; the same again (a new `Migration`) resumes what was interrupted.

    `source` is a URL `redis://`, `rediss://`, `unix://`, or `redis+sentinel://h1:p1,h2:p2/service/db` for a
    service behind Sentinel, or the path of an RDB file (`-` for stdin); `target` is `redis+cluster://h1:p1,h2:p2`,
    `rediss+cluster://…` or the URL of one of its nodes. Raises `UsageError` for a URL, a TLS file or an
    option that makes no sense; nothing is connected before the run starts.

    As a context manager it does not leave a run behind: at the end of `with`, a run that goes on is
    cancelled and waited for.
    """

    def __init__(
        self, source: str | Endpoint, target: str | Endpoint, options: Options | None = None
    ) -> None:
        self.options = options or Options()
        source_end = (
            parse_endpoint(_file(source) or source, "source")
            .with_credentials(self.options.source_password, self.options.source_tls)
            .with_sentinel_login(self.options.sentinel_username, self.options.sentinel_password)
        )
        target_end = parse_endpoint(target, "target").with_credentials(
            self.options.target_password, self.options.target_tls
        )
        check_file_options(source_end, self.options)
        for end in (source_end, target_end):
            end.check_files()  # reads the TLS files: now is the time to complain
        self._source, self._target = source_end, target_end
        self._cancel = CancelRequest(saves=not self.options.dry_run)
        self._listeners: list[Callable[[Event], None]] = []
        self._session = self._make_session(source_end, target_end, self._cancel)
        self._lock = threading.Lock()
        self._begun = False
        self._done = threading.Event()
        self._report: Report | None = None
        self._thread: threading.Thread | None = None

    def _make_session(self, source: Endpoint, target: Endpoint, cancel: CancelRequest) -> Session:
        return Session(source, target, self.options, self._tell, cancel)

    @property
    def job(self) -> str:
        """The job's name in the journal."""
        return self._session.job

    @property
    def report(self) -> Report | None:
        """How the run ended, also where `run` or `result` raised; None while there is no end."""
        return self._report if self._done.is_set() else None

    def run(self, progress: bool = False) -> Report:
        """Run in this thread until the end and return the report; `progress` shows it on stderr.

        An interrupted run (by `cancel`) and one with failed or pending keys return their report too: look
        at `Report.ok`. Raises `SlotferryError` where the run was refused or a side was lost (`report` says
        what was reached until then), and `UsageError` for a second run of the same object. Ctrl-C that
        nobody handles stops at once, saves, and comes out as `KeyboardInterrupt`.
        """
        self._claim()
        if not progress:
            self._perform()
            return self.result()
        from slotferry.report import choose_display

        with closing(choose_display("auto")) as display:
            self._listeners.append(display.handle)
            self._perform()
        return self.result()

    def start(self) -> None:
        """Run in a thread of its own. Raises `UsageError` where the run was begun already."""
        self._claim()
        self._start_thread()

    def events(self) -> Iterator[Event]:
        """Follow the run: yield its events from now on, `RunEnded` last; start it where it is not begun.

        Iterating does not drive the run, and leaving the loop does not stop it (`cancel` does). Each call
        makes an iterator of its own. A reader that is slow gets every event but not every `Progress` and
        `CheckpointSaved`.
        """
        queue = EventQueue()
        self._attach(queue.put)
        return iter(queue)

    async def run_async(self) -> Report:
        """Run to the end as `run` does, in a thread that ends with it; the loop goes on meanwhile.

        Where the task is cancelled, the run is asked to end in order (cancelled again: at once), and has
        ended when `CancelledError` is raised.
        """
        from asyncio import CancelledError

        interrupted: CancelledError | None = None
        events = AsyncEvents()
        self._attach(events.put, claims=True)
        while True:
            try:
                ended = isinstance(await events.get(), RunEnded)
            except CancelledError as error:
                self.cancel(immediately=interrupted is not None)
                interrupted = error
                continue
            if ended:
                break
        self._join()
        if interrupted is not None:
            raise interrupted
        return self.result()

    async def events_async(self) -> AsyncIterator[Event]:
        """Follow the run as `events` does, from a coroutine; no thread is used but the run's own.

        Leaving the loop does not stop the run: `async with` does that at its end.
        """
        events = AsyncEvents()
        self._attach(events.put)
        try:
            while True:
                event = await events.get()
                if isinstance(event, RunEnded):
                    self._join()
                yield event
                if isinstance(event, RunEnded):
                    return
        finally:
            with self._lock:
                if events.put in self._listeners:
                    self._listeners.remove(events.put)

    async def __aenter__(self) -> Migration:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun and not self._done.is_set():
            self.cancel(immediately=error is not None)
            async for _ in self.events_async():
                pass
        self._join()

    def cancel(self, *, immediately: bool = False, signal: int | None = None) -> None:
        """Ask the run to end: finish what is in hand, or stop at once; either way nothing is lost.

        Returns at once; may be called from any thread or a signal handler, whose `signal` then sets the
        report's exit code.
        """
        if signal is None:
            self._cancel.ask(immediately=immediately)
        else:
            self._cancel.ask(immediately=immediately, signal=signal)

    @property
    def lag(self) -> Lag | None:
        """How far the target is behind a followed source, in any thread; None while none is followed."""
        return self._session.followed.lag

    def cutover(self, options: CutoverOptions | None = None) -> CutoverReport:
        """Cut over a run that follows, and wait for what comes of it, its hold included; in any thread.

        Steps are told as events `CutoverStep`; after a cut-over that is done (`CutoverReport.is_done`), the
        run ends with the status `cut_over`. Raises `RefusedError` for a run that does not follow yet or
        copies still, or while another cut-over goes on. An exception that interrupts the waiting abandons it.
        """
        cutovers = self._session.followed.cutovers
        if cutovers is None:
            raise RefusedError(
                f"the job {self.job} does not follow its source, or not yet",
                hint="give Options(follow=True), and wait until it follows",
            )
        attempt = cutovers.begin(options or CutoverOptions())
        try:
            attempt.ended.wait()
        except BaseException:
            attempt.abandon()
            raise
        return attempt.result()

    def pause(self) -> None:
        """Read nothing more until `resume`; what is under way is finished. Returns at once, in any thread."""
        self._session.controls.paused = True

    def resume(self) -> None:
        """Go on after `pause`."""
        self._session.controls.paused = False

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        """Limit what is read from the source in a second from now on; None is no limit.

        Raises `UsageError` for a limit below 1.
        """
        self._session.controls.rates = Rates(max_keys_per_second, max_bytes_per_second)

    def result(self, timeout: float | None = None) -> Report:
        """Wait for the end of a run that was begun; return or raise as `run` does.

        Raises `TimeoutError` where it still runs after `timeout` seconds, `UsageError` where none was begun.
        """
        if not self._begun:
            raise UsageError("the migration was not started", hint="call run() or start()")
        if not self._done.wait(timeout) or self._report is None:
            raise TimeoutError(f"the migration still runs after {timeout} s")
        error = self._report.error
        if error is not None and isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__
        if error is not None and not isinstance(error, MigrationInterrupted):
            raise error
        return self._report

    def __enter__(self) -> Migration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._begun and not self._done.is_set():
            self.cancel(immediately=error is not None)
            self._done.wait()
        self._join()

    def _attach(self, listener: Callable[[Event], None], *, claims: bool = False) -> None:
        """Let `listener` hear the run, which is started where it is not begun; of one that is over, its end.

        With `claims`, raise `UsageError` where it is begun.
        """
        with self._lock:
            if claims and self._begun:
                raise UsageError("a Migration runs once", hint="make another one to resume")
            report = self._report if self._done.is_set() else None
            if report is None:
                self._listeners.append(listener)
            begun, self._begun = self._begun, True
        if report is not None:
            listener(RunEnded(report))
        elif not begun:
            self._start_thread()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._perform, name="slotferry-run", daemon=True)
        self._thread.start()

    def _join(self) -> None:
        """Wait for the thread of a run that has told its end, which is all that it had left to do."""
        if self._thread is not None and self._done.is_set():
            self._thread.join()

    def _claim(self) -> None:
        with self._lock:
            if self._begun:
                raise UsageError("a Migration runs once", hint="make another one to resume")
            self._begun = True

    def _perform(self) -> None:
        from slotferry.report.log.records import EventLog

        self._listeners.append(EventLog().handle)
        try:
            self._report = self._complete(self._session.perform())
        finally:
            with self._lock:
                self._done.set()
                listeners = list(self._listeners)
            if self._report is not None:
                for listener in listeners:
                    listener(RunEnded(self._report))

    def _complete(self, report: Report) -> Report:
        """Compare what was copied, where the options ask for it; return the report of both."""
        if not self.options.verify or self.options.dry_run or report.error is not None:
            return report
        from slotferry.verify.options import VerifyOptions
        from slotferry.verify.session import VerifySession

        try:
            options = VerifyOptions.after(self.options, self.job)
            session = VerifySession(self._source, self._target, options, self._tell, self._cancel)
            session.emptiness_told = report.empty is not None
            verification = session.perform()
        except BaseException as raised:  # noqa: BLE001 - the report tells of it
            error = as_our_error(raised, self._cancel)
            return replace(report, error=error, status=status_of(report.keys, error))
        report = replace(report, verification=verification)
        if verification.error is None:
            return report
        status = status_of(report.keys, verification.error)
        return replace(report, error=verification.error, status=status)

    def _tell(self, event: Event) -> None:
        for listener in list(self._listeners):
            listener(event)


def _file(source: str | Endpoint) -> Endpoint | None:
    """Return the RDB file that a source names; None for a server."""
    return file_endpoint(source) if isinstance(source, str) else None
