"""The embedded servers: they keep their secrets, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry.testing.servers import (
    LocalCluster,
    LocalSentinelService,
    LocalServer,
    LocalServerError,
    wait_until,
)
from tests.servers.kinds import ServerKind, available

_PARENT = """
import sys, time
from slotferry.testing.servers import LocalServer
server = LocalServer(sys.argv[1])
server.start()
print(server.pid, server.directory, flush=True)
sys.stdin.read()
"""


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and " Z " in Path(f"/proc/{pid}/stat").read_text()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_server_ends_with_its_parent_however_that_ends(kind: ServerKind, number: signal.Signals) -> None:
    command = [sys.executable, "-c", _PARENT, str(kind.binary)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, directory = parent.stdout.readline().split()
        parent.send_signal(number)

    wait_until(lambda: _gone(int(pid)) and not Path(directory).exists(), "the server to be gone")


@pytest.mark.parametrize("kind", available().values(), ids=lambda kind: kind.name)
def test_a_cluster_with_replicas_forms_and_every_node_knows_it(kind: ServerKind, stack: ExitStack) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1, password="x y"))

    for node in cluster.nodes:
        with node.client() as client:
            shards = client.execute_command("CLUSTER", "NODES").decode().splitlines()
            assert sum("master" in line for line in shards) == 3
            assert sum("slave" in line for line in shards) == 3
    with cluster.client() as client:
        client.set("key", "value")
        assert client.get("key") == b"value"


def test_a_cluster_with_a_dead_primary_is_healthy_when_its_replica_serves(
    kind: ServerKind, stack: ExitStack
) -> None:
    config = {"cluster-node-timeout": "1500"}
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1, config=config))
    cluster.primaries[0].kill()

    cluster.wait_until_healthy()

    with cluster.replicas[0].client() as client:
        assert client.info("replication")["role"] == "master"


def test_a_password_is_in_no_argument_list_and_in_no_readable_file(
    kind: ServerKind, stack: ExitStack
) -> None:
    server = stack.enter_context(LocalServer(kind.binary, password="hunter2 very secret"))

    arguments = subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(server.pid)], capture_output=True, text=True, check=True
    ).stdout
    assert "server.conf" in arguments or str(server.port) in arguments
    assert "hunter2" not in arguments + repr(server) + server.url
    assert (server.directory / "server.conf").stat().st_mode & 0o077 == 0


def test_a_server_starts_again_on_its_port_after_a_crash(kind: ServerKind, stack: ExitStack) -> None:
    server = stack.enter_context(LocalServer(kind.binary))
    port, pid = server.port, server.pid
    server.kill()
    assert not server.running

    server.start()

    assert server.port == port
    assert server.pid != pid
    with server.client() as client:
        assert client.ping()


def test_a_server_that_cannot_start_says_what_its_log_says(kind: ServerKind) -> None:
    with (
        pytest.raises(LocalServerError, match="no-such-setting"),
        LocalServer(kind.binary, config={"no-such-setting": "yes"}),
    ):
        pass


def test_nothing_is_left_on_disk(kind: ServerKind) -> None:
    with LocalServer(kind.binary) as server:
        directory = server.directory
        assert directory.exists()

    assert not directory.exists()
    assert not server.running


@pytest.mark.parametrize("name", sorted(available()))
def test_sentinels_fail_over_and_remember_it(stack: ExitStack, name: str) -> None:
    service = stack.enter_context(LocalSentinelService(available()[name].binary, password="secret"))
    first = service.primary

    switched = service.switch_over()
    assert switched is not first
    service.wait_until_healthy()
    assert service.fail_over() is first

    sentinel = service.sentinels[0]
    sentinel.kill()
    sentinel.start()
    assert service.primary is first
