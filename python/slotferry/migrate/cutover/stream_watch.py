"""Reads the source's stream beside the engine, to name what was written: before the fence and after it.

Invariant: it never costs the source a snapshot: where the stream can't be gone on with, it hangs up. What is
kept is bounded, and `Written.is_complete` says whether anything was left out.
"""

from __future__ import annotations

import re
import threading
import time
from types import TracebackType

from slotferry._core import EngineError, stream_keys
from slotferry.errors import SlotferryError, SourceLostError, SourceNotReadyError
from slotferry.migrate.cutover.source import open_primary
from slotferry.model.cutover import Written
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import CONNECT_TIMEOUT, Link, encode

MOST_KEYS = 100_000
_MOST_BUFFER = 64 << 20
_MOST_TABLE = 32 << 20
_SHOWN = 10
_RECEIVE = 1 << 18
_ACK_SECONDS = 1.0
_TICK_SECONDS = 0.02
Position = tuple[str, int, int]
"""Replication id, offset, database selected there."""

_CHANGES = ("flushed", "swapped", "functions", "unknown")
_NEVER = -1
_DELETION = re.compile(rb"\s*\*\d+\r\n\$\d+\r\n(?:del|unlink|hdel)\r\n", re.IGNORECASE)
"""How the stream tells of what has expired or was evicted, and of what a client deletes."""


