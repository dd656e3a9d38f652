"""The application's commands on real servers: their keys, MONITOR as each version writes it, the shop."""

from __future__ import annotations

import re
import signal
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

import slotferry
from slotferry import CheckOptions, CheckReport, VerifyOptions
from slotferry.model.rules import load_rules
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.preflight.application.commands import CommandTable, local_keys
from slotferry.preflight.application.crossslot import CommandUse
from slotferry.preflight.application.monitor import MonitorRefusedError, Observed, Watch, parse_line
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import migrate
from tests.servers.kinds import ServerKind
from tests.servers.raw import RawConnection, ServerError, connect, encode
from tests.servers.shop import CHECKOUT, fill_shop, one_round, open_shop

_SECRET = "hunter2-very-secret"
_KINDS = ["redis-6.2", "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"]
every_kind = pytest.mark.parametrize("source", _KINDS, indirect=True)

_CALLS = """
GET a
MGET a b c
MSET a 1 b 2
MSETNX a 1 b 2
DEL a b
EXISTS a
RENAME a b
SINTERSTORE out a b
SMOVE a b member
ZUNIONSTORE out 2 a b WEIGHTS 1 2
ZINTER 2 a b
ZINTERCARD 2 a b LIMIT 1
LMPOP 2 a b LEFT
BLMPOP 1 2 a b LEFT
BZMPOP 1 2 a b MIN
BLPOP a b 1
BRPOPLPUSH a b 1
LMOVE a b LEFT RIGHT
BITOP AND out a b
PFMERGE out a b
COPY a b
EVAL script 2 a b arg
EVALSHA 0123 1 a arg
FCALL name 1 a arg
XREAD COUNT 2 STREAMS a b 0 0
XREADGROUP GROUP streams me COUNT 1 STREAMS a >
XADD a * field value
XGROUP CREATE a group 0
SORT a BY w_* STORE out
GEORADIUS a 1 2 3 km STORE out
GEOSEARCHSTORE out a FROMLONLAT 1 2 BYRADIUS 3 km
OBJECT ENCODING a
MEMORY USAGE a
MIGRATE host 6379 a 0 100
HSET a field value
SETRANGE a 1 x
""".strip().splitlines()


def _connector(server: LocalServer) -> Connector:
    return Connector(Endpoint.parse(server.url, "source"), "source")


@every_kind
def test_keys_are_those_that_the_server_finds(source: LocalServer) -> None:
    with connect(source) as connection, _connector(source).open() as node:
        table = CommandTable.parse(node.call("COMMAND"))
        for call in _CALLS:
            arguments = call.encode().split()
            (told,) = connection.pipeline([encode("COMMAND", "GETKEYS", *arguments)])
            if isinstance(told, ServerError):
                continue  # the command is newer than the server
            for known in (table, CommandTable()):
                found = local_keys(arguments, known)
                # Servers before 7.0 name a destination last, newer ones first: that is all the same.
                assert found is not None, call
                assert sorted(found) == sorted(told), call


@every_kind
def test_monitor_gives_back_what_was_sent(source: LocalServer) -> None:
    odd = [bytes(range(256)), b"", b'quote " and \\', b"line\r\nbreak", b'] "x', "鍵".encode()]
    seen: list[Observed] = []
    with source.client() as asking:
        if str(asking.info("server").get("valkey_version", "")).startswith("8.1"):
            odd = [argument for argument in odd if not {34, 92} & set(argument)]  # which it does not escape
    with _connector(source).open() as node, connect(source) as client:
        watch = Watch(node, 30.0)
        started = threading.Event()

        def send() -> None:
            started.wait()
            client.execute("ECHO", "begin")
            client.execute("MGET", *odd)
            client.execute("EVAL", "return redis.call('GET', KEYS[1])", 1, "of a script")
            client.execute("ECHO", "end")

        thread = threading.Thread(target=send)
        thread.start()
        # A command of our own shows that MONITOR is on.
        with connect(source) as probe:
            probing = threading.Thread(target=_echo_until, args=(probe, started))
            probing.start()
            for observed in watch:
                assert observed is not None
                started.set()
                seen.append(observed)
                if observed.arguments == (b"ECHO", b"end"):
                    break
            probing.join()
        thread.join()

    assert watch.unreadable == 0
    assert (b"MGET", *odd) in [observed.arguments for observed in seen]
    (in_script,) = [observed for observed in seen if observed.by_script]
    assert in_script.arguments[1:] == (b"of a script",)


