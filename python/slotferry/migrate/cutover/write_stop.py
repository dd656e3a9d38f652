"""Ways to stop the writes at the source, each of which ends by itself or is undone.

Invariant: whoever leaves a write stop without `keep` leaves a source that takes writes. A pause that nobody
renews ends within `PAUSE_SECONDS`; a changed setting is in the journal before it is changed. A stop that may
have had a gap says so in `lapse`.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from slotferry.errors import SlotferryError, SourceNotReadyError
from slotferry.jobs.journal.cutovers import ChangedSetting, CutoverRecords
from slotferry.migrate.cutover.settings import put_back, read_setting, write_setting
from slotferry.migrate.cutover.source import open_primary
from slotferry.model.cutover import StopWrites
from slotferry.net.connector import Connector
from slotferry.net.replies import ResponseError

if TYPE_CHECKING:
    from slotferry.net.node import Node

PAUSE_SECONDS = 2.0
"""How long the source stays paused after a `kill -9`, at most."""
_RENEW_SECONDS = 0.4
_COUNT, _AGE = "min-replicas-to-write", "min-replicas-max-lag"
_UNREACHED = "2147483647"
_SOME_AGE = "10"  # seconds, the servers' default; with 0 the count is not looked at


class WriteStop(Protocol):
    """Writes are stopped from `with` to its end, or longer where `keep` was called."""

    @property
    def lapse(self) -> str:
        """Why writes may have flowed meanwhile; empty while they can't have."""

    def __enter__(self) -> WriteStop:
        """Stop the writes. Raises `SlotferryError`, with writes flowing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let writes flow. Raises `SlotferryError` where that is not certain."""

    def keep(self) -> str:
        """Let the stop outlast the end where it can; return what the operator has to know of it."""


def make_write_stop(kind: StopWrites, source: Connector, records: CutoverRecords) -> WriteStop:
    """Return the write stop of that kind; nothing is stopped yet."""
    if kind == "pause":
        return PausedWrites(source)
    return RefusedWrites(source, records) if kind == "refuse" else NoWrites()


class NoWrites:
    """The operator has stopped the writers; whether that is so is checked with the source's stream."""

    @property
    def lapse(self) -> str:
        """Writes that flow are seen in the source's stream."""
        return ""

    def __enter__(self) -> NoWrites:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def keep(self) -> str:
        """Keep nothing."""
        return ""


class PausedWrites:
    """`CLIENT PAUSE … WRITE`, renewed by a thread with a connection of its own."""

    def __init__(self, source: Connector) -> None:
        self._source = source
        self._node: Node | None = None
        self._until = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="slotferry-pause", daemon=True)
        self._lapse = ""

    @property
    def lapse(self) -> str:
        """Why the pause may have had a gap, by what was acknowledged in time."""
        if not self._lapse and self._until and time.monotonic() > self._until:
            return "the pause of the source was not renewed in time, so writes may have flowed"
        return self._lapse

    def __enter__(self) -> PausedWrites:
        try:
            self._pause()
        except BaseException:
            if self._node is not None:
                self._node.link.close()  # a pause that was sent ends by itself
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._node is not None:
            try:
                self._node.need("CLIENT", "UNPAUSE")
            except SlotferryError:
                pass  # nobody renews it: it ends by itself within PAUSE_SECONDS
            finally:
                self._node.link.close()

    def keep(self) -> str:
        """Keep nothing: a pause is renewed as long as this is not left, and ends then."""
        return ""

    def _pause(self) -> None:
        """Pause once more; the server counts from when it has the command, which is after `sent`."""
        if self._node is None:
            self._node = open_primary(self._source)
        sent = time.monotonic()
        try:
            self._node.call("CLIENT", "PAUSE", int(PAUSE_SECONDS * 1000), "WRITE")
        except ResponseError as error:
            raise SourceNotReadyError(
                f"the source {self._node.name} does not pause its clients' writes: {error}",
                hint="allow +client|pause and +client|unpause (Redis 6.2 on), or stop writes with 'refuse'",
            ) from None
        now = time.monotonic()
        if self._until and now > self._until:
            self._lapse = "the pause of the source was renewed too late, so writes may have flowed"
        self._until = sent + PAUSE_SECONDS

    def _renew(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            try:
                self._pause()
            except SlotferryError as error:  # noqa: PERF203 - once a renewal
                if time.monotonic() > self._until:
                    self._lapse = f"the pause of the source can't be renewed: {error}"
                    return


class RefusedWrites:
    """`min-replicas-to-write` above what there can be: writes get NOREPLICAS until it is put back."""

    def __init__(self, source: Connector, records: CutoverRecords) -> None:
        self._source = source
        self._records = records
        self._keeps = False

    @property
    def lapse(self) -> str:
        """A setting stays as it is; who changes it meanwhile is seen in the source's stream."""
        return ""

    def __enter__(self) -> RefusedWrites:
        try:
            with open_primary(self._source) as node:
                if read_setting(node, _AGE) == "0":
                    self._change(node, _AGE, _SOME_AGE)
                self._change(node, _COUNT, _UNREACHED)
        except BaseException:
            put_back(self._source, self._records)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._keeps:
            put_back(self._source, self._records)

    def keep(self) -> str:
        """Let writes at the source stay refused."""
        self._keeps = True
        return (
            f"the source refuses writes until 'slotferry cutover {self._records.job} --undo' puts its "
            f"{_COUNT} back"
        )

    def _change(self, node: Node, name: str, value: str) -> None:
        setting = ChangedSetting(node.name, name, read_setting(node, name), value)
        self._records.remember(setting)
        write_setting(node, name, value)
