"""A connection to one server, opened and logged in, and the sentences for what goes wrong with it.

Invariant: nothing is tried twice, nothing waits without a limit, and an error names the side and the node and
says what to do.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from slotferry.errors import (
    RESUME_HINT,
    SlotferryError,
    SourceLostError,
    SourceNotReadyError,
    TargetLostError,
    TargetNotReadyError,
)
from slotferry.model.address import Address, Side
from slotferry.net.replies import MalformedReplyError, NotRespError, ReplyReader, bare

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

CONNECT_TIMEOUT = 5.0
REPLY_TIMEOUT = 10.0
RETRY_HINT = "check that it runs, then try again"
_WRITTEN = ("target", "cluster")  # the sides that are written to; a cluster is a reshard's
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPALIVE": 30, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # as redis-py

_OLD_SERVER = "-err wrong number of arguments for 'auth' command"  # before Redis 6: it knows no users
_NO_LOGINS = (
    "invalid password",
    "Client sent AUTH, but no password is set",
    (
        "AUTH <password> called without any password configured for the default user. "
        "Are you sure your configuration is correct?"
    ),
)
_LOGIN_CODES = {
    "WRONGPASS": "invalid username-password pair or user is disabled",
    "NOAUTH": "authentication is required",
}
_PASSING = ("max number of clients reached", "problem with LDAP service")


class Link:
    """One connection, for whoever speaks RESP on it. Made by `Connector.dial`."""

    def __init__(
        self,
        side: Side,
        where: Address | str,
        login: tuple[str | None, str | None],
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
    ) -> None:
        """Take where the server is reached (a TCP address, or a Unix socket's path) and how."""
        self.side = side
        self.name = str(where)
        self.tls = context is not None
        self.login_refused = False
        self._where = where
        self._login = login
        self._context = context
        self._server_name = server_name
        self._socket: socket.socket | None = None

    @property
    def connection(self) -> socket.socket:
        """The socket of the open connection."""
        if self._socket is None:
            raise ValueError(f"the connection to {self.name} is not open")
        return self._socket

    def open(self) -> None:
        """Connect and log in. Raises `SlotferryError`."""
        try:
            self._connect()
            self._log_in()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up, and be done with it."""
        if self._socket is not None:
            self.hang_up()
            self._socket.close()

    def hang_up(self) -> None:
        """Let whoever waits for this server lose the connection. May be called by another thread."""
        if (connected := self._socket) is not None:
            with suppress(OSError):
                # Below TLS: its own farewell is no business of another thread.
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def _connect(self) -> None:
        try:
            plain = (
                _unix(self._where, self._begin)
                if isinstance(self._where, str)
                else _tcp(self._where, self._begin)
            )
            if self._context is not None and isinstance(self._where, Address):
                wrapped = self._context.wrap_socket(
                    plain,
                    server_hostname=self._server_name or self._where.host,
                    do_handshake_on_connect=False,
                )
                self._socket = wrapped  # it can be hung up on while it shakes hands
                wrapped.do_handshake()
        except TimeoutError as error:
            raise unreachable(self, error, "Timeout connecting to server") from None
        except OSError as error:
            raise unreachable(self, error, str(error)) from None

    def _begin(self, plain: socket.socket) -> None:
        self._socket = plain  # it can be hung up on while it is connected

    def _log_in(self) -> None:
        username, password = self._login
        if not username and not password:
            return
        # A user without a password logs in with an empty one.
        reply = self._ask("AUTH", *([username] if username else []), password or "")
        if reply.lower() == _OLD_SERVER:
            reply = self._ask("AUTH", password or "")
        if reply != "+OK":
            raise self._refusal(reply)

    def _ask(self, *command: str) -> str:
        """Send one command and return the line that answers it."""
        try:
            self.connection.sendall(encode(*command))
            line = ReplyReader(self.connection, REPLY_TIMEOUT).line()
        except TimeoutError as error:
            raise unreachable(self, error, "Timeout reading from socket") from None
        except MalformedReplyError as error:
            raise malformed(self, command[0], error) from None
        except (OSError, EOFError) as error:
            raise unreachable(self, error, str(error)) from None
        self.connection.settimeout(REPLY_TIMEOUT)
        return line.decode("utf-8", "replace")

    def _refusal(self, reply: str) -> SlotferryError:
        """Return the error for an answer to AUTH, of which nothing is repeated but what is known beforehand.

        A server that does not know the command quotes its arguments: the password.
        """
        kind, text = reply[:1], reply[1:]
        code, _, rest = text.partition(" ")
        if kind not in ("-", "+", ":", "$", "*"):
            return speaks_no_resp(self)
        if kind != "-" or code in _LOGIN_CODES or (code == "ERR" and rest in _NO_LOGINS):
            self.login_refused = True
            known = rest if rest in _NO_LOGINS else _LOGIN_CODES.get(code, "Invalid Username or Password")
            return refuses_login(self, known)
        if code == "LOADING":
            return loads(self)
        if code == "NOPERM":
            return lacks_right(self, "it may not run AUTH")
        if code == "ERR" and rest in _PASSING:
            return unreachable(self, None, rest)
        if code == "DENIED":
            return refuses(self, "DENIED, it is in protected mode")
        if "unknown command" in rest:
            hint = "where AUTH is renamed away, name a user without a password, or give it its name back"
            return not_ready(self.side, f"does not know AUTH at {self.name}", hint)
        hint = "log in with redis-cli to see it, then try again"
        what = f"answers AUTH at {self.name} with an error, not shown since it may quote the password"
        return not_ready(self.side, what, hint)


def _tcp(address: Address, begin: Callable[[socket.socket], None]) -> socket.socket:
    failure: OSError | None = None
    for family, kind, protocol, _, where in socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM
    ):
        try:
            return _connected(socket.socket(family, kind, protocol), where, begin)
        except OSError as error:  # noqa: PERF203 - a handful of addresses
            failure = error
    raise failure or OSError("the name has no address")


def _unix(path: str, begin: Callable[[socket.socket], None]) -> socket.socket:
    return _connected(socket.socket(socket.AF_UNIX), path, begin)


def _connected(plain: socket.socket, where: object, begin: Callable[[socket.socket], None]) -> socket.socket:
    begin(plain)
    try:
        if plain.family != socket.AF_UNIX:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _KEEP_ALIVE.items():
                if (option := getattr(socket, name, None)) is not None:
                    plain.setsockopt(socket.IPPROTO_TCP, option, value)
        plain.settimeout(CONNECT_TIMEOUT)
        plain.connect(where)  # type: ignore[arg-type]
        plain.settimeout(REPLY_TIMEOUT)
    except BaseException:
        plain.close()
        raise
    return plain


def encode(*parts: bytes | str | int) -> bytes:
    """Return one command in RESP."""
    pieces = [b"*%d\r\n" % len(parts)]
    for part in parts:
        raw = part if isinstance(part, bytes) else str(part).encode()
        pieces.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(pieces)


def command_name(command: Sequence[str | bytes | int]) -> str:
    """Return what a command is called in a message: `INFO`, `CLUSTER SLOTS`; keys are no part of it."""
    words = [str(part) for part in command[:2] if isinstance(part, str) and part.isupper()]
    return " ".join(words) or "a command"


def not_ready(side: Side, what: str, hint: str) -> SlotferryError:
    """Return the error for a side that needs a person: `the <side> <what>`."""
    return (TargetNotReadyError if side in _WRITTEN else SourceNotReadyError)(f"the {side} {what}", hint=hint)


def lost(side: Side, what: str, hint: str) -> SlotferryError:
    """Return the error for a side that may be reached later: `the <side> <what>`."""
    return (TargetLostError if side in _WRITTEN else SourceLostError)(f"the {side} {what}", hint=hint)


def lacks_right(link: Link, text: str) -> SlotferryError:
    """Return the error for a NOPERM."""
    hint = "grant it with ACL SETUSER, or log in as another user"
    return not_ready(link.side, f"user lacks an ACL permission at {link.name}: {_bare(text)}", hint)


def refuses_login(link: Link, text: str) -> SlotferryError:
    """Return the error for a login that the server does not know."""
    hint = f"check the user and password of the {link.side} URL or SLOTFERRY_{link.side.upper()}_PASSWORD"
    return not_ready(link.side, f"refuses the login at {link.name}: {_bare(text)}", hint)


def speaks_no_resp(link: Link) -> SlotferryError:
    """Return the error for a reply that is not RESP."""
    hint = "check the port; for one that speaks TLS use rediss:// or rediss+cluster://"
    return not_ready(link.side, f"does not speak RESP at {link.name}", hint)


def malformed(link: Link, command: str, error: MalformedReplyError) -> SlotferryError:
    """Return the error for a reply to `command` that is not what the command gives."""
    if isinstance(error, NotRespError):
        return speaks_no_resp(link)
    hint = "see what answers there: a Redis or Valkey server does not"
    return not_ready(link.side, f"answers {command} at {link.name} with a reply {error}", hint)


def refuses(link: Link, text: str, command: str = "") -> SlotferryError:
    """Return the error for an error reply to `command`, or to whoever connects."""
    what = f"answers {command} with an error" if command else "refuses the connection"
    hint = "fix the reported error, then try again"
    return not_ready(link.side, f"{what} at {link.name}: {_bare(text)}", hint)


def loads(link: Link) -> SlotferryError:
    """Return the error for a server that is not up yet."""
    return lost(link.side, f"is loading its data at {link.name}", "wait until it is up, then " + RESUME_HINT)


def unreachable(link: Link, cause: BaseException | None, text: str) -> SlotferryError:
    """Return the error for a connection that can't be opened, or breaks: `text` where `cause` is silent."""
    if link.tls:
        from slotferry.net.tls import explain  # only here: see its docstring

        if explained := explain(cause, "source" if link.side == "Sentinel" else link.side):
            reason, hint = explained
            return not_ready(link.side, f"can't be reached over TLS at {link.name}: {reason}", hint)
    if isinstance(cause, OSError) and cause.strerror:
        text = cause.strerror
    speech = "and speaks TLS" if link.tls else "and needs no TLS"
    hint = f"check that it runs, and that {link.name} is right {speech}"
    return lost(link.side, f"can't be reached at {link.name}: {_bare(text)}", hint)


def _bare(text: str) -> str:
    return bare(text).rstrip(".")


def shortest(call: Callable[[], object], samples: int = 5) -> float:
    """Return how long the quickest of some calls takes, in seconds."""
    times = []
    for _ in range(samples):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times)