def _echo_until(connection: RawConnection, started: threading.Event) -> None:
    while not started.wait(0.01):
        connection.execute("ECHO", "are you there")


def test_a_refused_monitor_is_told_as_such(source: LocalServer) -> None:
    with source.client() as client:
        client.execute_command("ACL", "SETUSER", "blind", "on", f">{_SECRET}", "~*", "+@all", "-monitor")
    url = source.url.replace("://", f"://blind:{_SECRET}@")
    try:
        node = Connector(Endpoint.parse(url, "source"), "source").open()
        with node, pytest.raises(MonitorRefusedError, match="NOPERM"):
            list(Watch(node, 30.0))
    finally:
        with source.client() as client:
            client.acl_deluser("blind")


def _use(report: CheckReport, kind: str) -> CommandUse:
    assert report.application is not None
    (use,) = [use for use in report.application.uses if use.kind == kind and use.breaks]
    return use


def _assert_shop_is_understood(report: CheckReport) -> None:
    users, script = _use(report, "multi-key"), _use(report, "script")
    transaction, queue = _use(report, "transaction"), _use(report, "blocking")

    assert (users.command, users.patterns, users.tagged, users.constant) == (
        "MGET", ("user:*",), ("{user}:*",), True,
    )  # fmt: skip
    assert script.tagged == ("user:{*}:cart", "user:{*}:profile")
    assert script.undeclared == ()
    assert (transaction.command, transaction.tagged) == ("MULTI HSET DECR", ("order:{*}", "stock:{*}"))
    assert queue.tagged == ("{queue}:mail", "{queue}:parcel")
    for use in (users, script, transaction, queue):
        assert use.crossing > 0
        assert report.application is not None
        assert report.application.advice[use]
    for name in ("multi-key", "scripts", "transactions", "blocking"):
        row = report.row(name)
        assert row is not None
        assert row.status == "warning", row
    row = report.row("cluster-commands")
    assert row is not None
    assert "PUBLISH" in row.message


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_the_shop_is_watched(source: LocalServer, cluster: LocalCluster) -> None:
    keys = fill_shop(source)
    told: list[str] = []
    with open_shop(source):
        report = slotferry.check(source.url, cluster.url, CheckOptions(watch=3.0, scan_rate=1e9), told.append)

    _assert_shop_is_understood(report)
    assert report.keyspace is not None
    assert keys <= report.keyspace.keys <= keys + 2
    assert {"user:*", "user:*:cart", "order:*", "session:*"} <= {s.name for s in report.keyspace.by_pattern}
    assert any("MONITOR" in text and "throughput" in text for text in told)
    row = report.row("observed")
    assert row is not None
    assert row.status == "ok", row


