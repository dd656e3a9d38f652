"""A pipelined RESP2 connection at little cost per command, for filling, comparing and measuring.

Invariant: replies come back in the order of their commands, one for each; an error reply is returned as a
`ServerError`, not raised, so that one refused command hides no other reply.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from slotferry.testing.servers import LocalServer

_RECEIVE = 1 << 18
_CHUNK_BYTES = 4 << 20


class ServerError(Exception):
    """An error reply, as the server worded it."""


def encode(*parts: bytes | str | int) -> bytes:
    """Return one command in RESP."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(pieces)


class RawConnection:
    """One connection to `host:port`, or to a Unix socket when `host` is a path and `port` is 0."""

    def __init__(self, host: str, port: int, *, password: str | None = None, timeout: float = 120) -> None:
        if port:
            self._socket = socket.create_connection((host, port), timeout=timeout)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            self._socket.connect(host)
        self._buffer = b""
        self._at = 0
        if password:
            self.execute("AUTH", password)

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def receive(self) -> bytes:
        """Return the next bytes as they come, unparsed; only for a caller that reads all replies so."""
        data = self._socket.recv(_RECEIVE)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def execute(self, *parts: bytes | str | int) -> Any:
        """Run one command; raise its `ServerError`."""
        (reply,) = self.pipeline([encode(*parts)])
        if isinstance(reply, ServerError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[bytes]) -> list[Any]:
        """Send encoded commands at once and return their replies; keep a call's replies within a few MB."""
        self.send(b"".join(commands))
        return [self._reply() for _ in commands]

    def pipeline_checked(self, commands: Sequence[bytes]) -> list[Any]:
        """Do as `pipeline` does, and raise the first `ServerError`."""
        replies = self.pipeline(commands)
        for reply in replies:
            if isinstance(reply, ServerError):
                raise reply
        return replies

    def _reply(self) -> Any:
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self._exactly(size)
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind == b"*":
            size = int(rest)
            return None if size < 0 else [self._reply() for _ in range(size)]
        if kind == b"-":
            return ServerError(rest.decode(errors="replace"))
        raise ConnectionError(f"the peer does not speak RESP: {line[:40]!r}")

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            self._fill()
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _exactly(self, size: int) -> bytes:
        missing = self._at + size + 2 - len(self._buffer)
        if missing > 0:
            self._fill(missing)
        value = self._buffer[self._at : self._at + size]
        self._at += size + 2
        return value

    def _fill(self, at_least: int = 1) -> None:
        pieces = [self._buffer[self._at :]]
        while at_least > 0:
            data = self.receive()
            at_least -= len(data)
            pieces.append(data)
        self._buffer = b"".join(pieces)
        self._at = 0


def connect(server: LocalServer) -> RawConnection:
    """Open a connection to an embedded server."""
    return RawConnection(server.host, server.port, password=server.password)


def chunked(commands: Iterable[bytes], *, size: int = 1000) -> Iterator[list[bytes]]:
    """Group commands into lists of at most `size` commands and about 4 MB."""
    chunk: list[bytes] = []
    held = 0
    for command in commands:
        chunk.append(command)
        held += len(command)
        if len(chunk) >= size or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk
