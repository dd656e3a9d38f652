"""What servers answer, read and taken apart: one reader, and one parser for each reply that is made use of.

Invariant: a reply is input like any other. It is bounded in size, depth, number of elements and time, and
what a parser returns is what it says it is; whatever else comes is a `MalformedReplyError` that says what is
wrong, never another exception. Sources: the RESP2 specification; INFO, CLUSTER SLOTS and the Sentinels'
replies as the servers' documentation has them (docs/protocol.md).
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slotferry._core import SLOTS
from slotferry.text import slots_in

MOST_BYTES = 32 << 20
MOST_ELEMENTS = 1 << 20
MOST_DEPTH = 16
MOST_LINE = 64 << 10
"""No server sends more: a COMMAND is 5 levels deep, a CLUSTER SLOTS of single slots has 7 MB."""
MOST_ERROR = 300
"""Characters of a server's error that are kept: enough for any that a server words itself."""

_MOST_LISTING = 1 << 30
_MOST_INFO = 4 << 20
_MOST_VALUE = 4096
_SLOWEST = 16 << 10  # bytes a second, beyond the time that a reply has anyway
_RECEIVE = 1 << 16
_INTEGER = re.compile(rb"-?[0-9]{1,19}")
_HIGHEST = (1 << 63) - 1
_HOST = re.compile(r"[\x21-\x7e]{1,255}")


class MalformedReplyError(ValueError):
    """A reply that its command does not give; the text says what is wrong with it, after `a reply`."""


class NotRespError(MalformedReplyError):
    """Bytes that are no RESP at all: the peer is another kind of server, or speaks TLS."""


class ResponseError(Exception):
    """An error reply to one command, for whoever sent it to judge; the text begins without `ERR`."""


class NoPermissionError(ResponseError):
    """The login may not do what was asked; the text begins without `NOPERM`."""


@dataclass(frozen=True)
class ErrorReply:
    """An error reply, without its `-`, shortened and without control characters."""

    text: str


def bare(text: str, most: int = MOST_ERROR) -> str:
    """Return what a server says as it may be shown: one line of printable characters, of bounded length."""
    shown = "".join(character if character.isprintable() else " " for character in text[: most + 1])
    return shown if len(text) <= most else f"{shown[:most]}... ({len(text):,} characters)"


class ReplyReader:
    """Reads replies from a connection that is open."""

    def __init__(self, connection: socket.socket, timeout: float, *, raw_lines: bool = False) -> None:
        """Take how long a reply may take, in seconds; a long one gets more by its length.

        With `raw_lines`, replies of one line are returned as lines with their type, such as `+OK` and `-ERR`.
        """
        self.timeout = timeout
        self._connection = connection
        self._buffer = bytearray()
        self._at = 0
        self._raw_lines = raw_lines
        self._most_bytes = MOST_BYTES
        self._begun = 0.0
        self._received = 0
        self._elements = 0

    def read(self) -> Any:
        """Return one reply: bytes, int, list, None or `ErrorReply`.

        Raises `TimeoutError`, `EOFError` where the peer has hung up, other kinds of `OSError`, and
        `MalformedReplyError`: then nothing more can be read from this connection.
        """
        self._begin()
        return self._reply(MOST_DEPTH)

    def line(self) -> bytes:
        """Return one line as it came, without its end. Raises as `read`."""
        self._begin()
        return self._line()

    def encoded_texts(self) -> list[bytes] | bytes:
        r"""Return an array's texts as they came (`$3\r\nkey\r\n`), or the line of another reply.

        An array may be as long as a listing of long names is. Raises as `read`.
        """
        self._begin(_MOST_LISTING)
        head = self._line()
        if head[:1] != b"*":
            return head
        found = []
        for _ in range(_number(head[1:])):
            line = self._line()
            if line[:1] != b"$" or (length := _number(line[1:])) < 0:
                raise MalformedReplyError(
                    f"with {bare(line[:40].decode('latin-1'))!r} where a text should be"
                )
            found.append(b"%b\r\n%b\r\n" % (line, self._bulk(length)))
        return found

    def _begin(self, most_bytes: int = MOST_BYTES) -> None:
        self._begun, self._received, self._elements = time.monotonic(), 0, 0
        self._most_bytes = most_bytes

    def _reply(self, depth: int) -> Any:
        self._elements += 1
        if self._elements > MOST_ELEMENTS:
            raise MalformedReplyError(f"of more than {MOST_ELEMENTS:,} elements")
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind in (b"+", b"-") and self._raw_lines:
            return line
        if kind == b"+":
            return rest
        if kind == b"-":
            return ErrorReply(bare(rest.decode("utf-8", "replace")))
        if kind not in (b":", b"$", b"*"):
            raise NotRespError("that is no RESP")
        number = _number(rest)
        if kind == b":":
            return number
        if number == -1:
            return None
        if number < 0:
            raise MalformedReplyError(f"of length {number}")
        if kind == b"$":
            return self._bulk(number)
        if depth == 0:
            raise MalformedReplyError(f"nested deeper than {MOST_DEPTH} levels")
        return [self._reply(depth - 1) for _ in range(number)]

    def _bulk(self, length: int) -> bytes:
        if length > self._most_bytes:
            raise MalformedReplyError(f"of {length:,} bytes, where at most {self._most_bytes:,} are read")
        end = self._at + length
        while len(self._buffer) < end + 2:
            end -= self._fill()
        value = bytes(self._buffer[end - length : end])
        if self._buffer[end : end + 2] != b"\r\n":
            raise MalformedReplyError("whose length is not what it says")
        self._at = end + 2
        return value

    def _line(self) -> bytes:
        looked = self._at
        while (end := self._buffer.find(b"\r\n", looked)) < 0:
            if len(self._buffer) - self._at > MOST_LINE:
                raise MalformedReplyError(f"with a line of more than {MOST_LINE:,} bytes")
            looked = max(self._at, len(self._buffer) - 1)
            looked -= self._fill()
        line = bytes(self._buffer[self._at : end])
        self._at = end + 2
        return line

    def _fill(self) -> int:
        """Receive more; return by how much what was here has moved to the front."""
        left = self._begun + self.timeout + self._received / _SLOWEST - time.monotonic()
        if left <= 0:
            raise TimeoutError("the reply is not whole in time")
        self._connection.settimeout(left)
        data = self._connection.recv(_RECEIVE)
        if not data:
            raise EOFError("Connection closed by server")
        self._received += len(data)
        if self._received > self._most_bytes + _RECEIVE:
            raise MalformedReplyError(f"of more than {self._most_bytes:,} bytes")
        moved = self._at if self._at > _RECEIVE or self._at == len(self._buffer) else 0
        if moved:
            del self._buffer[:moved]
            self._at = 0
        self._buffer += data
        return moved