# Redis 6.2 shows no CLIENT command in MONITOR: connections that were opened meanwhile look alike there.
@pytest.mark.parametrize("source", ["redis-7.0", "valkey-9.1"], indirect=True)
def test_our_own_commands_are_not_the_application_s(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(source) as connection:
        connection.execute("MSET", *(part for i in range(300) for part in (f"key:{i}", i)))
    slotferry.Migration(source.url, cluster.url).run()
    checked = threading.Event()
    runs: list[bool] = []

    def verify() -> None:
        while not checked.is_set():
            options = VerifyOptions(journal=tmp_path / "verify.db", restart=True)
            runs.append(slotferry.Verification(source.url, cluster.url, options).run().ok)

    beside = threading.Thread(target=verify)
    with connect(source) as application:
        application.execute("CONFIG", "RESETSTAT")
        beside.start()
        try:
            report = slotferry.check(source.url, cluster.url, CheckOptions(watch=2.0))
        finally:
            checked.set()
            beside.join()
        assert b"cmdstat_exists:" in application.execute("INFO", "commandstats")

    assert runs
    assert all(runs)
    assert report.application is not None
    assert report.application.uses == ()
    assert dict(report.application.otherwise) == {}
    assert any("MONITOR for" in text and "(0 commands)" in text for text in report.application.sources)


def test_the_shop_is_read_from_a_recorded_log_and_the_tags_saved_as_rules(
    source: LocalServer, kind: ServerKind, tmp_path: Path, stack: ExitStack
) -> None:
    fill_shop(source)
    log, rules_file = tmp_path / "monitor.log", tmp_path / "tags.toml"
    with log.open("wb") as file:
        file.write(b"OK\nnot a line of MONITOR\n")
        for line in _recorded(source, rounds=40):
            file.write(line)
    # So small that the one with the users' slot would overflow.
    small = stack.enter_context(LocalCluster(kind.binary, config={"maxmemory": "2mb"}))

    done = run("check", source.url, small.url, "--commands", str(log), "--save-rules", str(rules_file))
    report = slotferry.check(source.url, small.url, CheckOptions(commands=log))

    _assert_shop_is_understood(report)
    observed = [row for row in report.rows if row.name == "observed"]
    assert any("1 lines" in row.message for row in observed)
    for tag in ("{user}:*", "user:{*}:cart", "user:{*}:profile", "order:{*}", "stock:{*}"):
        assert tag in done.stdout
    assert re.search(r"into slot 5474 at \S+, which would overflow", done.stdout)
    rules = {rule.match: str(rule.to) for rule in load_rules(rules_file)}  # type: ignore[union-attr]
    assert rules["^user:([0-9]+):cart$"] == "user:{$1}:cart"
    assert rules["^stock:([0-9]+)$"] == "stock:{$1}"
    assert "^user:([0-9]+)$" not in rules


def test_the_saved_rules_mend_what_was_found(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    fill_shop(source, users=50)
    log, rules = tmp_path / "monitor.log", tmp_path / "tags.toml"
    log.write_bytes(b"".join(_recorded(source, rounds=20)))

    run("check", source.url, cluster.url, "--commands", str(log), "--save-rules", str(rules))
    moved = run("migrate", source.url, cluster.url, "--rules", str(rules), "--json")

    assert moved.code == 0, moved.stderr
    with cluster.client() as client:
        # redis-py's cluster client refuses both with keys of several slots, and so would the server.
        assert client.eval(CHECKOUT, 2, "user:{7}:cart", "user:{7}:profile") == 3
        with client.pipeline(transaction=True) as transaction:
            transaction.hset("order:{7}", "state", "paid")
            transaction.decr("stock:{7}")
            assert transaction.execute() == [0, 98]
        assert client.get("user:7") == b"name 7 " + b"x" * 400


def test_ctrl_c_ends_the_watch_and_what_was_seen_counts(source: LocalServer, cluster: LocalCluster) -> None:
    fill_shop(source, users=20)
    with (
        open_shop(source, users=20),
        Running("check", source.url, cluster.url, "--json", "--watch", "1h") as watching,
        connect(source) as client,
    ):
        wait_until(lambda: b"flags=O" in client.execute("CLIENT", "LIST"), "MONITOR to be on", timeout=120)
        seen = _calls(client, "mget")
        wait_until(lambda: _calls(client, "mget") > seen + 20, "the shop to serve some", timeout=120)
        watching.send(signal.SIGINT)
        done = watching.finish()

    assert done.code == 0, done.stderr
    found = {use["command"] for use in done.summary["commands"]["uses"]}
    assert {"MGET", "MULTI HSET DECR"} <= found


def _calls(client: RawConnection, command: str) -> int:
    found = re.search(rb"cmdstat_%b:calls=(\d+)" % command.encode(), client.execute("INFO", "commandstats"))
    return int(found[1]) if found else 0


def _recorded(server: LocalServer, rounds: int) -> list[bytes]:
    """What `redis-cli monitor` would have written down."""
    with connect(server) as monitor, connect(server) as client:
        monitor.send(b"*1\r\n$7\r\nMONITOR\r\n")
        received = monitor.receive()
        for number in range(rounds):
            client.pipeline_checked(one_round(number))
        client.execute("ECHO", "the end")
        while b"the end" not in received:
            received += monitor.receive()
    lines = [line.removeprefix(b"+").rstrip(b"\r") + b"\n" for line in received.split(b"\n")[:-1]]
    assert sum(parse_line(line) is not None for line in lines) >= rounds * len(one_round(0))
    return lines


def test_without_a_watch_the_statistics_tell_what_is_not_known(
    source: LocalServer, cluster: LocalCluster
) -> None:
    fill_shop(source)
    with connect(source) as client:
        client.execute("CONFIG", "RESETSTAT")
        client.execute("SLOWLOG", "RESET")
        for number in range(5):
            client.pipeline_checked(one_round(number))

    report = slotferry.check(source.url, cluster.url)
    row = report.row("observed")

    assert row is not None
    assert row.status == "warning"
    for name in ("MGET 5 times", "EVAL 5 times", "EXEC 5 times"):
        assert name in row.message
    assert "--watch" in row.advice


def test_transactions_of_a_copy_are_not_the_applications(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as client:
        client.execute("RPUSH", "large", *("x" * 100 for _ in range(2_000)))
        client.execute("CONFIG", "RESETSTAT")
        assert migrate(source, cluster, big_key_bytes=65_536).ok
        assert b"cmdstat_exec:" in client.execute("INFO", "commandstats")

    row = slotferry.check(source.url, cluster.url).row("observed")

    assert row is not None
    assert row.status == "ok"
    assert "not counted: EXEC" in row.message


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_the_slow_log_is_evidence_too(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as client:
        before = client.execute("CONFIG", "GET", "slowlog-log-slower-than")[1]
        client.execute("SLOWLOG", "RESET")
        client.execute("CONFIG", "SET", "slowlog-log-slower-than", 0)
        client.execute("MGET", "user:1:cart", "user:1:wish")
        client.execute("CONFIG", "SET", "slowlog-log-slower-than", before)

    report = slotferry.check(source.url, cluster.url)

    assert _use(report, "multi-key").tagged == ("user:{*}:cart", "user:{*}:wish")
    assert report.application is not None
    assert {"SLOWLOG", "COMMANDLOG"} & set(report.application.sources)


def test_what_is_refused_is_a_row_and_the_rest_goes_on(source: LocalServer, cluster: LocalCluster) -> None:
    fill_shop(source, users=10)
    with source.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "blind", "on", f">{_SECRET}", "~*", "+@all", "-monitor", "-command", "-slowlog"
        )
    try:
        done = run(
            "check", source.url.replace("://", "://blind@"), cluster.url, "--json", "--watch", "1s",
            env={"SLOTFERRY_SOURCE_PASSWORD": _SECRET},
        )  # fmt: skip
    finally:
        with source.client() as client:
            client.acl_deluser("blind")
    rows = [row for row in done.lines if row.get("name") == "observed"]

    assert done.code == 0, done.stderr
    assert any("MONITOR is refused" in row["message"] for row in rows)
    assert done.summary["data"]["keys"] == 60
    assert _SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text", [b"", b"GET a\nMGET a b\n", b'{"cmd": ["MGET"], "password": "hunter2"}\n', b"\x00" * 500]
)
def test_a_log_in_another_format_is_a_row(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path, text: bytes
) -> None:
    log = tmp_path / "commands.log"
    log.write_bytes(text)

    done = run("check", source.url, cluster.url, "--json", "--commands", str(log))
    row = next(row for row in done.lines if row.get("name") == "observed")

    assert done.code == 0, done.stderr
    assert row["status"] == "warning"
    assert "holds no MONITOR line" in row["message"]
    assert "redis-cli monitor" in row["advice"]
    assert "hunter2" not in done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [("--commands", "/nonexistent"), ("--watch", "soon"), ("--watch", "0")])
def test_what_makes_no_sense(source: LocalServer, cluster: LocalCluster, arguments: tuple[str, str]) -> None:
    done = run("check", source.url, cluster.url, *arguments)

    assert done.code == 2
    assert "Traceback" not in done.stderr
