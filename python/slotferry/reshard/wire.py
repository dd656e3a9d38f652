"""Pipelined RESP2 over one administrative connection, at little cost per key.

Invariant: replies come back in the order of their commands, one for each; an error reply is returned, not
raised, so that one refused command hides no other reply. Keys stay encoded: a reply of GETKEYSINSLOT holds
them just as MIGRATE wants them, and nothing here takes them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from slotferry.admin import Connector, shortest
from slotferry.endpoints import Address
from slotferry.link import encode, lost, unfit

_RECEIVE = 1 << 18
_PIPELINE = 1000  # commands: enough to make the round trip cheap, few enough to let other clients through
_LISTINGS = 16  # listings of slots: each may be long
_Reply = TypeVar("_Reply")


def slot_commands(name: str, slots: Iterable[int], *rest: str | int) -> list[bytes]:
    """Return `CLUSTER name slot rest…` in RESP for each slot: there may be thousands."""
    head = encode("CLUSTER", name).replace(b"*2", b"*%d" % (3 + len(rest)), 1)
    tail = encode(*rest).partition(b"\r\n")[2]
    return [b"%b$%d\r\n%d\r\n%b" % (head, len(str(slot)), slot, tail) for slot in slots]


def decode_key(encoded: bytes) -> bytes:
    r"""Return the key that `$3\r\nkey\r\n` stands for."""
    return encoded[encoded.index(b"\r\n") + 2 : -2]


def is_error(reply: object) -> bool:
    """Whether a one-line reply is an error."""
    return isinstance(reply, bytes) and reply.startswith(b"-")


def text_of(error: bytes) -> str:
    """Return an error reply as text."""
    return error[1:].decode("utf-8", "replace")


class Wire:
    """One connection to one node; a context manager. Raises `SlotferryError` where it breaks."""

    def __init__(self, connector: Connector, address: Address) -> None:
        self._link = connector.dial(address)
        self._socket = self._link.connection
        self._buffer = b""
        self._at = 0
        self.address = address
        self.address_map = connector.address_map

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def set_timeout(self, seconds: float) -> None:
        """Set how long a reply may take."""
        self._socket.settimeout(seconds)

    def send(self, data: bytes) -> None:
        """Send encoded commands."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def call(self, *parts: bytes | str | int) -> Any:
        """Send one command and return its reply: bytes (a line with its type, or a bulk), int, list, None."""
        self.send(encode(*parts))
        return self.reply()

    def need(self, *parts: str | int) -> Any:
        """`call` for a command that can't be done without: an error reply is raised."""
        reply = self.call(*parts)
        if is_error(reply):
            raise refused(
                self._link.name, f"{parts[0]} {parts[1]}" if len(parts) > 1 else str(parts[0]), reply
            )
        return reply

    def round_trip(self) -> float:
        """Return the shortest of some round trips, in seconds."""
        return shortest(lambda: self.call("PING"))

    def each(self, commands: Sequence[bytes]) -> list[bytes]:
        """Send the commands and return their one-line replies, such as `+OK`, `:7` or `-ERR …`."""
        return self._in_chunks(commands, self.lines)

    def each_keys(self, commands: Sequence[bytes]) -> list[list[bytes]]:
        """Send the commands and return the encoded keys of each reply. Raises for an error reply."""
        return self._in_chunks(commands, lambda count: [self.keys() for _ in range(count)], _LISTINGS)

    def _in_chunks(
        self, commands: Sequence[bytes], read: Callable[[int], list[_Reply]], size: int = _PIPELINE
    ) -> list[_Reply]:
        replies: list[_Reply] = []
        for first in range(0, len(commands), size):
            chunk = commands[first : first + size]
            self.send(b"".join(chunk))
            replies += read(len(chunk))
        return replies

    def lines(self, count: int) -> list[bytes]:
        """Read `count` one-line replies."""
        if not count:
            return []
        while self._buffer.count(b"\r\n", self._at) < count:
            self._fill()
        pieces = self._buffer[self._at :].split(b"\r\n", count)
        self._buffer, self._at = pieces.pop(), 0
        return pieces

    def keys(self) -> list[bytes]:
        """Read one array of bulk strings and return them encoded."""
        head = self._line()
        if head[:1] != b"*":
            raise refused(self._link.name, "CLUSTER GETKEYSINSLOT", head)
        found = []
        for _ in range(int(head[1:])):
            end = self._buffer.find(b"\r\n", self._at)
            while end < 0:
                self._fill()
                end = self._buffer.find(b"\r\n", self._at)
            size = end - self._at + 4 + int(self._buffer[self._at + 1 : end])
            while len(self._buffer) - self._at < size:
                self._fill()
            found.append(self._buffer[self._at : self._at + size])
            self._at += size
        return found

    def reply(self) -> Any:
        """Read one reply of any kind."""
        head = self._line()
        kind, rest = head[:1], head[1:]
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        return head

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n", self._at)) < 0:
            self._fill()
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) - self._at < size + 2:
            self._fill()
        value = self._buffer[self._at : self._at + size]
        self._at += size + 2
        return value

    def _fill(self) -> None:
        pieces = [self._buffer[self._at :]]
        try:
            data = self._socket.recv(_RECEIVE)
        except OSError as error:
            raise self._lost(error) from None
        if not data:
            raise self._lost(None)
        pieces.append(data)
        self._buffer, self._at = b"".join(pieces), 0

    def _lost(self, error: OSError | None) -> Exception:
        reason = (error.strerror or str(error)) if error is not None else "it closed the connection"
        return lost(self._link.side, f"was lost at {self._link.name}: {reason}", "see whether that node runs")


def refused(node: str, command: str, reply: bytes) -> Exception:
    """Return the error for an error reply to a command that can't be done without."""
    text = text_of(reply).rstrip(".")
    if text.startswith("NOPERM"):
        return unfit(
            "cluster",
            f"user lacks a right at {node}: {text}",
            "grant it with ACL SETUSER (README, Least rights), or log in as another user",
        )
    if text.startswith("NOAUTH"):
        return unfit(
            "cluster",
            f"wants a login at {node}: {text}",
            "give the user in the URL and the password in SLOTFERRY_CLUSTER_PASSWORD",
        )
    hint = "put right what it complains of, then try again"
    if text.startswith("LOADING"):
        return lost("cluster", f"is loading its data at {node}", hint)
    return unfit("cluster", f"answers {command} with an error at {node}: {text}", hint)


def ranges_of(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Return the slots as ranges, first and last included."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges


def format_ranges(slots: Iterable[int]) -> str:
    """Return the slots as a person reads them: `0-5460,7000`."""
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges_of(slots))


def parse_ranges(text: str) -> list[int]:
    """Return the slots that `0-5460,7000` means. Raises `ValueError`."""
    slots: list[int] = []
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        slots += range(int(first), int(last or first) + 1)
    return slots
