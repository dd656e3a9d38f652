"""A shop that never closes is moved: followed, failed over, killed, and cut over with its application.

Invariant: a window is what the test itself has brought about: it begins before the fault, and ends when all
is well again and each of the shop's workers has served whole rounds since. Outside of them nothing may fail.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import RedisError

from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer, wait_until
from tests.command import COMMAND, Outcome, Running, run
from tests.faults.followed import JOB, FollowedJob
from tests.servers.kinds import ServerKind, available

_ROOT = Path(__file__).parents[2]
_RATE = 2000
_CALM_ROUNDS = 5
_BACKLOG = {"repl-backlog-size": "64mb"}
_QUICK = {"cluster-node-timeout": "2000", "repl-ping-replica-period": "1", **_BACKLOG}
_SWITCH = """
import socket
with socket.create_connection(("127.0.0.1", {port})) as shop:
    shop.sendall(b"switch\\n")
    shop.recv(1)
"""


class OpenShop:
    """The application's process, and the windows in which it may fail."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self._port = port
        self.windows: list[tuple[float, float]] = []

    @property
    def switch(self) -> str:
        """The command that lets it speak to the cluster."""
        return shlex.join([sys.executable, "-c", _SWITCH.format(port=self._port)])

    def ask(self, what: str = "tell") -> dict[str, Any]:
        """Ask it; it also is told what to do so. Fails where something was lost or doubled."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=120) as connection:
            connection.sendall(what.encode() + b"\n")
            told: dict[str, Any] = json.loads(connection.makefile("rb").readline())
        surprises = [failure for failure in told["failures"] if failure["surprise"]]
        assert not surprises, surprises[:3]
        return told

    def wait_rounds(self, count: int = _CALM_ROUNDS) -> None:
        """Wait until each worker has served so many more whole rounds."""
        until = [rounds + count for rounds in self.ask()["rounds"]]

        def served() -> bool:
            told = self.ask()
            assert self._process.poll() is None
            return all(now >= least for now, least in zip(told["rounds"], until, strict=True))

        try:
            wait_until(served, "a worker of the shop stands still", timeout=60)
        except Exception as error:
            raise AssertionError(f"{error}: {self.ask()['failures'][-4:]}") from error

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """Let it fail in here, and until it serves as before."""
        begun = time.monotonic()
        yield
        self.wait_rounds()
        self.windows.append((begun, time.monotonic()))

    def _is_explained(self, failure: dict[str, Any]) -> bool:
        return any(begun <= failure["ended"] and failure["begun"] <= ended for begun, ended in self.windows)

    def close(self) -> dict[str, Any]:
        """Close it; return what its counters have to be, and what failed outside of all windows."""
        told = self.ask("stop")
        outside = [failure for failure in told["failures"] if not self._is_explained(failure)]
        assert not outside, (outside[:5], self.windows)
        return told


@contextlib.contextmanager
def open_shop(service: LocalSentinelService, cluster: LocalCluster, kind: ServerKind) -> Iterator[OpenShop]:
    """Fill the shop, and let it serve until the end of the context."""
    words = [
        *("--sentinels", *(sentinel.address for sentinel in service.sentinels), "--service", service.service),
        *("--nodes", *(node.address for node in cluster.primaries), "--rate", str(_RATE)),
        *(("--field-ttls",) if kind.has_field_ttls else ()),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.shop", *words],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline()
        assert port, "the shop does not open"
        yield OpenShop(process, int(port))
    finally:
        process.kill()
        process.communicate()


class Move:
    """The move of a shop behind Sentinel into a cluster, by the commands that operators have."""

    def __init__(
        self, kind: ServerKind, target: ServerKind, stack: contextlib.ExitStack, folder: Path
    ) -> None:
        self.service = stack.enter_context(LocalSentinelService(kind.binary, config=_BACKLOG))
        self.cluster = stack.enter_context(LocalCluster(target.binary, replicas_per_primary=1, config=_QUICK))
        self.shop = stack.enter_context(open_shop(self.service, self.cluster, kind))
        self.job = FollowedJob(self.service.url, self.cluster.url, folder / "journal.db")
        self._stack = stack
        self._found = folder / "verified.jsonl"

    def check(self) -> None:
        """Look at both sides first."""
        told = run("check", self.service.url, self.cluster.url, "--follow", "--json")
        assert told.code == 0, told

    def start(self, *more: str) -> Running:
        """Start the run, or go on with it."""
        return self._stack.enter_context(self.job.start(*more))

    def wait_followed(self, running: Running) -> None:
        """Wait until what is written now comes to the target."""
        self.job.wait_following(running)
        mark = str(uuid.uuid4()).encode()
        with self.service.primary.client() as client:
            client.set("operator:mark", mark)

        def arrived() -> bool:
            assert not running.ended, running.finish()
            with self.cluster.client() as target:
                return bool(target.get("operator:mark") == mark)

        wait_until(arrived, "the target stays behind", timeout=90)

    def fail_over_source(self, *, kill: bool) -> None:
        """Let Sentinel promote the source's replica; a primary that was killed comes back as one."""
        self._wait_safe()
        with self.shop.window():
            old = self.service.primary
            if kill:
                self.service.fail_over()
                old.start()
            else:
                self.service.switch_over()
            wait_until(lambda: _follows(old, self.service.primary), "the old primary follows", timeout=90)

    def _wait_safe(self) -> None:
        """Wait until a replica has acknowledged some of what each worker has counted since now."""
        now = self.shop.ask()["counters"].values()
        least = [min(each.values()) for each in now]
        wait_until(
            lambda: all(safe > now for safe, now in zip(self.shop.ask()["safe"], least, strict=True)),
            "the replica acknowledges nothing",
            timeout=60,
        )

    def fail_over_target(self) -> None:
        """Let a replica of the target take over by command, and another one after its primary was killed."""
        _, second, _ = self.cluster.primaries
        promoted, heir, _ = self.cluster.replicas
        with promoted.client() as client:
            client.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: client.role()[0] == b"master", f"{promoted} to take over")
        self.cluster.wait_until_healthy()
        self.shop.wait_rounds()
        second.kill()
        with heir.client() as client:
            wait_until(lambda: client.role()[0] == b"master", f"{heir} to take over", timeout=60)
        self.cluster.wait_until_healthy()
        second.start()
        wait_until(lambda: _follows(second, heir), "the killed primary follows", timeout=60)
        self.shop.wait_rounds()

    def cut_over(self, running: Running, stop_writes: str) -> None:
        """Compare all while the source is frozen, then switch the shop; both in the cut-over's command."""
        verify = shlex.join([COMMAND, "verify", self.service.url, self.cluster.url, "--json"])
        both = f"{verify} > {shlex.quote(str(self._found))} && {self.shop.switch}"
        options = ("--stop-writes", stop_writes, "--within", "120s", "--hold", "3s", "--check", "full")
        with self.shop.window():
            command = ("--run", shlex.join(["sh", "-c", both]))
            told = run("cutover", JOB, "--journal", str(self.job.journal), "--json", *options, *command)
            assert told.code == 0, (told, self._found.exists() and self._found.read_text()[-3000:])
        assert set(self.shop.ask()["sides"]) == {"cluster"}
        report = told.lines[-1]
        assert (report["outcome"], report["differences"], report["written_afterwards"]) == ("cut_over", 0, 0)
        self._is_done(running.finish())

    def _is_done(self, ended: Outcome) -> None:
        assert (ended.code, ended.summary["status"]) == (0, "cut_over"), ended
        verified = json.loads(self._found.read_text().splitlines()[-1])
        print(json.dumps(verified))

    def close(self) -> None:
        """Close the shop, and find each of its counters at the target."""
        told = self.shop.close()
        print(json.dumps({**told, "failures": len(told["failures"])}), self.shop.windows)
        with self.cluster.client() as client:
            for till, counters in told["counters"].items():
                held = {
                    "plain": client.get(f"{till}:plain"),
                    "field": client.hget(f"{till}:hash", "n"),
                    "score": client.zscore(f"{till}:zset", "n"),
                    "sold": client.get(f"{till}:sold"),
                    "scripted": client.get(f"{till}:scripted"),
                }
                assert {name: int(value) for name, value in held.items()} == counters


