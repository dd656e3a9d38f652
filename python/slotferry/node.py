"""A server as discovery and preflight talk to it: one command, one raw reply.

Invariant: nothing is sent twice (no retries) and nothing waits without a limit; whatever goes wrong comes
out as a `SlotferryError` that names the side and the node. RESP2 throughout, whatever redis-py defaults to.
Of redis-py only the protocol is used: connections are opened and logged in by link.py.
"""

from __future__ import annotations

import inspect
import socket
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NoReturn

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from slotferry.admin import shortest
from slotferry.endpoints import Address
from slotferry.link import (
    REPLY_TIMEOUT,
    RETRY_HINT,
    Link,
    lacks_right,
    loads,
    lost,
    refuses,
    refuses_login,
    speaks_no_resp,
    unfit,
    unreachable,
)

_FEED_SECONDS = 0.5
_FEED_BYTES = 1 << 20

# No CLIENT SETINFO: it costs round trips, and redis-py swallows what a server has to say against the client
# in its reply (such as DENIED, protected mode). How it is turned off depends on the version.
_NO_GREETING: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}
)


class _Connection(Connection):
    """redis-py's protocol on a connection that is open and logged in."""

    def __init__(self, link: Link) -> None:
        settings: dict[str, Any] = {"protocol": 2, "socket_timeout": REPLY_TIMEOUT, **_NO_GREETING}
        super().__init__(host=link.name, retry=Retry(NoBackoff(), 0), **settings)  # type: ignore[no-untyped-call]
        self._link = link

    def _connect(self) -> socket.socket:
        return self._link.connection

    def _host_error(self) -> str:
        return self._link.name


class Node:
    """A connection to one server of a side; a context manager. Made by `Connector.open`."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.side = link.side
        self.name = link.name
        self._connection: Any = _Connection(link)  # redis-py is hardly typed
        self._connection.connect()  # type: ignore[no-untyped-call]  # takes over the socket

    def __enter__(self) -> Node:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.disconnect()

    @property
    def address(self) -> Address:
        """Where it is reached over TCP."""
        host, _, port = self.name.rpartition(":")
        return Address(host.strip("[]"), int(port))

    def _connected(self) -> Any:
        """Return the connection; redis-py hangs up after an error, and it is opened anew then."""
        if self._connection._sock is None:
            self.link.open()
            self._connection.connect()
        return self._connection

    def call(self, *command: str | bytes | int) -> Any:
        """Send one command and return its reply as it came: bytes, int, list or None.

        An error reply is raised as redis-py's `ResponseError`, for the caller to judge; a lost connection,
        refused credentials or a reply that is no RESP as a `SlotferryError`.
        """
        try:
            connection = self._connected()
            connection.send_command(*command, check_health=False)
            return connection.read_response()
        except ResponseError:
            raise
        except RedisError as error:
            raise_for(error, self)

    def call_many(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Send commands in one go and return their replies; an error reply is returned, not raised.

        Keep a call's replies within a few MB: nothing is read before everything is sent.
        """
        connection, replies = self._connected(), []
        try:
            connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:  # noqa: PERF203 - what each one says is wanted
                    replies.append(error)
        except RedisError as error:
            raise_for(error, self)
        return replies

    def feed(self, command: str) -> Iterator[bytes]:
        """Send a command that never ends answering (MONITOR) and yield what comes, raw, as it comes.

        Yields empty bytes when nothing came for half a second. Nothing else can be called on this node
        afterwards.
        """
        try:
            self._connected().send_command(command, check_health=False)
        except RedisError as error:
            raise_for(error, self)
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
        try:
            return self.call(*command)
        except ResponseError as error:
            raise_for(error, self, str(command[0]))

    def info(self, *sections: str) -> dict[str, str]:
        """Return the fields of INFO, or of some of its sections."""
        text: bytes = self.need("INFO", *sections)
        if not isinstance(text, bytes):
            raise unfit(
                self.side,
                f"answers INFO with something else at {self.name}",
                "is it a Redis or Valkey server?",
            )
        lines = (line.partition(":") for line in text.decode("utf-8", "replace").splitlines())
        return {name: value for name, colon, value in lines if colon}

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


def raise_for(error: RedisError, node: Node, command: str = "") -> NoReturn:
    """Raise the `SlotferryError` that `error`, met at `node`, stands for."""
    link, text = node.link, str(error).rstrip(".")
    if isinstance(error, NoPermissionError):
        raise lacks_right(link, text) from None
    if isinstance(error, AuthenticationError):
        raise refuses_login(link, text) from None
    if isinstance(error, InvalidResponse):
        raise speaks_no_resp(link) from None
    if isinstance(error, ResponseError):
        raise refuses(link, text, command) from None
    if isinstance(error, BusyLoadingError):
        raise loads(link) from None
    raise unreachable(link, error.__context__, text) from None
