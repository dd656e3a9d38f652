"""Connections that are opened and logged in without redis-py, and what they say of servers that refuse."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from slotferry.errors import SlotferryError, TargetLostError, TargetNotReadyError
from slotferry.model.address import Address
from slotferry.net import link
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint, Tls
from slotferry.reshard.cluster.wire import Wire, slot_commands
from tests.servers.fake import http_peer, mute_peer

Script = dict[bytes, bytes]
"""What is answered to a command that holds these bytes; an empty answer closes the connection."""


class Peer:
    """A server by script, which keeps what it was sent."""

    def __init__(self, script: Script, where: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.script = script
        self.received: list[bytes] = []
        self._listener = where
        self._context = context
        self.port: int = where.getsockname()[1] if where.family == socket.AF_INET else 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                if self._context is not None:
                    client = self._context.wrap_socket(client, server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                self.received.append(data)
                answer = next((reply for part, reply in self.script.items() if part in data), b"+OK\r\n")
                if not answer:
                    return
                client.sendall(answer)


@contextmanager
def peer(script: Script, context: ssl.SSLContext | None = None) -> Iterator[Peer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Peer(script, listener, context)
        listener.shutdown(socket.SHUT_RDWR)


def connector(port: int, login: str = "ann:secret@", tls: Tls | None = None) -> Connector:
    endpoint = Endpoint.parse(f"{'rediss' if tls else 'redis'}://{login}127.0.0.1:{port}", "cluster")
    return Connector(replace(endpoint, tls=tls or Tls()), "cluster")


def _wire(opener: Connector) -> Wire:
    return Wire(opener, opener.endpoint.addresses[0])


WAYS: list[Callable[[Connector], object]] = [Connector.open, _wire]
BAD_LOGIN = "check the user and password of the cluster URL or SLOTFERRY_CLUSTER_PASSWORD"
FIX_IT = "fix the reported error, then try again"
NO_PASSWORD = (
    "AUTH <password> called without any password configured for the default user. "
    "Are you sure your configuration is correct?"
)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("answer", "kind", "message", "hint"),
    [
        (
            "-WRONGPASS invalid username-password pair or user is disabled.",
            TargetNotReadyError,
            "refuses the login at {}: invalid username-password pair or user is disabled",
            BAD_LOGIN,
        ),
        (
            "-ERR invalid password",
            TargetNotReadyError,
            "refuses the login at {}: invalid password",
            BAD_LOGIN,
        ),
        (f"-ERR {NO_PASSWORD}", TargetNotReadyError, f"refuses the login at {{}}: {NO_PASSWORD}", BAD_LOGIN),
        (
            "-ERR Client sent AUTH, but no password is set",
            TargetNotReadyError,
            "refuses the login at {}: Client sent AUTH, but no password is set",
            BAD_LOGIN,
        ),
        ("+PONG", TargetNotReadyError, "refuses the login at {}: Invalid Username or Password", BAD_LOGIN),
        (
            "-DENIED Redis is running in protected mode.",
            TargetNotReadyError,
            "refuses the connection at {}: DENIED, it is in protected mode",
            FIX_IT,
        ),
        (
            "-ERR dance, secret",
            TargetNotReadyError,
            "answers AUTH at {} with an error, not shown since it may quote the password",
            "log in with redis-cli to see it, then try again",
        ),
        (
            "-ERR unknown command 'AUTH', with args beginning with: 'secret'",
            TargetNotReadyError,
            "does not know AUTH at {}",
            "where AUTH is renamed away, name a user without a password, or give it its name back",
        ),
        (
            "-NOPERM this user has no permissions",
            TargetNotReadyError,
            "user lacks an ACL permission at {}: it may not run AUTH",
            "grant it with ACL SETUSER, or log in as another user",
        ),
        (
            "-LOADING Redis is loading the dataset in memory",
            TargetLostError,
            "is loading its data at {}",
            "wait until it is up, then run the same command again to go on from the last checkpoint",
        ),
        (
            "-ERR max number of clients reached",
            TargetLostError,
            "can't be reached at {}: max number of clients reached",
            "check that it runs, and that {} is right and needs no TLS",
        ),
        (
            "",
            TargetLostError,
            "can't be reached at {}: Connection closed by server",
            "check that it runs, and that {} is right and needs no TLS",
        ),
    ],
)
def test_a_login_that_is_answered_otherwise(
    way: Callable[[Connector], object],
    answer: str,
    kind: type[SlotferryError],
    message: str,
    hint: str,
) -> None:
    reply = f"{answer}\r\n".encode() if answer else b""
    with peer({b"AUTH": reply}) as server, pytest.raises(kind) as raised:
        way(connector(server.port))
    name = f"127.0.0.1:{server.port}"
    assert raised.value.message == f"the cluster {message.format(name)}"
    assert raised.value.hint == hint.format(name)


@pytest.mark.parametrize("way", WAYS)
def test_no_server_no_resp_and_no_answer(
    way: Callable[[Connector], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with pytest.raises(TargetLostError, match=rf"reached at 127\.0\.0\.1:{port}: Connection refused"):
            way(connector(port))
    with http_peer() as port, pytest.raises(TargetNotReadyError, match="does not speak RESP") as raised:
        way(connector(port))
    assert "for one that speaks TLS use rediss://" in raised.value.hint
    monkeypatch.setattr(link, "REPLY_TIMEOUT", 0.1)
    with mute_peer() as port, pytest.raises(TargetLostError, match=r"Timeout reading from socket$"):
        way(connector(port))


@pytest.mark.parametrize(
    ("login", "sent"),
    [
        ("ann:secret@", [b"AUTH", b"ann", b"secret"]),
        ("ann@", [b"AUTH", b"ann", b""]),
        (":secret@", [b"AUTH", b"secret"]),
        ("", None),
    ],
)
def test_what_is_sent_to_log_in(login: str, sent: list[bytes] | None) -> None:
    with peer({b"PING": b"+PONG\r\n"}) as server, _wire(connector(server.port, login)) as wire:
        assert wire.call("PING") == b"+PONG"
    assert server.received == ([link.encode(*sent)] if sent else []) + [link.encode("PING")]


def test_a_server_that_knows_no_users() -> None:
    script = {b"ann": b"-ERR wrong number of arguments for 'auth' command\r\n"}
    with peer(script) as server:
        _wire(connector(server.port)).close()
    assert server.received == [link.encode("AUTH", "ann", "secret"), link.encode("AUTH", "secret")]


def test_a_refused_login_is_tried_again_with_another_one() -> None:
    given = iter(["old", "new", "newest"])
    with peer({b"old": b"-WRONGPASS no\r\n"}) as server:
        endpoint = replace(connector(server.port).endpoint, password=lambda: next(given))
        _wire(Connector(endpoint, "cluster")).close()
    assert server.received == [link.encode("AUTH", "ann", "old"), link.encode("AUTH", "ann", "new")]


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        server = Peer({}, listener)
        opener = Connector(Endpoint.parse(f"unix://ann:secret@{path}", "source"), "source")
        opened = opener.dial()
        assert opened.name == str(path)
        opened.close()
        listener.shutdown(socket.SHUT_RDWR)
    assert server.received == [link.encode("AUTH", "ann", "secret")]


@pytest.mark.parametrize("way", WAYS)
def test_tls_and_certificates_that_are_wrong(way: Callable[[Connector], object], tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    stranger.cert_pem.write_to_path(str(tmp_path / "other.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("db.example").configure_cert(context)
    trusted = Tls(tmp_path / "ca.pem")
    with peer({}, context) as server:
        port = server.port
        with pytest.raises(TargetNotReadyError, match="certificate is not valid for"):
            way(connector(port, tls=trusted))
        with pytest.raises(TargetNotReadyError, match="can't be reached over TLS") as raised:
            way(connector(port, tls=Tls(tmp_path / "other.pem")))
        assert raised.value.hint == "give the CA that signed the server's certificate with --cluster-ca"
        for tls in (replace(trusted, server_name="db.example"), Tls(insecure=True)):
            opened = way(connector(port, tls=tls))
            opened.__exit__(None, None, None)  # type: ignore[attr-defined]
    assert server.received == [link.encode("AUTH", "ann", "secret")] * 2
    with http_peer() as port, pytest.raises(TargetNotReadyError) as raised:
        way(connector(port, tls=trusted))
    assert "this one seems to speak no TLS" in raised.value.hint


def test_connections_stay_alive_and_hang_up_from_another_thread() -> None:
    with peer({b"PING": b"+PONG\r\n"}) as server:
        opener = connector(server.port)
        with _wire(opener) as wire, opener.open() as node:
            assert node.address == Address("127.0.0.1", server.port)
            for plain in (wire._socket, node.link.connection):
                assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert plain.gettimeout() == link.REPLY_TIMEOUT
            opener.hang_up()
            with pytest.raises(TargetLostError):
                wire.call("PING")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a connection under way can't be hung up on")
def test_a_host_that_does_not_answer_is_hung_up_on_from_another_thread() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as first:
        first.connect(full.getsockname())
        select.select([full], [], [])  # it waits to be accepted: nobody else is let in
        connector = Connector(
            Endpoint.parse(f"redis://127.0.0.1:{full.getsockname()[1]}", "cluster"), "cluster"
        )
        errors: list[SlotferryError] = []

        def dial() -> None:
            with pytest.raises(SlotferryError) as raised:
                connector.dial()
            errors.append(raised.value)

        dialling = threading.Thread(target=dial)
        dialling.start()
        while dialling.is_alive():
            connector.hang_up()
            dialling.join(0.01)
    (error,) = errors
    assert isinstance(error, TargetLostError)
    assert "Timeout" not in error.message


def test_a_node_whose_connection_broke_is_connected_anew() -> None:
    script = {b"ODD": b"*1\r\n" * 20, b"PING": b"+PONG\r\n"}
    with peer(script) as server, connector(server.port).open() as node:
        with pytest.raises(
            TargetNotReadyError, match=r"answers ODD at .* with a reply nested deeper than 16"
        ):
            node.call("ODD")
        assert node.call("PING") == b"PONG"
    assert server.received.count(link.encode("AUTH", "ann", "secret")) == 2


def test_commands_of_many_slots_are_those_of_one() -> None:
    for rest in ((), ("STABLE",), ("NODE", "f" * 40), (1_000,)):
        one_by_one = [link.encode("CLUSTER", "SETSLOT", slot, *rest) for slot in (0, 10, 16_383)]
        assert slot_commands("SETSLOT", (0, 10, 16_383), *rest) == one_by_one
