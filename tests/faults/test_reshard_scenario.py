"""A new operator's week: a fourth primary joins, is filled in a window that closes twice, and leaves."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Outcome, Running, run
from tests.reshard.client import LoadClient, fill_keys, keys_in, open_slots, slots_owned
from tests.reshard.moving import assert_clean
from tests.servers.kinds import available
from tests.servers.raw import connect

_SLOTS = list(range(0, 16_384, 8))  # that hold keys
_PER_SLOT = 5


@pytest.mark.parametrize(
    ("kind", "method"),
    [("redis-7.0", "setslot"), pytest.param("valkey-9.1", "atomic", marks=pytest.mark.long)],
)
def test_a_fourth_primary_joins_and_leaves(kind: str, method: str, stack: ExitStack, tmp_path: Path) -> None:
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    binary = available()[kind].binary
    cluster = stack.enter_context(LocalCluster(binary))
    keys = keys_in(_SLOTS, _PER_SLOT)
    owned = slots_owned(cluster)
    for node in cluster.primaries:
        fill_keys(node, [key for key, slot in _with_slots(keys) if owned[slot] is node], size=200)
    fourth = stack.enter_context(
        LocalServer(binary, config={"cluster-enabled": "yes", "cluster-node-timeout": "5000"})
    )
    with LoadClient(cluster.primaries[0].address, keys[::7], tmp_path, rate=100) as client:
        _join(cluster, fourth)
        plan = tmp_path / "plan.json"
        made = run("reshard", "plan", cluster.url, "--add", fourth.address, "--by", "bytes", "-o", str(plan))
        assert made.code == 0, made.stderr

        _apply_in_a_window_that_closes_twice(cluster, plan, method)

        # The client's values are shorter than those that it overwrites: so much may be off by now.
        planned = run("reshard", "plan", cluster.url, "--by", "bytes", "--threshold", "10%")
        assert "balanced by bytes" in planned.stdout
        _check(cluster)

        drained = run("reshard", "plan", cluster.url, "--drain", fourth.address, "-o", str(plan))
        assert drained.code == 0, drained.stderr
        done = run("reshard", "apply", str(plan), cluster.url, "--method", method)
        assert done.code == 0, done.stderr
        _leave(cluster, fourth)
        seen = client.result()

    assert seen["errors"] == []
    assert seen["operations"] > 0
    _check(cluster)
    assert_clean(cluster, len(keys))


def _with_slots(keys: list[str]) -> list[tuple[str, int]]:
    return [(key, _SLOTS[i // _PER_SLOT]) for i, key in enumerate(keys)]


def _apply_in_a_window_that_closes_twice(cluster: LocalCluster, plan: Path, method: str) -> None:
    def command(window: str) -> tuple[str, ...]:
        limits = ("--window", window, "--tz", "UTC", "--max-bytes-per-second", "600kB")
        return ("reshard", "apply", str(plan), cluster.url, "--method", method, "--json", *limits)

    def window(seconds: float) -> str:
        now = datetime.now(timezone.utc)
        return f"{now - timedelta(minutes=5):%H:%M:%S}-{now + timedelta(seconds=seconds):%H:%M:%S}"

    fourth = cluster.primaries[3]
    outcomes: list[Outcome] = [run(*command(window(2))), run(*command(window(2)))]
    for outcome in outcomes:
        # A slow machine may miss a window, a fast one may need no second.
        assert outcome.code in (75, 0), outcome.stderr
        assert open_slots(cluster) == []
    before = len([node for node in slots_owned(cluster).values() if node is fourth])
    with Running(*command(window(600))) as running:
        wait_until(
            lambda: running.ended or sum(n is fourth for n in slots_owned(cluster).values()) > before + 50,
            "some slots to have moved",
        )
        running.kill()
    done = run(*command(window(600)))
    assert done.code == 0, done.stderr
    assert done.summary["slots"]["remaining"] == 0


def _join(cluster: LocalCluster, node: LocalServer) -> None:
    with connect(cluster.primaries[0]) as connection:
        connection.execute("CLUSTER", "MEET", node.host, node.port)
    cluster.primaries.append(node)
    wait_until(lambda: all(_known(other) == 4 for other in cluster.primaries), "the fourth to be known")
    cluster.wait_until_healthy()


def _leave(cluster: LocalCluster, node: LocalServer) -> None:
    with connect(node) as connection:
        node_id = connection.execute("CLUSTER", "MYID")
    cluster.primaries.remove(node)
    node.kill()
    for other in cluster.primaries:
        with connect(other) as connection:
            connection.execute("CLUSTER", "FORGET", node_id)
    cluster.wait_until_healthy()


def _known(node: LocalServer) -> int:
    with connect(node) as connection:
        return len(connection.execute("CLUSTER", "NODES").splitlines())


def _check(cluster: LocalCluster) -> None:
    """Let redis-cli judge, as the operator would."""
    cluster.wait_until_healthy()
    tool = shutil.which("redis-cli")
    if tool is None:
        return
    done = subprocess.run(
        [tool, "--cluster", "check", cluster.primaries[0].address], capture_output=True, text=True
    )
    said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert done.returncode == 0, said
    assert "[OK] All nodes agree about slots configuration." in said
    assert "[OK] All 16384 slots covered." in said
