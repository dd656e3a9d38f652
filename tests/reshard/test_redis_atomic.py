"""CLUSTER MIGRATION of Redis 8.4, against scripted peers: no such server may be at hand.

Invariant: the replies are those of the command's documentation: IMPORT returns an id, STATUS a list of tasks,
each a flat list of fields and values.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from slotferry.errors import TargetLostError, TargetNotReadyError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.reshard.cluster.members import Member
from slotferry.reshard.cluster.methods import Pair, choose_method
from slotferry.reshard.limits import Limits, Scheduler
from slotferry.reshard.move.atomic import RedisAtomic

Answer = Callable[[list[str]], bytes]
SOURCE, TARGET = "a" * 40, "b" * 40


def bulk(text: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text.encode())


def array(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(parts)


def task(state: str, error: str = "") -> bytes:
    fields = {
        "id": "t1", "slots": "0-9 20-20", "source": SOURCE, "dest": TARGET, "operation": "import",
        "state": state, "last_error": error,
    }  # fmt: skip
    retries = [bulk("retries"), b":0\r\n", bulk("write_pause_ms"), b":3\r\n"]
    return array(*(bulk(part) for pair in fields.items() for part in pair), *retries)


def nodes(me: str, mine: str, other: str, others: str) -> bytes:
    lines = [
        f"{me} 127.0.0.1:1@2 myself,master - 0 0 1 connected {mine}",
        f"{other} 127.0.0.1:3@4 master - 0 0 2 connected {others}",
    ]
    return bulk("\n".join(lines) + "\n")


@contextmanager
def peer(answer: Answer) -> Iterator[Address]:
    """Yield the address of a server that answers each command with what `answer` returns."""
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as file:
            while line := file.readline():
                parts = [file.read(int(file.readline()[1:]) + 2)[:-2].decode() for _ in range(int(line[1:]))]
                connection.sendall(answer(parts))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            sockets.append(connection)
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield Address("127.0.0.1", listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


class Servers:
    """A source that owns slots 0 to 100 and a target; `states` are what STATUS says, one after the other."""

    def __init__(self, states: list[bytes], imported: bytes = b"$2\r\nt1\r\n") -> None:
        self.states = states
        self.imported = imported
        self.asked: list[list[str]] = []

    def source(self, command: list[str]) -> bytes:
        if command[1] == "NODES":
            return nodes(SOURCE, "0-100", TARGET, "101-16383")
        if command[1] == "COUNTKEYSINSLOT":
            return b":2\r\n"
        return array()

    def target(self, command: list[str]) -> bytes:
        if command[1] == "COUNTKEYSINSLOT":
            return b":3\r\n"
        self.asked.append(command)
        if command[1] == "NODES":
            return nodes(TARGET, "101-16383", SOURCE, "0-100")
        if command[2] == "IMPORT":
            return self.imported
        if command[3] == "ALL":
            return array()
        return array(self.states.pop(0))


@pytest.fixture
def mover(stack: ExitStack) -> Callable[[Servers], RedisAtomic]:
    def make(servers: Servers) -> RedisAtomic:
        ends = [stack.enter_context(peer(answer)) for answer in (servers.source, servers.target)]
        source, target = (
            Member(name, address, address, frozenset({"master"}), None, 1, frozenset())
            for name, address in zip((SOURCE, TARGET), ends, strict=True)
        )
        connector = Connector(Endpoint("redis+cluster", tuple(ends)), "cluster")
        method = RedisAtomic(connector, Pair(source, target), Scheduler(Limits(), CancelRequest()))
        stack.callback(method.close)
        return method

    return make


def test_slots_are_imported_as_one_task(mover: Callable[[Servers], RedisAtomic]) -> None:
    servers = Servers([task("wait-stream-eof"), task("completed")])
    told: list[tuple[int, int]] = []

    outcome = mover(servers).move([*range(10), 20, 300], lambda keys, size: told.append((keys, size)))

    assert ["CLUSTER", "MIGRATION", "IMPORT", "0", "9", "20", "20"] in servers.asked
    assert servers.asked[-1] == ["CLUSTER", "MIGRATION", "STATUS", "ID", "t1"]
    assert outcome.moved == [300, *range(10), 20]  # the target had one of them already
    assert (outcome.keys, outcome.left) == (25, {})
    assert told == [(3, 0), (22, 0)]


@pytest.mark.parametrize("state", ["failed", "canceled"])
def test_a_task_that_fails_is_worth_another_try(mover: Callable[[Servers], RedisAtomic], state: str) -> None:
    with pytest.raises(TargetLostError, match=r"slots 0-1 to .*: no space"):
        mover(Servers([task(state, "no space")])).move([0, 1], lambda _keys, _size: None)


def test_refusals(mover: Callable[[Servers], RedisAtomic]) -> None:
    denied = Servers([], b"-NOPERM this user has no permissions to run the 'cluster|migration' command\r\n")
    with pytest.raises(TargetNotReadyError, match="lacks an ACL permission"):
        mover(denied).move([0], lambda _keys, _size: None)
    busy = Servers([], b"-ERR another migration task is in progress\r\n")
    with pytest.raises(TargetLostError, match="another migration task"):
        mover(busy).move([0], lambda _keys, _size: None)


@pytest.mark.parametrize(
    ("products", "versions", "method"),
    [
        (("redis", "redis"), ((8, 4, 0), (8, 6, 0)), "redis-atomic"),
        (("redis", "redis"), ((8, 2, 1), (8, 6, 0)), "setslot"),
        (("valkey", "valkey"), ((9, 0, 0), (9, 1, 2)), "valkey-atomic"),
        (("valkey", "valkey"), ((8, 1, 0), (9, 1, 2)), "setslot"),
        (("redis", "valkey"), ((8, 4, 0), (9, 1, 2)), "setslot"),
    ],
)
def test_the_method_that_both_nodes_know(
    products: tuple[str, str], versions: tuple[tuple[int, ...], tuple[int, ...]], method: str
) -> None:
    address = Address("h", 1)
    source, target = (
        Member(p, address, address, frozenset({"master"}), None, 1, frozenset(), product=p, version=v)
        for p, v in zip(products, versions, strict=True)
    )
    assert choose_method(source, target) == method
