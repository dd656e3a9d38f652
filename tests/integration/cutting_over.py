"""What the tests of the cut-over share: a run that follows, as a cut-over knows it, and writers under load.

Invariant: the engine is driven by its border, the source by real clients; the session has no part in it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from redis.exceptions import RedisError

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.migrate.cutover.border import CheckRequest
from slotferry.migrate.cutover.machine import Cutover
from slotferry.model.cutover import Checked, CutoverOptions, CutoverReport, CutoverStep
from slotferry.model.follow import Lag
from slotferry.model.notices import Event
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.testing.servers import LocalServer, wait_until
from tests.integration.following import Following

JOB = "nightly"


class HarnessFollower:
    """The harness's job as a follower; what the driver would see to, nobody does here."""

    job = JOB
    database = 0

    def __init__(self, following: Following, source: LocalServer, *, copied: bool = True) -> None:
        self._following = following
        self.source = connector(source)
        self.copied = copied
        self.most_clean: int | None = None
        """Above this offset, nothing gets clean."""
        self.lag_seconds: float | None = None
        """How far behind it says it is, where that is not what the engine says."""

    def lag(self) -> Lag | None:
        progress = self._following.job.snapshot().follow
        if progress is None or self._following.job.wait(0):
            return None
        seconds = progress.lag_seconds if self.lag_seconds is None else self.lag_seconds
        return Lag(progress.lag_bytes, seconds, progress.connected, progress.in_doubt)

    def position(self) -> tuple[str, int, int] | None:
        progress = self._following.job.snapshot().follow
        return None if progress is None or self._following.job.wait(0) else progress.mark

    def wait_clean(self, offset: int, timeout: float) -> bool:
        if self.most_clean is not None and offset > self.most_clean:
            return False
        return self._following.job.wait_clean(offset, timeout)

    def earlier_position(self) -> tuple[str, int, int] | None:
        return self.position()

    def hold(self, timeout: float) -> bool:
        self._following.job.pause()
        progress = self._following.job.snapshot().follow
        return progress is not None and progress.at_rest

    def release(self) -> None:
        self._following.job.resume()

    def compare_ahead(self) -> int:
        return self._following.job.compare_ahead()

    def compare_at_fence(self, timeout: float) -> Sequence[bytes]:
        return self._following.job.compare_at_fence(timeout)

    def copy_again(self, keys: Sequence[bytes], is_wanted: Callable[[], bool], *, whole: bool) -> bool:
        raise AssertionError("no check of these tests asks for it")

    def finish(self, offset: int) -> None:
        self._following.job.finish_following(offset)


@dataclass
class Attempted:
    """A cut-over that goes on in a thread, with what it told."""

    cutover: Cutover
    follower: HarnessFollower
    cancel: CancelRequest
    steps: list[CutoverStep]
    report: CutoverReport | None = None
    raised: list[BaseException] = field(default_factory=list)
    thread: threading.Thread | None = None

    def begin(self) -> Attempted:
        """Begin it in a thread."""
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def _run(self) -> None:
        try:
            self.report = self.cutover.perform()
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            self.raised.append(error)

    def wait_for(self, step: str, state: str = "begun") -> None:
        """Wait until it has told of this step."""
        wait_until(
            lambda: any((told.step, told.state) == (step, state) for told in self.steps) or self.ended,
            f"no step {step} {state}",
        )
        if self.raised:
            raise self.raised[0]
        told = [(told.step, told.state) for told in self.steps]
        assert (step, state) in told, self.steps

    @property
    def ended(self) -> bool:
        return self.report is not None or bool(self.raised)

    def result(self) -> CutoverReport:
        """Wait for the end."""
        assert self.thread is not None
        self.thread.join(60)
        if self.raised:
            raise self.raised[0]
        assert self.report is not None
        return self.report


def connector(server: LocalServer) -> Connector:
    """Return how a source is reached."""
    return Connector(Endpoint.parse(server.url, "source"), "source")


def make_records(journal: Path) -> CutoverRecords:
    """Return the records of a job that the journal has."""
    with Journal.open(journal) as opened:
        if not opened.has(JOB):
            opened.create(JOB, Setup("redis://a", "redis://b", None, None, "replace"), 1, "0" * 40, [0])
    return CutoverRecords(journal, JOB)


def compare_nothing(request: CheckRequest) -> Checked:
    """Find every key equal, without a look."""
    return Checked(len(request.touched), 0)


def attempt(
    follower: HarnessFollower, journal: Path, check: Any = compare_nothing, **options: Any
) -> Attempted:
    """Return a cut-over that has yet to begin."""
    cancel, steps = CancelRequest(), []

    def emit(event: Event) -> None:
        assert isinstance(event, CutoverStep)
        steps.append(event)

    chosen = CutoverOptions(**{"hold": 0.0, "within": 30.0, **options})
    cutover = Cutover(follower, chosen, make_records(journal), check, emit, cancel)
    return Attempted(cutover, follower, cancel, steps)


class Load:
    """Increments counters and writes hashes in pipelines, in a thread, as fast as the source takes them.

    `counts` has what was acknowledged; `unsure` whether the last pipeline had no answer. A write that is
    refused (NOREPLICAS) is not counted and is tried again, as an application does.
    """

    def __init__(self, server: LocalServer, *, counters: int = 20) -> None:
        self._client = server.client(socket_timeout=30)
        self._counters = counters
        self.counts = dict.fromkeys((f"counter:{number}" for number in range(counters)), 0)
        self.acknowledged = 0
        self.refused = 0
        self.failed: RedisError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Write no more; waits for what is under way, which a paused source answers when it goes on."""
        self._stop.set()
        self._thread.join()
        self._client.close()
        if self.failed is not None:
            raise self.failed

    def wait_more(self, writes: int) -> None:
        """Wait until so many more writes are acknowledged."""
        until = self.acknowledged + writes
        wait_until(
            lambda: self.acknowledged >= until or self.failed is not None, "the load stands still", timeout=60
        )

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            with self._client.pipeline(transaction=False) as pipe:
                for name in self.counts:
                    pipe.incr(name)
                    pipe.hset(f"hash:{name}:{number % 50}", "field", number)
                try:
                    replies = pipe.execute(raise_on_error=False)
                except RedisError as error:
                    self.failed = error
                    return
            for name, reply in zip(self.counts, replies[::2], strict=True):
                if isinstance(reply, int):
                    self.counts[name] += 1
                    self.acknowledged += 1
                else:
                    self.refused += 1
            self.acknowledged += sum(isinstance(reply, int) for reply in replies[1::2])


def takes_writes(server: LocalServer) -> bool:
    """Whether a write is answered at once: it is neither held nor refused."""
    with server.client(socket_timeout=1) as client:
        try:
            client.set("probe:writes", time.time_ns())
        except RedisError:
            return False
    return True


def start_killable(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `cutover_process` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.cutover_process", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
