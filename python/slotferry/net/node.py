"""A server as discovery and preflight talk to it: one command, one raw reply.

Invariant: nothing is sent twice (no retries) and nothing waits without a limit; whatever goes wrong comes
out as a `SlotferryError` that names the side and the node. RESP2 throughout. Connections are opened and
logged in by link.py, replies read by replies.py: not with redis-py, whose import alone takes 0.1 s of CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.link import (
    REPLY_TIMEOUT,
    RETRY_HINT,
    Link,
    command_name,
    encode,
    lacks_right,
    loads,
    lost,
    malformed,
    refuses,
    refuses_login,
    shortest,
    unreachable,
)
from slotferry.net.replies import (
    ErrorReply,
    MalformedReplyError,
    NoPermissionError,
    ReplyReader,
    ResponseError,
)

_FEED_SECONDS = 0.5
_FEED_BYTES = 1 << 20
_PASSING = "max number of clients reached"

_Parsed = TypeVar("_Parsed")

CLIENT_NAME = "slotferry"
"""What our connections are called at a server, the engine's too; those of a reshard's lock begin so."""


class Node:
    """A connection to one server of a side; a context manager. Made by `Connector.open`."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.side = link.side
        self.name = link.name
        self._reader: ReplyReader | None = ReplyReader(link.connection, REPLY_TIMEOUT)
        self._named = link.side != "source"

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        self._reader = None
        self.link.close()

    @property
    def address(self) -> Address:
        """Where it is reached over TCP."""
        host, _, port = self.name.rpartition(":")
        return Address(host.strip("[]"), int(port))

    def _send(self, command: str, data: bytes) -> ReplyReader:
        """Send encoded commands; where an error has ended the connection, it is opened anew."""
        if self._reader is None:
            self.link.open()
            self._reader = ReplyReader(self.link.connection, REPLY_TIMEOUT)
            self._named = self.side != "source"
        self.link.connection.settimeout(REPLY_TIMEOUT)
        if not self._named:
            self._name_connection(self._reader)
        self._guarded(command, lambda: self.link.connection.sendall(data))
        return self._reader

    def _guarded(self, command: str, work: Callable[[], _Parsed]) -> _Parsed:
        """Do what may fail for the connection or the peer, and hang up then. Raises `SlotferryError`."""
        try:
            return work()
        except MalformedReplyError as error:
            self._hang_up()
            raise malformed(self.link, command, error) from None
        except TimeoutError as error:
            self._hang_up()
            raise unreachable(self.link, error, "Timeout reading from socket") from None
        except (OSError, EOFError) as error:
            self._hang_up()
            raise unreachable(self.link, error, str(error)) from None

    def call(self, *command: str | bytes | int) -> Any:
        """Send one command and return its reply as it came: bytes, int, list or None.

        An error reply is raised as a `ResponseError`, for the caller to judge; a lost connection,
        refused credentials or a reply that is no RESP as a `SlotferryError`.
        """
        name = command_name(command)
        reader = self._send(name, encode(*command))
        answer = self._judged(self._guarded(name, reader.read))
        if isinstance(answer, ResponseError):
            raise answer
        return answer

    def _judged(self, reply: Any) -> Any:
        """Return a reply, an error as an exception. Raises `SlotferryError` where no command would pass."""
        if not isinstance(reply, ErrorReply):
            return reply
        code, _, rest = reply.text.partition(" ")
        if code in ("NOAUTH", "WRONGPASS"):
            raise refuses_login(self.link, rest.rstrip("."))
        if code == "LOADING":
            raise loads(self.link)
        if code == "ERR" and rest == _PASSING:
            raise unreachable(self.link, None, rest)
        if code == "NOPERM":
            return NoPermissionError(rest)
        return ResponseError(rest if code == "ERR" else reply.text)

    def _name_connection(self, reader: ReplyReader) -> None:
        """Let whoever watches the source tell these commands from the application's; a refusal is no harm."""
        self._named = True
        name = encode("CLIENT", "SETNAME", CLIENT_NAME)
        self._guarded("CLIENT SETNAME", lambda: self.link.connection.sendall(name))
        self._guarded("CLIENT SETNAME", reader.read)

    def call_many(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Send commands in one go and return their replies; an error reply is returned, not raised.

        Keep a call's replies within a few MB: nothing is read before everything is sent.
        """
        if not commands:
            return []
        reader = self._send(command_name(commands[0]), b"".join(encode(*command) for command in commands))
        found = [self._guarded(command_name(command), reader.read) for command in commands]
        return [self._judged(reply) for reply in found]

    def parsed(self, parse: Callable[[Any], _Parsed], *command: str | bytes | int) -> _Parsed:
        """Return what `parse`, of replies.py, makes of the reply to a command.

        Raises as `call`, and a `SlotferryError` where the reply is not what the command gives.
        """
        return self.take(parse, self.call(*command), command_name(command))

    def take(self, parse: Callable[[Any], _Parsed], reply: Any, command: str) -> _Parsed:
        """Return what `parse` makes of a reply to `command`. Raises `SlotferryError` where it is no such."""
        return self._guarded(command, lambda: parse(reply))

    def feed(self, command: str) -> Iterator[bytes]:
        """Send a command that never ends answering (MONITOR) and yield what comes, raw, as it comes.

        Yields empty bytes when nothing came for half a second. Nothing else can be called on this node
        afterwards.
        """
        self._send(command, encode(command))
        plain = self.link.connection
        plain.settimeout(_FEED_SECONDS)
        while True:
            try:
                chunk: bytes = plain.recv(_FEED_BYTES)
            except TimeoutError:
                yield b""
                continue
            except OSError as error:
                raise lost(self.side, f"broke off {command} at {self.name}: {error}", RETRY_HINT) from None
            if not chunk:
                raise lost(self.side, f"ended {command} at {self.name}", RETRY_HINT)
            yield chunk

    def need(self, *command: str | bytes | int) -> Any:
        """`call` for a command that can't be done without: an error reply becomes a `SlotferryError`."""
        return self.need_parsed(lambda reply: reply, *command)

    def need_parsed(self, parse: Callable[[Any], _Parsed], *command: str | bytes | int) -> _Parsed:
        """Do as `parsed` does for a command that can't be done without."""
        try:
            return self.parsed(parse, *command)
        except ResponseError as error:
            raise_for(error, self, str(command[0]))

    def info(self, *sections: str) -> dict[str, str]:
        """Return the fields of INFO, or of some of its sections."""
        return self.need_parsed(replies.info, "INFO", *sections)

    def round_trip(self, samples: int = 5) -> float:
        """Return the shortest of some round trips, in seconds."""

        def ping() -> None:
            try:
                self.call("PING")
            except NoPermissionError:
                pass  # refused, but answered: that is a round trip as well
            except ResponseError as error:
                raise_for(error, self, "PING")

        return shortest(ping, samples)


def raise_for(error: ResponseError, node: Node, command: str = "") -> NoReturn:
    """Raise the `SlotferryError` that `error`, met at `node`, stands for."""
    said = str(error).rstrip(".")
    if isinstance(error, NoPermissionError):
        raise lacks_right(node.link, said) from None
    raise refuses(node.link, said, command) from None
