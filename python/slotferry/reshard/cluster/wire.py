"""Pipelined RESP2 over one administrative connection, at little cost per key.

Invariant: replies come back in the order of their commands, one for each; an error reply is returned, not
raised, so that one refused command hides no other reply. Keys stay encoded: a reply of GETKEYSINSLOT holds
them just as MIGRATE wants them, and nothing here takes them apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.link import REPLY_TIMEOUT, command_name, encode, lost, malformed, not_ready, shortest
from slotferry.net.replies import MalformedReplyError, ReplyReader, bare
from slotferry.redaction import redact
from slotferry.text import format_slots, ranges_of

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


def count_of(reply: bytes) -> int:
    """Return the number of a one-line reply such as `:7`; 0 for any other, such as an error."""
    return int(reply[1:]) if re.fullmatch(rb":[0-9]{1,18}", reply) else 0


def text_of(error: bytes) -> str:
    """Return an error reply as text, without the secrets that it may quote."""
    return redact(bare(error[1:].decode("utf-8", "replace")))


class Wire:
    """One connection to one node; a context manager. Raises `SlotferryError` where it breaks."""

    def __init__(self, connector: Connector, address: Address) -> None:
        self._link = connector.dial(address)
        self._socket = self._link.connection
        self._reader = ReplyReader(self._socket, REPLY_TIMEOUT, raw_lines=True)
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
        self._reader.timeout = seconds

    def send(self, data: bytes) -> None:
        """Send encoded commands."""
        try:
            self._socket.settimeout(self._reader.timeout)
            self._socket.sendall(data)
        except OSError as error:
            raise self._lost(error) from None

    def call(self, *parts: bytes | str | int) -> Any:
        """Send one command and return its reply: bytes (a line with its type, or a bulk), int, list, None."""
        self.send(encode(*parts))
        return self._read(self._reader.read, command_name(parts))

    def need(self, *parts: str | int) -> Any:
        """`call` for a command that can't be done without: an error reply is raised."""
        reply = self.call(*parts)
        if is_error(reply):
            raise refused(self._link.name, command_name(parts), reply)
        return reply

    def need_parsed(self, parse: Callable[[Any], _Reply], *parts: str | int) -> _Reply:
        """Return what `parse`, of replies.py, makes of the reply to a command that can't be done without."""
        return self.take(parse, self.need(*parts), command_name(parts))

    def take(self, parse: Callable[[Any], _Reply], reply: Any, command: str) -> _Reply:
        """Return what `parse` makes of a reply to `command`. Raises `SlotferryError` where it is no such."""
        return self._read(lambda: parse(reply), command)

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

    def filled(self, slots: Sequence[int]) -> list[int]:
        """Return the slots of which the node holds keys.

        Another node may be given what is empty here, and its keys are dropped then. So it is asked in two
        ways, and only a slot with no key by both is empty. Raises for an error reply.
        """
        found: list[int] = []
        for first in range(0, len(slots), _PIPELINE // 2):
            some = slots[first : first + _PIPELINE // 2]
            counted = slot_commands("COUNTKEYSINSLOT", some)
            self.send(b"".join([*counted, *slot_commands("GETKEYSINSLOT", some, 1)]))
            counts = self.lines(len(some))
            found += [slot for slot, n in zip(some, counts, strict=True) if self.keys() or n != b":0"]
        return found

    def lines(self, count: int) -> list[bytes]:
        """Read `count` one-line replies."""
        return [self._read(self._reader.line) for _ in range(count)]

    def keys(self) -> list[bytes]:
        """Read one array of bulk strings and return them encoded."""
        found = self._read(self._reader.encoded_texts, "CLUSTER GETKEYSINSLOT")
        if isinstance(found, bytes):
            raise refused(self._link.name, "CLUSTER GETKEYSINSLOT", found)
        return found

    def reply(self) -> Any:
        """Read one reply of any kind."""
        return self._read(self._reader.read)

    def _read(self, work: Callable[[], _Reply], command: str = "a command") -> _Reply:
        try:
            return work()
        except MalformedReplyError as error:
            self.close()
            raise malformed(self._link, command, error) from None
        except EOFError:
            raise self._lost(None) from None
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: OSError | None) -> Exception:
        reason = (error.strerror or str(error)) if error is not None else "it closed the connection"
        return lost(self._link.side, f"was lost at {self._link.name}: {reason}", "see whether that node runs")


def refused(node: str, command: str, reply: bytes) -> Exception:
    """Return the error for an error reply to a command that can't be done without."""
    text = text_of(reply).rstrip(".")
    if text.startswith("NOPERM"):
        return not_ready(
            "cluster",
            f"user lacks an ACL permission at {node}: {text}",
            "grant it with ACL SETUSER (docs/permissions.md), or log in as another user",
        )
    if text.startswith("NOAUTH"):
        return not_ready(
            "cluster",
            f"wants a login at {node}: {text}",
            "give the user in the URL and the password in SLOTFERRY_CLUSTER_PASSWORD",
        )
    hint = "put right what it complains of, then try again"
    if text.startswith("LOADING"):
        return lost("cluster", f"is loading its data at {node}", hint)
    return not_ready("cluster", f"answers {command} with an error at {node}: {text}", hint)


def format_ranges(slots: Iterable[int]) -> str:
    """Return the slots as a person reads them: `0-5460,7000`."""
    return format_slots(ranges_of(slots))
