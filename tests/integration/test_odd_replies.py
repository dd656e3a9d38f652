"""Servers that answer what no server answers: a run ends with a sentence that names the node, and no bug."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import Migration, Options
from slotferry.errors import ExitCode, SlotferryError
from slotferry.preflight.check import CheckOptions, check
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.forger import Forge, Forger, Forgery, answering

_KEYS = 300


class Sides:
    """A source and a cluster, each behind a forger that passes everything until it is told otherwise."""

    def __init__(self, source: LocalServer, cluster: LocalCluster, stack: ExitStack) -> None:
        self.cluster = cluster
        self.source = stack.enter_context(Forger(source.host, source.port))
        self.nodes = [stack.enter_context(Forger(node.host, node.port)) for node in cluster.primaries]
        pairs = zip(cluster.primaries, self.nodes, strict=True)
        self.address_map = tuple(f"{node.host}:{node.port}={forger.address}" for node, forger in pairs)
        self.target_url = f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    def forge_target(self, forge: Forge) -> None:
        for node in self.nodes:
            node.forge = forge

    def migrate(self, **options: object) -> Migration:
        given = {"address_map": self.address_map, "retry_for": 2.0, **options}
        return Migration(self.source.url, self.target_url, Options(**given))  # type: ignore[arg-type]


@pytest.fixture
def sides(source: LocalServer, cluster: LocalCluster, stack: ExitStack) -> Sides:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(_KEYS)})
    return Sides(source, cluster, stack)


def _ends(migration: Migration) -> SlotferryError | None:
    """Return what ended a run; None where it was completed."""
    try:
        migration.run()
    except SlotferryError as error:
        return error
    return None


def _assert_told(error: SlotferryError, *names: str) -> None:
    assert error.exit_code not in (ExitCode.BUG, ExitCode.OK), repr(error)
    assert len(error.message) < 1000
    assert error.message.isprintable()
    assert any(name in error.message for name in names), error.message


_DEEP = b"*1\r\n" * 10_000
ODD = {
    "nested deep": _DEEP,
    "endless": b"$9223372036854775807\r\n",
    "too long": b"*9223372036854775808\r\n",
    "no number": b"$x\r\n",
    "negative": b":-5\r\n",
    "huge": b":9223372036854775807\r\n",
    "nil": b"$-1\r\n",
    "nil array": b"*-1\r\n",
    "empty": b"$0\r\n\r\n",
    "empty array": b"*0\r\n",
    "text": b"$5\r\nhello\r\n",
    "status": b"+QUEUED\r\n",
    "array of nils": b"*3\r\n$-1\r\n*-1\r\n$-1\r\n",
    "not UTF-8": b"$4\r\n\xff\xfe\x00\r\r\n",
    "long error": b"-ERR " + b"x" * 60_000 + b"\r\n",
    "control characters": b"-ERR \x1b[31m\x07\x9b\r\n",
    "long line": b"+" + b"x" * 100_000 + b"\r\n",
    "digits": b"$6025\r\nredis_version:%b\r\nrun_id:%b\r\n" % (b"9" * 3000, b"8" * 3000) + b"\r\n",
    "http": b"HTTP/1.1 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
def test_odd_replies_of_the_source(sides: Sides, reply: bytes) -> None:
    for command in ("INFO", "DBSIZE"):
        sides.source.forge = answering(reply, command)
        error = _ends(sides.migrate(restart=True))
        if error is None:  # a DBSIZE of text may be one: it is only a forecast
            assert count_keys(sides.cluster) == _KEYS
        else:
            _assert_told(error, sides.source.address)


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
def test_odd_replies_of_the_target(sides: Sides, reply: bytes) -> None:
    for command in (("INFO",), ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"), ("CLUSTER", "NODES")):
        sides.forge_target(answering(reply, *command))
        error = _ends(sides.migrate(restart=True))
        if error is None:
            assert count_keys(sides.cluster) == _KEYS
        else:
            _assert_told(error, *(node.address for node in sides.nodes), "cluster")


def _slots(first: bytes, last: bytes, host: bytes, port: bytes) -> bytes:
    return b"*1\r\n*3\r\n%b%b*3\r\n%b%b$2\r\nid\r\n" % (first, last, host, port)


_HOST, _PORT = b"$9\r\n127.0.0.1\r\n", b":6379\r\n"
ODD_SLOTS = {
    "slot 99999": _slots(b":0\r\n", b":99999\r\n", _HOST, _PORT),
    "negative slot": _slots(b":-1\r\n", b":16383\r\n", _HOST, _PORT),
    "backwards": _slots(b":16383\r\n", b":0\r\n", _HOST, _PORT),
    "text as slot": _slots(b"$1\r\nx\r\n", b":16383\r\n", _HOST, _PORT),
    "host of 300": _slots(b":0\r\n", b":16383\r\n", b"$300\r\n%b\r\n" % (b"h" * 300), _PORT),
    "host not UTF-8": _slots(b":0\r\n", b":16383\r\n", b"$2\r\n\xff\xfe\r\n", _PORT),
    "host an array": _slots(b":0\r\n", b":16383\r\n", b"*0\r\n", _PORT),
    "host a nil array, port 70000": _slots(b":0\r\n", b":16383\r\n", b"*-1\r\n", b":70000\r\n"),
    "port -1": _slots(b":0\r\n", b":16383\r\n", _HOST, b":-1\r\n"),
    "port 0": _slots(b":0\r\n", b":16383\r\n", _HOST, b":0\r\n"),
    "port text": _slots(b":0\r\n", b":16383\r\n", _HOST, b"$4\r\nport\r\n"),
    "twice": b"*2\r\n" + _slots(b":0\r\n", b":16383\r\n", _HOST, _PORT)[4:] * 2,
}


@pytest.mark.parametrize("reply", ODD_SLOTS.values(), ids=ODD_SLOTS)
def test_odd_cluster_slots_at_the_start(sides: Sides, reply: bytes) -> None:
    sides.forge_target(answering(reply, "CLUSTER", "SLOTS"))

    error = _ends(sides.migrate())

    assert error is not None
    _assert_told(error, *(node.address for node in sides.nodes))
    assert "CLUSTER SLOTS" in error.message
    assert count_keys(sides.cluster) == 0


_ODD_LATER = {
    **ODD_SLOTS,
    **{name: ODD[name] for name in ("nested deep", "nil array", "long line", "http")},
}


@pytest.mark.parametrize("reply", _ODD_LATER.values(), ids=_ODD_LATER)
def test_odd_cluster_slots_in_mid_run(sides: Sides, reply: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """Once keys are written, a redirect that is none makes the run look at the topology again."""
    odd = answering(reply, "CLUSTER", "SLOTS")
    again = answering(b"-TRYAGAIN\r\n", "SET", times=3)
    writing = False

    def forge(arguments: tuple[bytes, ...]) -> object:
        nonlocal writing
        writing = writing or (arguments[0] == b"SET" and arguments[1].startswith(b"key:"))
        return (odd(arguments) or again(arguments)) if writing else None

    sides.forge_target(forge)  # type: ignore[arg-type]

    migration = sides.migrate()
    error = _ends(migration)
    if error is not None:  # who does not say which cluster it belongs to is written to no more
        _assert_told(error, *(node.address for node in sides.nodes))
    else:
        report = migration.result()
        assert count_keys(sides.cluster) == _KEYS or not report.ok
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("party", ["source", "target"])
@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
def test_odd_info_and_dbsize_in_mid_run(
    sides: Sides, reply: bytes, party: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once keys are written, connections are opened anew, and what is counted is looked at again."""
    odd = [answering(reply, command) for command in ("INFO", "DBSIZE")]
    writing = threading.Event()

    def lie(arguments: tuple[bytes, ...]) -> Forgery | None:
        answers = (forge(arguments) for forge in odd)
        return next(filter(None, answers), None) if writing.is_set() else None

    def pass_on(arguments: tuple[bytes, ...]) -> Forgery | None:
        if arguments[0] == b"SET" and arguments[1].startswith(b"key:") and not writing.is_set():
            writing.set()
            return Forgery(b"", close=True)  # it was written, and nobody knows
        return lie(arguments) if party == "target" else None

    sides.forge_target(pass_on)
    if party == "source":
        sides.source.forge = lie

    migration = sides.migrate()
    error = _ends(migration)
    if error is not None:
        _assert_told(error, sides.source.address, "source", *(node.address for node in sides.nodes))
    else:
        assert count_keys(sides.cluster) == _KEYS or not migration.result().ok
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("reply", ODD.values(), ids=ODD)
def test_odd_replies_to_a_check(sides: Sides, reply: bytes, tmp_path: Path) -> None:
    for command in ("SCAN", "TYPE", "ACL", "TIME", "COMMAND"):
        sides.source.forge = answering(reply, command)
        try:
            check(sides.source.url, sides.target_url, CheckOptions(address_map=sides.address_map))
        except SlotferryError as error:
            _assert_told(error, sides.source.address)