def choose_start(source: Connector, earlier: Position | None, now: Position) -> Position:
    """Return from where to read: `earlier`, where the source's backlog surely reaches back to it, else `now`.

    Raises `SlotferryError`.
    """
    if earlier is None or earlier[0] != now[0] or earlier[1] >= now[1]:
        return now
    with open_primary(source) as node:
        info = node.info("replication")
    first = replies.number_of(info, "repl_backlog_first_byte_offset")
    size = replies.number_of(info, "repl_backlog_size")
    is_known = info.get("repl_backlog_active") == "1" and info.get("master_replid") == now[0]
    # While this is read, the application writes on: a quarter may be dropped, less what is not filled yet.
    dropped = max(0, size // 4 - (size - replies.number_of(info, "repl_backlog_histlen")))
    return earlier if is_known and earlier[1] > first + dropped else now


class StreamWatch:
    """Reads from `with` to its end, in a thread, from `position` on (replication id, offset, database)."""

    def __init__(self, source: Connector, position: Position, own: int) -> None:
        """Take where to read, and the number of the database of which keys are named."""
        self._source = source
        self._own = own
        self._id, self._offset, self._database = position
        self._link: Link | None = None
        self._commands = b""
        self._buffer = bytearray()
        self._names: dict[bytes, tuple[int, int]] = {}
        """Where each key was touched last, and where by something that no source does by itself."""
        self._dropped = 0
        """Up to which offset names were left out."""
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="slotferry-stream-watch", daemon=True)
        self.broken = ""
        """Why it reads no longer; empty while it does."""

    def __enter__(self) -> StreamWatch:
        """Attach. Raises `SlotferryError` where the source does not go on with the stream from there."""
        with open_primary(self._source) as node:
            address = None if self._source.endpoint.path else node.address
        self._link = self._source.dial(address)
        try:
            self._attach(self._link)
        except OSError as error:
            self._link.close()
            raise SourceLostError(f"the source {self._link.name} is lost: {error}") from None
        except BaseException:
            self._link.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._link is not None:
            self._link.hang_up()
            self._thread.join()
            self._link.close()

    def wait(self, offset: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds until the stream is read up to `offset`; return whether it is."""
        with self._changed:
            return (
                self._changed.wait_for(lambda: self._offset >= offset or bool(self.broken), timeout)
                and self._offset >= offset
            )

    def touched(self) -> list[bytes]:
        """Return the keys that were touched, the last `MOST_KEYS` of them."""
        with self._changed:
            return list(self._names)

    def written(self, offset: int, own_deletions: int = 0, until: int | None = None) -> Written:
        """Return what was written behind `offset`; commands that change no single key count by their name.

        So many keys that were only deleted up to `until` are the source's own deletions, and no writes.
        """
        with self._changed:
            written, deleted = [], []
            for name, (at, changed) in self._names.items():
                if changed >= offset:
                    written.append(name)
                elif at >= offset and (until is None or at < until):
                    deleted.append(name)
            whole = not self.broken and self._dropped <= offset
        more = max(0, len(deleted) - max(0, own_deletions))
        names = (*written, *(deleted if more else ()))[:_SHOWN]
        return Written(len(written) + more, names, whole)

    def _attach(self, link: Link) -> None:
        connection = link.connection
        connection.settimeout(CONNECT_TIMEOUT)
        connection.sendall(encode("COMMAND") + encode("PING"))
        while not self._buffer.endswith(b"+PONG\r\n"):
            self._receive(_MOST_TABLE)
        self._commands = bytes(self._buffer[: -len(b"+PONG\r\n")])
        self._buffer.clear()
        if self._commands.startswith(b"-"):
            raise self._not_ready(link, "COMMAND", self._commands)
        for command in (("listening-port", 0), ("capa", "eof", "capa", "psync2")):
            connection.sendall(encode("REPLCONF", *command))
            line = self._line()
            if line.startswith(b"-NOPERM"):
                raise self._not_ready(link, "REPLCONF", line)
        connection.sendall(encode("PSYNC", self._id, self._offset + 1))
        line = self._line()
        if not line.startswith(b"+CONTINUE"):
            raise self._not_ready(link, "to go on with its stream", line)
        connection.sendall(encode("REPLCONF", "ACK", self._offset))

    def _not_ready(self, link: Link, what: str, line: bytes) -> SourceNotReadyError:
        said = line[:200].decode("utf-8", "replace").strip()
        return SourceNotReadyError(
            f"the source {link.name} refuses {what}: {said}",
            hint="the cut-over reads its stream: it takes +psync +replconf +ping +command, and a backlog",
        )

    def _receive(self, most: int) -> None:
        if self._link is None:
            raise SourceLostError("the stream watch is not attached")
        data = self._link.connection.recv(_RECEIVE)
        if not data:
            raise SourceLostError(f"the source {self._link.name} ended the connection")
        if len(self._buffer) + len(data) > most:
            raise SourceNotReadyError(
                f"the source {self._link.name} sends more than {most:,} bytes in one piece"
            )
        self._buffer += data

    def _line(self) -> bytes:
        """Return the next line that is not empty: the source sends empty ones while it prepares."""
        deadline = time.monotonic() + CONNECT_TIMEOUT
        while True:
            head, newline, rest = self._buffer.partition(b"\n")
            if newline:
                self._buffer = bytearray(rest)
                if head.strip():
                    return bytes(head.strip())
                continue
            if time.monotonic() > deadline:
                raise TimeoutError("no answer to the replication handshake")
            self._receive(_MOST_BUFFER)

    def _run(self) -> None:
        try:
            self._read()
        except (SlotferryError, OSError, EngineError) as error:
            text = error.args[-1] if isinstance(error, EngineError) else error
            if not self._ended.is_set():
                self._break(f"the source's stream can't be read: {text}")

    def _break(self, why: str) -> None:
        with self._changed:
            self.broken = why
            self._changed.notify_all()

    def _read(self) -> None:
        if self._link is None:
            return
        self._link.connection.settimeout(_TICK_SECONDS)
        next_ack, needed = 0.0, 0
        while not self._ended.is_set():
            is_idle = False
            try:
                self._receive(_MOST_BUFFER)
            except TimeoutError:
                is_idle = True
            # A command that is not whole yet is not parsed again and again while it grows.
            if self._buffer and (is_idle or len(self._buffer) >= needed):
                needed = 0 if self._take() else 2 * len(self._buffer)
            if time.monotonic() >= next_ack:
                next_ack = time.monotonic() + _ACK_SECONDS
                self._link.connection.sendall(encode("REPLCONF", "ACK", self._offset))

    def _take(self) -> int:
        """Take in the whole commands that are there; return how many bytes that were."""
        keys, effects, used, selected = stream_keys(self._commands, bytes(self._buffer), self._database)
        start = self._offset
        with self._changed:
            for at, database, name in keys:
                if database == self._own:
                    is_deletion = _DELETION.match(self._buffer, at) is not None
                    self._note(name, start + at, is_deletion=is_deletion)
            for at, what, name in effects:
                if what in _CHANGES:
                    self._note(name or what.encode(), start + at)
            self._offset, self._database = start + used, selected
            self._changed.notify_all()
        del self._buffer[:used]
        return used

    def _note(self, name: bytes, at: int, *, is_deletion: bool = False) -> None:
        _, changed = self._names.pop(name, (at, _NEVER))
        self._names[name] = at, changed if is_deletion else at
        if len(self._names) > MOST_KEYS:
            oldest = next(iter(self._names))
            self._dropped = max(self._dropped, self._names.pop(oldest)[0])
