"""One attempt at a cut-over, from a lag that is small enough to an application that may speak to the target.

Invariant: *go* is recorded before it is told, and told only when writes were stopped without a gap since the
fence, all up to the fence is at the target, the check found no difference, the command succeeded, and the
source's stream has had no write since the fence. Everything else lets writes flow and the run go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from slotferry.errors import RefusedError, SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.migrate.cutover.border import Check, CheckRequest, HeldFollower
from slotferry.migrate.cutover.command import CommandFailed, run_command, show_command
from slotferry.migrate.cutover.settings import put_back
from slotferry.migrate.cutover.source import SourceOffset, open_primary, read_offset, try_to_read_offset
from slotferry.migrate.cutover.stream_watch import StreamWatch, choose_start
from slotferry.migrate.cutover.write_stop import WriteStop, make_write_stop
from slotferry.model.cutover import Checked, CutoverOptions, CutoverReport, CutoverStep, StepName, Written
from slotferry.text import shorten_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from slotferry.model.notices import Event
    from slotferry.net.node import Node

MOST_COMPARED = 10_000
"""Of the keys that were touched last, so many are compared: it takes a part of a second."""

_TICK_SECONDS = 0.02
_SLICE_SECONDS = 0.1
_HOLD_TICK_SECONDS = 0.2
_LAST_LOOK_SECONDS = 5.0


class _Abandoned(Exception):  # noqa: N818 - an outcome
    """The attempt is given up; the text says why."""


class _NotReady(_Abandoned):
    """The lag stayed too high: nothing was stopped."""


@dataclass
class _Found:
    """What the report will say; filled in as the attempt goes."""

    attempt: int = 0
    step: StepName = "lag"
    fence: SourceOffset | None = None
    stopped_at: float | None = None
    write_stop: float | None = None
    checked: Checked = field(default_factory=lambda: Checked(0, 0))
    is_gone: bool = False
    written: Written = field(default_factory=Written)
    warning: str = ""

    @property
    def offset(self) -> int | None:
        return None if self.fence is None else self.fence.offset


class Cutover:
    """One attempt; `perform` is called once, in any thread."""

    def __init__(
        self,
        follower: HeldFollower,
        options: CutoverOptions,
        records: CutoverRecords,
        check: Check,
        emit: Callable[[Event], None],
        cancel: CancelRequest,
    ) -> None:
        """Take who follows, what is asked for, where it is recorded, who compares, and what may end it."""
        self._follower = follower
        self._options = options
        self._records = records
        self._check = check
        self._emit = emit
        self._cancel = cancel
        self._found = _Found()
        self._has_run = False
        self._compares_ahead = options.check in ("touched", "sample")
        self._may_be_switched = False
        self._begun = 0.0
        self._deadline = 0.0

    @property
    def number(self) -> int:
        """The attempt's number in the journal; 0 before it has begun."""
        return self._found.attempt

    @property
    def is_gone(self) -> bool:
        """Whether *go* is recorded: there is no way back."""
        return self._found.is_gone

    def perform(self) -> CutoverReport:
        """Do all steps and return what came of it.

        Raises `RefusedError` for a job that can't be cut over now, and `SlotferryError` where the journal
        can't be written before anything was stopped.
        """
        refuse_unready(self._follower, self._records)
        found = self._found
        put_back(self._follower.source, self._records)  # what a killed attempt has left
        found.attempt = self._records.begin()
        self._begun = time.monotonic()
        reason = ""
        try:
            self._do_all()
        except (_Abandoned, SlotferryError) as error:
            # Where writes can't be let flow again either, both are told.
            first = error.__context__ if isinstance(error, SlotferryError) else None
            reason = f"{first}; {error}" if isinstance(first, _Abandoned) else str(error)
            if self._has_run and not found.is_gone:
                reason += "; the command had succeeded: let the application speak to the source again"
        except BaseException as error:
            self._end(f"unexpected {type(error).__name__}: {error}", "abandoned")
            raise
        if not found.is_gone:
            if self._compares_ahead:
                self._follower.compare_at_fence(0.0)
            self._end(reason, "not_ready" if found.stopped_at is None else "abandoned")
        elif reason:
            self._warn(reason)
        return self._report("" if found.is_gone else reason)

    def _end(self, reason: str, outcome: Literal["not_ready", "abandoned"]) -> None:
        found = self._found
        if found.stopped_at is not None and found.write_stop is None:
            found.write_stop = time.monotonic() - found.stopped_at
        if found.is_gone:
            return
        if left := self._left_changed():
            found.warning = left
        self._records.end(found.attempt, outcome, reason)
        self._tell(found.step, "failed", reason)

    def _warn(self, text: str) -> None:
        known = self._found.warning
        self._found.warning = f"{known}; {text}" if known else text

    def _left_changed(self) -> str:
        """Return what has to be done where the source still refuses writes."""
        if not self._records.changed_settings():
            return ""
        return (
            "the source may still refuse writes: its settings could not be put back; "
            f"run 'slotferry cutover {self._records.job} --undo'"
        )

    def _report(self, reason: str) -> CutoverReport:
        found = self._found
        stopped = found.write_stop
        return CutoverReport(
            outcome="cut_over" if found.is_gone else "not_ready" if found.stopped_at is None else "abandoned",
            reason=reason,
            step=found.step,
            fence=found.offset,
            write_stop_ms=None if stopped is None else round(stopped * 1000, 1),
            checked=found.checked.keys,
            differences=found.checked.differences,
            attempts=found.attempt,
            written=found.written,
            warning=found.warning,
            may_be_switched=self._may_be_switched and not found.is_gone,
        )

    # The steps

    def _do_all(self) -> None:
        position = self._wait_for_lag()
        start = choose_start(self._follower.source, self._follower.earlier_position(), position)
        with StreamWatch(self._follower.source, start, self._follower.database) as watch:
            self._read_to(watch, position[1])  # so that writes are not stopped for what is past
            stop = make_write_stop(self._options.stop_writes, self._follower.source, self._records)
            self._enter("stop", f"stopping writes at the source ({self._options.stop_writes})")
            self._found.stopped_at = time.monotonic()
            self._deadline = self._found.stopped_at + self._options.within
            with stop, open_primary(self._follower.source) as node:
                self._tell("stop", "done", "writes are stopped")
                self._go(node, stop, watch)
                self._hold(watch, node)
                if lapse := stop.lapse:
                    self._warn(lapse)
            self._look_once_more(watch)

    def _wait_for_lag(self) -> tuple[str, int, int]:
        """Wait until the lag is small; return the mark. Raises `_NotReady`."""
        most = self._options.max_lag
        self._tell("lag", "begun", f"waiting for a lag of at most {most:g} s")
        self._deadline = self._begun + self._options.within
        pause = threading.Event()
        while True:
            lag, position = self._follower.lag(), self._follower.position()
            if lag is not None and position is not None and lag.connected and not lag.in_doubt:
                if lag.seconds <= most and not self._is_comparing():
                    self._tell("lag", "done", f"{lag.seconds:.1f} s and {lag.bytes:,} bytes behind")
                    return position
                state = f"the target is {lag.seconds:.1f} s behind, more than {most:g} s"
            elif lag is not None and lag.in_doubt:
                state = "a comparison of both sides is not done yet"
            else:
                state = "the source's stream is not connected"
            if self._cancel.level:
                raise _NotReady("asked to end while still waiting for the lag")
            if time.monotonic() >= self._deadline:
                raise _NotReady(
                    f"still waiting for the lag after {self._options.within:g} s: {state}; "
                    "no write was stopped"
                )
            pause.wait(_TICK_SECONDS)

    def _is_comparing(self) -> bool:
        """Whether large keys are compared still, with time left to wait for it before writes are stopped."""
        if not self._compares_ahead or time.monotonic() >= self._begun + self._options.within / 2:
            return False
        return self._follower.compare_ahead() > 0

    def _go(self, node: Node, stop: WriteStop, watch: StreamWatch) -> None:
        fence = self._take_fence(node)
        self._enter("clean", "copying all that was touched before the fence")
        self._wait_clean(fence.offset)
        self._read_to(watch, fence.offset)
        self._tell("clean", "done", f"all up to {fence.offset} is at the target")
        self._compare(node, stop, watch, fence)
        with self._held():
            self._prove(node, stop, watch, fence)
            if words := self._options.words():
                self._run_command(words)
                self._prove(node, stop, watch, fence)
            self._record_go(stop)
        self._follower.finish(fence.offset)

    def _take_fence(self, node: Node) -> SourceOffset:
        self._enter("fence", "reading the source's offset")
        fence = self._found.fence = read_offset(node)
        self._prove_history(fence)
        self._tell("fence", "done", f"the fence is {fence.offset}")
        return fence

    def _prove_history(self, now: SourceOffset) -> None:
        position = self._follower.position()
        if position is None:
            raise _Abandoned("the run follows the source no longer")
        if now.replication_id != position[0]:
            raise _Abandoned(
                "the source's replication id is not the one that is followed: there was a failover"
            )

    def _wait_clean(self, offset: int) -> None:
        if not self._await(lambda seconds: self._follower.wait_clean(offset, seconds)):
            raise _Abandoned(f"not all up to {offset} is at the target within {self._options.within:g} s")

    def _read_to(self, watch: StreamWatch, offset: int) -> None:
        def is_read(seconds: float) -> bool:
            if watch.broken:
                raise _Abandoned(watch.broken)
            return watch.wait(offset, seconds)

        if not self._await(is_read):
            raise _Abandoned(f"the source's stream was not read up to {offset} in time")

    def _await(self, is_done: Callable[[float], bool]) -> bool:
        """Wait for something in slices, up to the deadline; return whether it came."""
        while not is_done(max(0.0, min(_SLICE_SECONDS, self._deadline - time.monotonic()))):
            if self._follower.lag() is None:
                raise _Abandoned("the run follows the source no longer")
            self._check_wanted()
            if time.monotonic() >= self._deadline:
                return False
        return True

    def _check_wanted(self) -> None:
        if self._cancel.level:
            raise _Abandoned("asked to end")

    def _compare(self, node: Node, stop: WriteStop, watch: StreamWatch, fence: SourceOffset) -> None:
        depth = self._options.check
        if depth == "none":
            return
        self._enter("check", f"comparing both sides ({depth})")

        def is_wanted() -> bool:
            return not self._cancel.level and time.monotonic() < self._deadline

        proven: set[bytes] = set()
        if self._compares_ahead:
            proven.update(self._follower.compare_at_fence(max(0.0, self._deadline - time.monotonic())))
        touched = watch.touched()[-MOST_COMPARED:] if self._compares_ahead else ()
        wanted = CheckRequest(
            depth,
            [key for key in touched if key not in proven],
            is_wanted,
            lambda keys, whole: self._follower.copy_again(keys, is_wanted, whole=whole),
        )
        checked = self._check(wanted)
        checked = self._found.checked = replace(checked, keys=checked.keys + len(proven))
        if checked.differences:
            self._prove(node, stop, watch, fence)  # writes that flow are the better reason
            named = ", ".join(shorten_key(key) for key in checked.examples)
            raise _Abandoned(
                f"{checked.differences:,} of {checked.keys:,} keys differ" + (f": {named}" if named else "")
            )
        self._check_deadline("the comparison")
        again = f"; {checked.copied_again:,} copied once more" if checked.copied_again else ""
        self._tell("check", "done", f"{checked.keys:,} keys compared, no difference{again}")

    def _check_deadline(self, what: str) -> None:
        self._check_wanted()
        if time.monotonic() >= self._deadline:
            raise _Abandoned(f"{what} took longer than {self._options.within:g} s")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Let the run write nothing while the application may be switched; go on where it stays."""
        try:
            self._wait_at_rest()
            yield
        except BaseException:
            self._follower.release()
            raise

    def _wait_at_rest(self) -> None:
        if not self._await(self._follower.hold):
            raise _Abandoned("what is under way to the target did not come to its end in time")

    def _run_command(self, words: list[str]) -> None:
        self._enter("run", f"running {show_command(words)}")
        try:
            run_command(words, self._facts(), self._deadline, lambda: not self._cancel.level)
        except CommandFailed as error:
            self._may_be_switched = error.may_be_switched
            raise _Abandoned(f"the command {words[0]} {error}") from None
        self._has_run = self._may_be_switched = True
        self._tell("run", "done", "the command has succeeded")

    def _facts(self) -> dict[str, str]:
        found, fence = self._found, self._found.fence
        facts: dict[str, Any] = {
            "FENCE": found.offset,
            "CUTOVER_JOB": self._records.job,
            "CUTOVER_REPLICATION_ID": "" if fence is None else fence.replication_id,
            "CUTOVER_ATTEMPT": found.attempt,
            "CUTOVER_CHECKED": found.checked.keys,
            "CUTOVER_DIFFERENCES": found.checked.differences,
        }
        return {f"SLOTFERRY_{name}": str(value) for name, value in facts.items()}

    def _prove(self, node: Node, stop: WriteStop, watch: StreamWatch, fence: SourceOffset) -> None:
        """Prove that nothing was written since the fence, and all before is there. Raises `_Abandoned`."""
        now = read_offset(node)
        self._prove_history(now)
        self._read_to(watch, now.offset)
        written = self._written(watch, now)
        if not written.is_complete or written.keys:
            named = ", ".join(shorten_key(key) for key in written.names)
            raise _Abandoned(f"{written.keys:,} keys were written since the fence: {named}")
        if stop.lapse:
            raise _Abandoned(stop.lapse)
        if not self._follower.wait_clean(fence.offset, 0.0):
            raise _Abandoned(
                "the target may have lost what was written to it, or the source is not followed now"
            )
        self._check_deadline("the write stop")

    def _record_go(self, stop: WriteStop) -> None:
        """From here on there is no way back."""
        found = self._found
        found.step = "go"
        self._records.end(found.attempt, "cut_over", "")
        found.is_gone = True
        found.warning = stop.keep()
        if found.stopped_at is not None:
            found.write_stop = time.monotonic() - found.stopped_at
            self._tell("go", "done", f"writes were stopped for {found.write_stop * 1000:,.0f} ms")

    def _written(self, watch: StreamWatch, now: SourceOffset | None) -> Written:
        """Return what was written since the fence; `now` tells what the source has deleted by itself."""
        fence = self._found.fence
        if fence is None:
            return Written()
        if now is None or now.replication_id != fence.replication_id:
            return watch.written(fence.offset)
        return watch.written(fence.offset, now.own_deletions - fence.own_deletions, now.offset)

    def _hold(self, watch: StreamWatch, node: Node) -> None:
        """Count what is written at the source until the hold is over. Ends early where that is asked for."""
        fence, until = self._found.fence, time.monotonic() + self._options.hold
        pause = threading.Event()
        reported = 0
        if fence is None or not self._options.hold:
            return
        self._tell("hold", "begun", f"writes at the source are counted for {self._options.hold:g} s")
        while time.monotonic() < until and not self._cancel.level and not watch.broken:
            pause.wait(max(0.0, min(_HOLD_TICK_SECONDS, until - time.monotonic())))
            if watch.written(fence.offset).keys <= reported:
                continue
            written = self._written(watch, try_to_read_offset(node))
            if written.keys > reported:
                reported = written.keys
                self._tell("hold", "failed", written.describe())

    def _look_once_more(self, watch: StreamWatch) -> None:
        """Count what waited for the end of the hold at the source and was written then."""
        found = self._found
        if found.fence is None:
            return
        with open_primary(self._follower.source) as node:
            now = read_offset(node)
        is_read = watch.wait(now.offset, _LAST_LOOK_SECONDS)
        written = self._written(watch, now)
        found.written = Written(written.keys, written.names, written.is_complete and is_read)
        self._tell("hold", "done", found.written.describe())

    def _enter(self, step: StepName, message: str) -> None:
        self._check_wanted()
        self._found.step = step
        self._records.enter(self._found.attempt, step, self._found.offset)
        self._tell(step, "begun", message)

    def _tell(self, step: StepName, state: Literal["begun", "done", "failed"], message: str) -> None:
        self._emit(CutoverStep(step, state, message, round(time.monotonic() - self._begun, 3)))


def refuse_unready(follower: HeldFollower, records: CutoverRecords) -> None:
    """Raise `RefusedError` for a job that copies still, or is cut over already."""
    job = records.job
    attempts = records.attempts()
    if any(attempt.outcome == "cut_over" for attempt in attempts):
        raise RefusedError(f"the job {job} is cut over already", hint="see 'slotferry jobs show'")
    if not follower.copied:
        raise RefusedError(
            f"the job {job} copies still", hint="cut over when 'slotferry jobs show' says that it follows"
        )