def _number(text: bytes) -> int:
    if not _INTEGER.fullmatch(text) or not -_HIGHEST - 1 <= (number := int(text)) <= _HIGHEST:
        raise MalformedReplyError(f"with {bare(text[:40].decode('latin-1'))!r} where a number should be")
    return number


def integer(reply: Any, least: int = 0, most: int = _HIGHEST) -> int:
    """Return the integer that a reply is, be it spelled as a bulk string. Raises `MalformedReplyError`."""
    if isinstance(reply, bytes):
        reply = _number(reply)
    if not isinstance(reply, int) or isinstance(reply, bool):
        raise MalformedReplyError(f"that is {_kind(reply)} and no number")
    if not least <= reply <= most:
        raise MalformedReplyError(f"of {reply}, which is not within {least} and {most}")
    return reply


def text(reply: Any) -> str:
    """Return the text that a reply is. Raises `MalformedReplyError`."""
    if not isinstance(reply, bytes):
        raise MalformedReplyError(f"that is {_kind(reply)} and no text")
    return reply.decode("utf-8", "replace")


def array(reply: Any, least: int = 0) -> list[Any]:
    """Return the elements of an array, `least` of them or more. Raises `MalformedReplyError`."""
    if not isinstance(reply, list):
        raise MalformedReplyError(f"that is {_kind(reply)} and no array")
    if len(reply) < least:
        raise MalformedReplyError(f"of {len(reply)} elements, where {least} should be")
    return reply


def texts(reply: Any) -> list[bytes]:
    """Return the elements of an array of texts. Raises `MalformedReplyError`."""
    for element in array(reply):
        if not isinstance(element, bytes):
            raise MalformedReplyError(f"with {_kind(element)} where a text should be")
    found: list[bytes] = reply
    return found


def info(reply: Any) -> dict[str, str]:
    """Return the fields of an INFO or CLUSTER INFO. Raises `MalformedReplyError`."""
    if isinstance(reply, bytes) and len(reply) > _MOST_INFO:
        raise MalformedReplyError(f"of {len(reply):,} bytes, where at most {_MOST_INFO:,} are read")
    lines = (line.partition(":") for line in text(reply).splitlines())
    return {name[:_MOST_VALUE]: value[:_MOST_VALUE] for name, colon, value in lines if colon}


def number_of(fields: Mapping[str, str], name: str, default: int = 0) -> int:
    """Return a field of INFO as a whole number; `default` where it is none."""
    value = fields.get(name, "")
    return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else default


