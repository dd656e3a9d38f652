r"""MONITOR: how its lines read, and how to follow it without harm to the server.

Invariant: what comes is taken off the socket at once, whatever becomes of it: a MONITOR that is read slowly
grows the server's memory. What can't be parsed in time is dropped and counted.

A line is `1339518083.107412 [0 127.0.0.1:60866] "get" "a \"key\""`: time, database, client (or `lua`), and
the arguments as `sdscatrepr` quotes them.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from slotferry.errors import SlotferryError
from slotferry.net.node import Node
from slotferry.preflight.application.tools import is_tool

_HEAD = re.compile(rb'\+?\d+\.\d+ \[(\d+) (.*?)\] (?=")')
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_NAMED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}

_MAX_LINE = 16 << 20
_MAX_BACKLOG = 16 << 20

SCRIPT_CLIENTS = frozenset({b"lua", b"script"})


@dataclass(frozen=True)
class Observed:
    """One command that a server ran: by whom, in which database."""

    client: bytes
    database: int
    arguments: tuple[bytes, ...]

    @property
    def by_script(self) -> bool:
        """Whether a script ran it, not a client."""
        return self.client in SCRIPT_CLIENTS


def parse_line(line: bytes) -> Observed | None:
    """Return the command of a MONITOR line; None where it is no such line."""
    head = _HEAD.match(line)
    if head is None:
        return None
    arguments = split_arguments(line[head.end() :])
    return Observed(head[2], int(head[1]), arguments) if arguments else None


def split_arguments(text: bytes) -> tuple[bytes, ...]:
    """Return the arguments that `text` quotes, unescaped; none where it is not well-formed.

    Valkey 8.1 does not escape quotes and backslashes (*seen*): there an argument ends where the next seems
    to begin.
    """
    text = text.rstrip(b"\r\n")
    if len(text) < 2 or not text[:1] == text[-1:] == b'"':
        return ()
    if b"\\" not in text:
        return tuple(text[1:-1].split(b'" "'))
    parts = _QUOTED.findall(text)
    if sum(map(len, parts)) + 3 * len(parts) - 1 != len(text):
        parts = text[1:-1].split(b'" "')
    return tuple(_ESCAPE.sub(_unescape, part) if b"\\" in part else part for part in parts)


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    if len(code) == 3:
        return bytes([int(code[1:], 16)])
    return _NAMED.get(code, code)


class LineSplitter:
    """Cuts a stream of chunks into lines; one beyond `_MAX_LINE` is dropped, not kept."""

    def __init__(self, *, amid_line: bool = False) -> None:
        self._rest: list[bytes] = []
        self._held = 0
        self._dropping = amid_line

    def split(self, chunk: bytes) -> list[bytes]:
        """Return the lines that end in this chunk."""
        head, newline, tail = chunk.partition(b"\n")
        if not newline:
            self._keep(head)
            return []
        lines = [] if self._dropping else [b"".join((*self._rest, head))]
        self._rest, self._held, self._dropping = [], 0, False
        *whole, rest = tail.split(b"\n")
        self._keep(rest)
        return lines + whole

    def _keep(self, part: bytes) -> None:
        self._held += len(part)
        if self._held > _MAX_LINE:
            self._rest, self._dropping = [], True
        elif part and not self._dropping:
            self._rest.append(part)


class OwnClients:
    """Tells commands of Slotferry and of Sentinels from the application's, by the names of their connections.

    listed: a CLIENT LIST, of connections that had their names before. A connection that is named so later
    says it in MONITOR itself. Over a Unix socket all clients look alike: there nothing is left out.
    """

    def __init__(self, listed: str = "") -> None:
        self._known: set[bytes] = set()
        self.add(listed)

    def add(self, listed: str) -> None:
        """Take over those of a later CLIENT LIST as well."""
        for line in listed.splitlines():
            fields = dict(part.partition("=")[::2] for part in line.split())
            if is_tool(fields.get("name", "").encode()):
                self._known.add(fields.get("addr", "").encode())

    def sent(self, observed: Observed) -> bool:
        """Whether it was one of these that sent this; to be asked about every command, in order."""
        name, *rest = observed.arguments
        if name.lower() == b"client" and len(rest) == 2 and rest[0].lower() == b"setname":
            if is_tool(rest[1]):
                self._known.add(observed.client)
            else:
                self._known.discard(observed.client)
        return observed.client in self._known


class MonitorRefusedError(Exception):
    """The server refuses MONITOR; the text is its own."""


class Watch:
    """Follows MONITOR on `node` for some seconds; iterate over it once."""

    def __init__(self, node: Node, seconds: float, ends: Callable[[], bool] = lambda: False) -> None:
        """Take also what says whether it is to end before: it is asked twice a second at least."""
        self._node = node
        self._ends = ends
        self._seconds = seconds
        self._chunks: deque[bytes] = deque()
        self._backlog = 0
        self._news = threading.Condition()
        self._ended = False
        self._failure: SlotferryError | None = None
        self.gaps = 0
        """How often something was dropped because it came faster than it could be looked at."""
        self.unreadable = 0
        self.elapsed = 0.0

    def __iter__(self) -> Iterator[Observed | None]:
        """Yield what was observed, and None where commands are missing in between.

        Raises `MonitorRefusedError` where the server refuses it, `SourceLostError` where it goes away.
        """
        begun = time.monotonic()
        reader = threading.Thread(target=self._read, args=(begun,), name="slotferry-monitor", daemon=True)
        reader.start()
        splitter, greeted = LineSplitter(), False
        try:
            for chunk in self._arrived():
                if chunk is None:
                    splitter = LineSplitter(amid_line=True)
                    yield None
                    continue
                for line in splitter.split(chunk):
                    if not greeted:
                        greeted = True
                        if line.startswith(b"-"):
                            raise MonitorRefusedError(line[1:].decode("utf-8", "replace").strip())
                        continue
                    observed = parse_line(line)
                    if observed is None:
                        self.unreadable += 1
                    else:
                        yield observed
        finally:
            self._ended = True
            reader.join()
            self.elapsed = time.monotonic() - begun
        if self._failure is not None:
            raise self._failure

    def _read(self, begun: float) -> None:
        dropping = False
        try:
            for chunk in self._node.feed("MONITOR"):
                with self._news:
                    if self._ended or self._ends() or time.monotonic() - begun >= self._seconds:
                        break
                    if not chunk:
                        continue
                    if self._backlog + len(chunk) > _MAX_BACKLOG:
                        dropping = True
                        continue
                    if dropping:
                        dropping = False
                        self._chunks.append(b"")  # an empty one marks the gap
                    self._chunks.append(chunk)
                    self._backlog += len(chunk)
                    self._news.notify()
        except SlotferryError as failure:
            self._failure = failure
        with self._news:
            self._ended = True
            self._news.notify()

    def _arrived(self) -> Iterator[bytes | None]:
        while True:
            with self._news:
                while not self._chunks and not self._ended:
                    self._news.wait()
                if not self._chunks:
                    return
                chunk = self._chunks.popleft()
                self._backlog -= len(chunk)
            if chunk:
                yield chunk
            else:
                self.gaps += 1
                yield None


def read_log(lines: Iterable[bytes]) -> Iterator[Observed | bytes]:
    """Yield the commands of a MONITOR that was recorded by redis-cli; lines that are none as bytes."""
    for line in lines:
        stripped = line.strip()
        if not stripped or stripped in (b"OK", b"+OK"):
            continue
        yield parse_line(stripped) or stripped