def _follows(replica: LocalServer, primary: LocalServer) -> bool:
    try:
        with replica.client(socket_timeout=5) as client:
            info: Any = client.info("replication")
    except RedisError:  # Sentinel ends the connections of a primary that becomes a replica
        return False
    link = (info.get("master_port"), info.get("master_link_status"))
    return info["role"] == "slave" and link == (primary.port, "up")


def kinds(name: str) -> tuple[ServerKind, ServerKind]:
    """Return the source's kind and the target's; skips where the machine lacks one."""
    for each in (name, "valkey-9.1"):
        if each not in available():
            pytest.skip(f"this machine has no {each}")
    return available()[name], available()["valkey-9.1"]


def test_a_shop_moves_while_it_is_open(stack: contextlib.ExitStack, tmp_path: Path) -> None:
    move = Move(*kinds("redis-7.0"), stack, tmp_path)
    move.check()
    first = move.start()
    move.wait_followed(first)
    move.fail_over_source(kill=False)
    first.kill()
    move.shop.wait_rounds()
    second = move.start()
    move.wait_followed(second)
    move.cut_over(second, "pause")
    move.shop.wait_rounds()
    move.close()


@pytest.mark.long
@pytest.mark.parametrize("kill", [False, True], ids=["asked", "killed"])
@pytest.mark.parametrize("stop_writes", ["pause", "refuse"])
@pytest.mark.parametrize("name", ["redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6"])
def test_a_shop_moves_through_all_that_fails(
    name: str, stop_writes: str, kill: bool, stack: contextlib.ExitStack, tmp_path: Path
) -> None:
    move = Move(*kinds(name), stack, tmp_path)
    move.check()
    first = move.start()
    move.wait_followed(first)
    move.fail_over_source(kill=kill)
    move.wait_followed(first)
    first.kill()
    move.shop.wait_rounds(50)
    second = move.start()
    move.wait_followed(second)
    move.fail_over_target()
    move.wait_followed(second)
    move.cut_over(second, stop_writes)
    move.shop.wait_rounds(50)
    move.close()
