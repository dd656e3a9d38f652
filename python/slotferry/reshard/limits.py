"""What keeps a reshard from hurting: windows, limits and pauses, and the scheduler that enforces them.

Invariant: whoever waits at the scheduler waits for a reason that can be read from another thread. A reason
to stop is final; it ends every pause, so that what is in hand is finished and nothing stays open. A pause
that was asked for may take hours: it is made where nothing is open. For one of latency, work stops where it
is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from slotferry.errors import OptionError, SlotferryError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.hangup import reason_of
from slotferry.jobs.control.window import Window, find_zone
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.wire import Wire

DEFAULT_MAX_KEY = 100_000_000
_LOOK_SECONDS = 0.05  # between two looks at the latency
_FILE_SECONDS = 0.25  # between two looks at the pause file
_CALM_LOOKS = 4  # so many good looks in a row end a pause
_SHARE_OF_BOUND = 0.1  # of the latency bound: what one MIGRATE may take

State = Literal["connecting", "running", "paused", "waiting"]


@dataclass(frozen=True)
class Limits:
    """Limits that may differ from run to run. Times are seconds, `pause_above_latency` too.

    `windows` are texts like `01:00-05:00` in the time zone `tz` (None: the machine's). `max_key_bytes` is
    the largest key that MIGRATE may block both nodes for; a slot with a larger one stays where it is.
    """

    windows: tuple[str, ...] = ()
    tz: str | None = None
    max_duration: float | None = None
    pause_above_latency: float | None = None
    max_bytes_per_second: int | None = None
    pause_file: Path | None = None
    max_key_bytes: int = DEFAULT_MAX_KEY

    def __post_init__(self) -> None:
        self.parsed_windows()
        for name in ("max_duration", "pause_above_latency", "max_bytes_per_second"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise OptionError("{" + name + "} is not above 0", hint="leave it out for no limit")

    def parsed_windows(self) -> list[Window]:
        """Return the windows. Raises `UsageError`."""
        zone = find_zone(self.tz)
        return [Window.parse(text, zone) for text in self.windows]


@dataclass(frozen=True)
class Condition:
    """How a run is, with the reason where it does not go on as it could."""

    state: State = "running"
    reason: str = ""
    paused_by: str | None = None
    """`operator` or `latency` where it is paused."""


@dataclass(frozen=True)
class Closed:
    """Why nothing may be begun: `reason` in words, `until` when a window opens (seconds since 1970)."""

    reason: str
    until: float | None = None


class Scheduler:
    """Shared by the workers of one run: they pass it before each batch, and look for a reason to stop.

    It can be steered meanwhile (`controls.Steered`): `limits` has the limits as they are now.
    """

    def __init__(self, limits: Limits, cancel: CancelRequest, clock: Callable[[], float] = time.time) -> None:
        self.limits = limits
        self._cancel = cancel
        self._clock = clock
        self._windows = limits.parsed_windows()
        self._begun = time.monotonic()
        self._closes: float | None = None
        self._tokens = 0.0
        self._filled = time.monotonic()
        self._lock = threading.Lock()
        self._unbroken = threading.Lock()
        self._slow = ""
        self.others = ""
        """What another tool is seen to do with slots; empty where none is at work."""
        self._waits: dict[int, Condition] = {}
        self._next_file_look = 0.0
        self._paused_by_file = False
        self._paused_since: float | None = None
        self._limits_changed = False

    @property
    def condition(self) -> Condition:
        """How those fare who are at work."""
        with self._lock:
            wait = next(iter(self._waits.values()), Condition())
        if (closed := self.closed()) is not None:
            end = closed.reason
        elif asked := self._pause_asked_for():
            end = f"paused {asked}"
        elif self.others:
            end = self.others
        else:
            return wait
        return replace(
            wait, reason="; ".join(filter(None, [f"finishing the slots in hand: {end}", wait.reason]))
        )

    @property
    def is_limited(self) -> bool:
        """Whether one may have to wait for a turn."""
        return self.limits.max_bytes_per_second is not None or self.limits.pause_above_latency is not None

    def pause(self) -> None:
        """Begin with no further slot, until `resume`."""
        self._paused_since = time.monotonic()

    def resume(self) -> None:
        """Go on."""
        self._paused_since = None

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        """Limit what is moved in a second from now on; a limit of keys there is none."""
        del max_keys_per_second
        with self._lock:
            self.limits = replace(self.limits, max_bytes_per_second=max_bytes_per_second)
            self._tokens, self._filled = 0.0, time.monotonic()
            self._limits_changed = True

    @property
    def batch_seconds(self) -> float | None:
        """How long one MIGRATE should block at most; None where there is no bound."""
        bound = self.limits.pause_above_latency
        return None if bound is None else bound * _SHARE_OF_BOUND

    @property
    def holds(self) -> bool:
        """Whether no slot may be begun now: it is time to stop, to pause, or to look at changed limits."""
        return (
            self._limits_changed
            or bool(self.others)
            or bool(self._pause_asked_for())
            or self.closed() is not None
        )

    def held(self) -> Iterator[Condition]:
        """Yield how the run is, for as long as `holds` is true for another reason than one to stop.

        To be asked for when nothing is open.
        """
        self._limits_changed = False
        while self.closed() is None:
            if reason := self._pause_asked_for():
                condition = Condition("paused", reason, "operator")
            elif self.others:
                condition = Condition("waiting", self.others)
            else:
                break
            self.check_abandoned()
            yield condition

    def closed(self) -> Closed | None:
        """Return why no further slot may be begun; None where it may."""
        if self._cancel.level:
            return Closed("interrupted")
        limit = self.limits.max_duration
        if limit is not None and time.monotonic() - self._begun >= limit:
            return Closed("the time of --max-duration is over")
        return self._closed_window()

    def _closed_window(self) -> Closed | None:
        if not self._windows:
            return None
        now = self._clock()
        if self._closes is not None and now < self._closes:
            return None
        instant = datetime.fromtimestamp(now, timezone.utc)
        opens, closes = min(window.opening(instant) for window in self._windows)
        if opens.timestamp() <= now:
            self._closes = closes.timestamp()
            return None
        shown = opens.astimezone(self._windows[0].zone).isoformat(timespec="seconds")
        return Closed(f"the window is closed; it opens at {shown}", opens.timestamp())

    def wait_turn(self, size: int) -> None:
        """Wait until a batch of `size` bytes may go. A reason to stop ends every pause but the rate's."""
        while (slow := self._slow) and not self.closed():
            self._wait(Condition("paused", slow, "latency"), _LOOK_SECONDS)
        while (missing := self._take(size)) > 0:
            self._wait(Condition("running", "limited by max-bytes-per-second"), min(missing, 0.1))

    def pay(self, size: int) -> None:
        """Take `size` bytes that have gone already out of the budget: whoever comes next waits for it."""
        if self.limits.max_bytes_per_second is not None:
            with self._lock:
                self._tokens -= size

    def nap(self, seconds: float, reason: str) -> None:
        """Wait, and let it be seen why. An immediate cancel ends it."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._wait(Condition("waiting", reason) if reason else Condition(), min(left, 0.1))

    def report_latency(self, slow: str) -> None:
        """Take what the latency watch says: why to pause, or an empty text."""
        self._slow = slow

    def _pause_asked_for(self) -> str:
        """Return by what a pause was asked for; empty where it was not."""
        if (since := self._paused_since) is not None:
            return f"by the operator, {time.monotonic() - since:.0f} s"
        if self.limits.pause_file is not None:
            if time.monotonic() >= self._next_file_look:
                self._next_file_look = time.monotonic() + _FILE_SECONDS
                self._paused_by_file = self.limits.pause_file.exists()
            if self._paused_by_file:
                return f"by the file {self.limits.pause_file}"
        return ""

    def _take(self, size: int) -> float:
        """Take `size` bytes out of the budget; return how long to wait for it, 0 where it was taken."""
        rate = self.limits.max_bytes_per_second
        if rate is None:
            return 0.0
        with self._lock:
            now = time.monotonic()
            # A tenth of a second may be saved up, so that a pause is not made good by a burst.
            self._tokens = min(self._tokens + (now - self._filled) * rate, rate / 10)
            self._filled = now
            if self._tokens <= 0:
                return -self._tokens / rate + 0.001
            self._tokens -= size  # below 0: a batch larger than the budget is paid off afterwards
            return 0.0

    def _wait(self, condition: Condition, seconds: float) -> None:
        self.check_abandoned()
        me = threading.get_ident()
        with self._lock:
            self._waits[me] = condition
        try:
            time.sleep(seconds)
        finally:
            with self._lock:
                del self._waits[me]

    @property
    def abandoned(self) -> bool:
        """Whether the run is to end at once."""
        return self._cancel.level > 1

    @contextmanager
    def unbroken(self) -> Iterator[None]:
        """Let what is begun within come to its end, where the run is to end at once too."""
        with self._unbroken:
            yield

    def hang_up(self, connector: Connector) -> None:
        """Hang up what is open, unless that would break off what is to come to its end."""
        if self._unbroken.acquire(blocking=False):
            try:
                connector.hang_up()
            finally:
                self._unbroken.release()

    def reason_of(self, error: SlotferryError) -> SlotferryError:
        """Return what a run ends with that met `error`: who is hung up on is not lost."""
        return reason_of(error, self._cancel)

    def check_abandoned(self) -> None:
        """Raise `MigrationInterrupted` where the run is to end at once, whatever is open."""
        if self.abandoned:
            raise self._cancel.error()


class LatencyWatch:
    """Measures PING on each node in a thread of its own, and closes the scheduler while one is slow."""

    def __init__(self, connector: Connector, scheduler: Scheduler, addresses: Sequence[Address]) -> None:
        self._connector = connector
        self._scheduler = scheduler
        self._addresses = list(addresses)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-latency", daemon=True)

    def __enter__(self) -> LatencyWatch:
        if self._scheduler.limits.pause_above_latency is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        wires: dict[Address, Wire] = {}
        calm = 0
        while not self._ended.wait(_LOOK_SECONDS):
            slow = self._look(wires)
            calm = 0 if slow else calm + 1
            if slow or calm >= _CALM_LOOKS:
                self._scheduler.report_latency(slow)
        for wire in wires.values():
            wire.close()

    def _look(self, wires: dict[Address, Wire]) -> str:
        bound = self._scheduler.limits.pause_above_latency or 0.0
        for address in self._addresses:
            begun = time.perf_counter()
            try:
                if address not in wires:
                    wires[address] = Wire(self._connector, address)
                    begun = time.perf_counter()
                wires[address].call("PING")
            except SlotferryError:
                # A node that is gone is the movers' to notice; it is no reason to pause.
                if (broken := wires.pop(address, None)) is not None:
                    broken.close()
                continue
            took = time.perf_counter() - begun
            if took > bound:
                return f"{address} answers in {took * 1000:.0f} ms, bound {bound * 1000:g} ms"
        return ""
