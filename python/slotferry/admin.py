"""Administrative connections: one command, one raw reply, for discovery and preflight.

Invariant: nothing is sent twice (no retries) and nothing waits without a limit; whatever goes wrong comes
out as a `SlotferryError` that names the side and the node. RESP2 throughout, whatever redis-py defaults to.
"""

from __future__ import annotations

import inspect
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from weakref import WeakSet

from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, UnixDomainSocketConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from slotferry.addressmap import AddressMap
from slotferry.credentials import Login, PasswordFile, stamp_files
from slotferry.endpoints import Address, Endpoint, Side, Tls
from slotferry.errors import (
    RESUME_HINT,
    SlotferryError,
    SourceLostError,
    SourceUnfitError,
    TargetLostError,
    TargetUnfitError,
    UsageError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from slotferry._core import Access

CONNECT_TIMEOUT = 5.0
_WRITTEN = ("target", "cluster")  # the sides that are written to; a cluster is a reshard's
REPLY_TIMEOUT = 10.0
_Opened = TypeVar("_Opened", "Node", "Access")
RETRY_HINT = "check that it runs, then try again"
_FEED_SECONDS = 0.5
_FEED_BYTES = 1 << 20

# No CLIENT SETINFO: it costs round trips, and redis-py swallows what a server has to say against the client
# in its reply (such as DENIED, protected mode). How it is turned off depends on the version.
_NO_GREETING: dict[str, None] = (
    {"driver_info": None}
    if "driver_info" in inspect.signature(AbstractConnection).parameters
    else {"lib_name": None, "lib_version": None}
)


class _TlsConnection(Connection):
    """A connection with our own TLS context, so that a server name of its own can be asked for."""

    def __init__(self, *, context: ssl.SSLContext, server_name: str | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self._context = context
        self._server_name = server_name

    def _connect(self) -> ssl.SSLSocket:
        plain: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        try:
            return self._context.wrap_socket(plain, server_hostname=self._server_name or self.host)
        except OSError:
            plain.close()
            raise


class Node:
    """A connection to one server of a side; a context manager. Made by `Connector.open`."""

    def __init__(self, connection: Any, side: Side, name: str, *, tls: bool) -> None:
        self._connection = connection  # redis-py's, which is hardly typed
        self.side = side
        self.name = name
        self.tls = tls
        self.login_refused = False

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

    def connect(self) -> None:
        """Open the connection and log in. Raises what `call` raises."""
        try:
            self._connection.connect()
        except RedisError as error:
            self.login_refused = isinstance(error, AuthenticationError)
            raise_for(error, self)

    def call(self, *command: str | bytes | int) -> Any:
        """Send one command and return its reply as it came: bytes, int, list or None.

        An error reply is raised as redis-py's `ResponseError`, for the caller to judge; a lost connection,
        refused credentials or a reply that is no RESP as a `SlotferryError`.
        """
        try:
            self._connection.send_command(*command, check_health=False)
            return self._connection.read_response()
        except ResponseError:
            raise
        except RedisError as error:
            raise_for(error, self)

    def call_many(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Send commands in one go and return their replies; an error reply is returned, not raised.

        Keep a call's replies within a few MB: nothing is read before everything is sent.
        """
        connection, replies = self._connection, []
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
            self._connection.send_command(command, check_health=False)
        except RedisError as error:
            raise_for(error, self)
        plain = self._connection._sock
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

    def socket(self) -> socket.socket:
        """Return the logged-in connection's socket, for whoever speaks RESP on it without redis-py."""
        return self._connection._sock  # type: ignore[no-any-return]  # the only way to it

    def hang_up(self) -> None:
        """Let whoever waits for this server lose the connection. To be called by another thread."""
        if (connected := self._connection._sock) is not None:
            with suppress(OSError):
                # Below TLS: its own farewell is no business of another thread.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

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


class Connector:
    """Opens administrative connections to the servers of one side."""

    def __init__(self, endpoint: Endpoint, side: Side, address_map: AddressMap | None = None) -> None:
        """Read the TLS files. Raises `UsageError` where they make no sense."""
        self.endpoint = endpoint
        self.side = side
        self.address_map = address_map or AddressMap()
        self.server: Address | None = None
        """The server that was found behind Sentinels, which `open` opens where it is given no address."""
        self.login = Login(side, endpoint.username, endpoint.password)
        self._opened: WeakSet[Node | Access] = WeakSet()
        self._opening = threading.Lock()
        self._context = _tls_context(endpoint.tls) if endpoint.uses_tls else None
        self._stamp = stamp_files(self.files)

    def sentinels(self) -> Connector:
        """Return what opens connections to the Sentinels of a source that is behind them."""
        return Connector(self.endpoint.sentinels, "Sentinel", self.address_map)

    def open(self, address: Address | None = None) -> Node:
        """Return a connected `Node`: of `address`, or else of the endpoint's socket, server or first address.

        `address` is where the node is reached, not what it announces. Database 0 is selected, whatever the
        endpoint says. A login that is refused is tried once more where there is another one by now.
        """
        node = self._node(address)
        try:
            node.connect()
        except SlotferryError:
            if not node.login_refused or not self.renew():
                raise
            node = self._node(address)
            node.connect()
        return node

    def hang_up(self) -> None:
        """Hang up whatever is open, also what the engine has opened for a handover. For other threads."""
        with self._opening:
            opened = list(self._opened)
        for each in opened:
            each.hang_up()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that connections are opened with; where one changes, `renew` has something new."""
        tls, password = self.endpoint.tls, self.endpoint.password
        secret = password.path if isinstance(password, PasswordFile) else None
        return tuple(path for path in (secret, tls.ca, tls.cert, tls.key) if path is not None)

    @property
    def generation(self) -> object:
        """What is another one after each change of the credentials or files."""
        return self.login.generation, self._stamp

    def access(self, database: int | None = None) -> Access:
        """Return what the engine opens its connections with now, to the endpoint's database or another one.

        Raises `SlotferryError`.
        """
        number = self.endpoint.database if database is None else database
        return self._remembered(replace(self.endpoint, database=number).access(self.login.current()))

    def renew(self) -> bool:
        """Ask for the credentials and read the files anew; return whether anything changed.

        Raises `SlotferryError`; what was there before holds then.
        """
        before, stamp = self.generation, stamp_files(self.files)
        self.login.renew()
        if stamp != self._stamp and self._context is not None:
            self._context = _tls_context(self.endpoint.tls)
        self._stamp = stamp
        return self.generation != before

    def _node(self, address: Address | None) -> Node:
        username, password = self.login.current()
        common: dict[str, Any] = {
            "username": username,
            "password": password,
            "protocol": 2,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "socket_timeout": REPLY_TIMEOUT,
            "retry": Retry(NoBackoff(), 0),
            **_NO_GREETING,
        }
        make: Any
        if self.endpoint.path is not None and address is None:
            make, name = UnixDomainSocketConnection, self.endpoint.path
            common["path"] = name
        else:
            where = address or self.server or self.endpoint.addresses[0]
            make, name = Connection, str(where)
            common.update(host=where.host, port=where.port)
            if self._context is not None:
                make = _TlsConnection
                common.update(context=self._context, server_name=self.endpoint.tls.server_name)
        connection = make(**common)
        return self._remembered(Node(connection, self.side, name, tls=self._context is not None))

    def _remembered(self, opened: _Opened) -> _Opened:
        with self._opening:
            self._opened.add(opened)
        return opened


def _tls_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except OSError as error:  # ssl.SSLError is one
        files = ", ".join(str(file) for file in (tls.ca, tls.cert, tls.key) if file is not None)
        raise UsageError(
            f"the TLS files {files} can't be used: {error.strerror or error}",
            hint="check that they are PEM files and that the key belongs to the certificate",
        ) from None
    return context


def shortest(call: Callable[[], object], samples: int = 5) -> float:
    """Return how long the quickest of some calls takes, in seconds."""
    times = []
    for _ in range(samples):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)


def unfit(side: Side, what: str, hint: str) -> SlotferryError:
    """Return the error for a side that needs a person: `the <side> <what>`."""
    return (TargetUnfitError if side in _WRITTEN else SourceUnfitError)(f"the {side} {what}", hint=hint)


def lost(side: Side, what: str, hint: str) -> SlotferryError:
    """Return the error for a side that may be reached later: `the <side> <what>`."""
    return (TargetLostError if side in _WRITTEN else SourceLostError)(f"the {side} {what}", hint=hint)


def raise_for(error: RedisError, node: Node, command: str = "") -> NoReturn:
    """Raise the `SlotferryError` that `error`, met at `node`, stands for."""
    if isinstance(error, ResponseError | AuthenticationError | InvalidResponse):
        raise _refusal(error, node, command) from None
    if isinstance(error, BusyLoadingError):
        what = f"is loading its data at {node.name}"
        raise lost(node.side, what, "wait until it is up, then " + RESUME_HINT) from None
    raise _unreachable(error, node) from None


def _refusal(error: RedisError, node: Node, command: str) -> SlotferryError:
    side, text = node.side, str(error).rstrip(".")
    if isinstance(error, NoPermissionError):
        hint = "grant it with ACL SETUSER, or log in as another user"
        return unfit(side, f"user lacks a right at {node.name}: {text}", hint)
    if isinstance(error, AuthenticationError):
        hint = f"check the user and password of the {side} URL or SLOTFERRY_{side.upper()}_PASSWORD"
        return unfit(side, f"refuses the login at {node.name}: {text}", hint)
    if isinstance(error, InvalidResponse):
        hint = "check the port; for one that speaks TLS use rediss:// or rediss+cluster://"
        return unfit(side, f"does not speak RESP at {node.name}", hint)
    what = f"answers {command} with an error" if command else "refuses the connection"
    return unfit(side, f"{what} at {node.name}: {text}", "put right what it complains of, then try again")


def _unreachable(error: RedisError, node: Node) -> SlotferryError:
    side, cause = node.side, error.__context__
    if isinstance(cause, ssl.SSLError):
        reason, hint = _explain_tls(cause, "target" if side == "target" else "source")
        return unfit(side, f"can't be reached over TLS at {node.name}: {reason}", hint)
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(error).rstrip(".")
    speech = "and speaks TLS" if node.tls else "and needs no TLS"
    hint = f"check that it runs, and that {node.name} is right {speech}"
    return lost(side, f"can't be reached at {node.name}: {text}", hint)


def _explain_tls(error: ssl.SSLError, side: str) -> tuple[str, str]:
    """Return what went wrong in a handshake and what to do about it. Codes: OpenSSL's x509_vfy.h."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message.rstrip(".")
        if error.verify_code in (10, 9):
            return text, "renew the server's certificate, or set this machine's clock right"
        if error.verify_code in (62, 64):
            return text, f"name the host that the certificate is for, in the URL or with --{side}-sni"
        return text, f"give the CA that signed the server's certificate with --{side}-ca"
    if isinstance(error, ssl.SSLEOFError):
        text = "the server ended the handshake"
    else:
        text = (error.reason or str(error)).lower().replace("_", " ")
    if "wrong version number" in text:
        return text, "check the port: this one seems to speak no TLS"
    return text, f"if it wants a client certificate, give one of its CA with --{side}-cert and --{side}-key"