def keys_by_database(fields: Mapping[str, str]) -> dict[int, int]:
    """Return how many keys each database holds, of the fields of INFO; empty ones are left out."""
    found = {}
    for name, value in fields.items():
        database = re.fullmatch(r"db([0-9]{1,9})", name)
        keys = re.match(r"keys=([1-9][0-9]{0,17})(?![0-9])", value)
        if database and keys:
            found[int(database[1])] = int(keys[1])
    return found


def slots(text: str) -> list[int]:
    """Return the slots that ranges like `0-5,7` or `0-5 7` stand for. Raises `MalformedReplyError`."""
    try:
        found = slots_in(text)
    except ValueError as error:
        raise MalformedReplyError(f"where {error}") from None
    if any(slot >= SLOTS for slot in found):
        raise MalformedReplyError(f"with the slots {bare(text[:40])}")
    return found


def pairs(reply: Any) -> dict[str, str]:
    """Return a flat list of names and values, as a Sentinel sends it, as a dict."""
    parts = [str(part) if isinstance(part, int) else text(part)[:_MOST_VALUE] for part in array(reply)]
    return dict(zip(parts[::2], parts[1::2], strict=False))


def clock(reply: Any) -> float:
    """Return the time that TIME tells, in seconds since the epoch. Raises `MalformedReplyError`."""
    seconds, micros, *_ = array(reply, 2)
    return integer(seconds, most=1 << 40) + integer(micros, most=10**6) / 1e6


def scan_page(reply: Any) -> tuple[int, list[bytes]]:
    """Return the cursor and the keys of a SCAN. Raises `MalformedReplyError`."""
    if len(array(reply)) != 2:
        raise MalformedReplyError(f"of {len(reply)} elements, where a cursor and keys should be")
    cursor = reply[0]
    if not isinstance(cursor, bytes) or not re.fullmatch(rb"[0-9]{1,20}", cursor) or int(cursor) >= 1 << 64:
        raise MalformedReplyError("without a cursor")
    return int(cursor), texts(reply[1])


def host_and_port(host: object, port: object) -> tuple[str, int]:
    """Return an address that a server announces; the host is empty where it is the one that was asked.

    Raises `MalformedReplyError`.
    """
    if host in (None, b"", "", b"?", "?"):
        name = ""
    else:
        name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host)
        if isinstance(host, list | int) or not _HOST.fullmatch(name):
            raise MalformedReplyError(f"with {_shown(host)} where a host should be")
    return name, integer(port, 1, 65535)


@dataclass(frozen=True)
class AnnouncedNode:
    """A node as CLUSTER SLOTS names it; `host` is empty where it is the one that was asked."""

    host: str
    port: int
    id: str


@dataclass(frozen=True)
class SlotEntry:
    """An entry of CLUSTER SLOTS; replicas whose address can't be one are left out."""

    first: int
    last: int
    primary: AnnouncedNode
    replicas: tuple[AnnouncedNode, ...]


def cluster_slots(reply: Any) -> list[SlotEntry]:
    """Return the entries of CLUSTER SLOTS: `[first, last, [host, port, id, …], replicas…]`.

    Raises `MalformedReplyError`, also where a slot is named twice.
    """
    entries = []
    named = bytearray(SLOTS)
    for row in array(reply):
        first, last, primary, *replicas = array(row, 3)
        first, last = integer(first, most=SLOTS - 1), integer(last, most=SLOTS - 1)
        if first > last:
            raise MalformedReplyError(f"with the slots {first} to {last}")
        if any(named[first : last + 1]):
            raise MalformedReplyError(f"that names a slot of {first} to {last} twice")
        named[first : last + 1] = b"\1" * (last + 1 - first)
        others = []
        for replica in replicas:
            try:
                others.append(_announced(replica))
            except MalformedReplyError:  # noqa: PERF203 - it may be on its way in or out
                continue
        entries.append(SlotEntry(first, last, _announced(primary), tuple(others)))
    return entries


def _announced(node: Any) -> AnnouncedNode:
    host, port, *rest = array(node, 2)
    name, number = host_and_port(host, port)
    node_id = rest[0] if rest and isinstance(rest[0], bytes) else b""
    return AnnouncedNode(name, number, node_id[:100].decode("ascii", "replace"))


def _kind(reply: object) -> str:
    kinds = {type(None): "nil", int: "a number", bytes: "a text", list: "an array", ErrorReply: "an error"}
    return kinds.get(type(reply), "something else")


def _shown(reply: object) -> str:
    return repr(bare(reply.decode("utf-8", "replace"), 40)) if isinstance(reply, bytes) else _kind(reply)
