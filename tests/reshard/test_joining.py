"""Nodes that join the cluster with the plan that gives them slots."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import plan_reshard
from slotferry.api.resharding import Plan
from slotferry.errors import RefusedError, SlotferryError, UsageError
from slotferry.reshard.limits import Limits
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.reshard.client import slots_owned
from tests.reshard.moving import MOVING
from tests.servers.kinds import available
from tests.servers.raw import connect

KINDS = ["redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.1", "valkey-9.1"]


@pytest.fixture
def newcomer(request: pytest.FixtureRequest, own: LocalCluster, stack: ExitStack) -> LocalServer:
    """Return an empty node: of the kind of the cluster's, or of the one that it is parametrised with."""
    config = {"cluster-enabled": "yes", "cluster-node-timeout": "5000"}
    name = getattr(request, "param", "")
    if name and name not in available():
        pytest.skip(f"this machine has no {name}")
    binary = available()[name].binary if name else own.primaries[0].binary
    return stack.enter_context(LocalServer(binary, config=config))


def known_nodes(node: LocalServer) -> int:
    with connect(node) as connection:
        return len(connection.execute("CLUSTER", "NODES").splitlines())


@pytest.mark.parametrize("own", KINDS, indirect=True)
def test_an_empty_node_joins_with_the_plan(own: LocalCluster, newcomer: LocalServer, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    planned = run("reshard", "plan", own.url, "--add", newcomer.address, "-o", str(file))
    assert planned.code == 0, planned.stderr
    assert f"{newcomer.address} is no member yet" in planned.stdout
    assert known_nodes(newcomer) == 1
    plan = Plan.from_json(file.read_text())
    assert [join.address for join in plan.joins] == [newcomer.address]
    assert plan.apply(own.url, limits=Limits(max_duration=0.000001)).exit_code == 75  # no time, no change
    assert known_nodes(newcomer) == 1

    applied = run("reshard", "apply", str(file), own.url)

    assert applied.code == 0, applied.stdout + applied.stderr
    assert [known_nodes(node) for node in (*own.primaries, newcomer)] == [4] * 4
    owned = slots_owned(own)
    assert len(owned) == 16_384 - plan.slots
    assert plan.slots >= 4_000
    assert run("reshard", "status", own.url).code == 0
    with connect(newcomer) as connection:
        held = connection.execute("DBSIZE")
    for node in own.primaries:
        with connect(node) as connection:
            held += connection.execute("DBSIZE")
    assert held == len(MOVING) * 10
    again = run("reshard", "apply", str(file), own.url)
    assert again.code == 0, again.stderr
    assert plan_reshard(own.url, add=[newcomer.address]).joins == ()


@pytest.mark.parametrize(
    ("own", "newcomer"),
    [
        ("redis-6.2", "redis-7.0"),
        ("redis-7.0", "redis-8.0"),
        ("redis-7.0", "valkey-8.1"),
        ("valkey-8.1", "valkey-9.1"),
    ],
    indirect=True,
)
def test_a_node_of_a_newer_version_joins(own: LocalCluster, newcomer: LocalServer) -> None:
    before = slots_owned(own)
    assert plan_reshard(own.url, add=[newcomer.address]).apply().ok
    with connect(newcomer) as connection:
        held = connection.execute("DBSIZE")
    assert held > 0
    for node in own.primaries:
        with connect(node) as connection:
            held += connection.execute("DBSIZE")
    assert held == len(MOVING) * 10
    assert len(slots_owned(own)) <= len(before) - 4_000
    assert run("reshard", "status", own.url).code == 0


@pytest.mark.parametrize("own", KINDS, indirect=True)
def test_nodes_that_can_not_join(
    own: LocalCluster, newcomer: LocalServer, cluster: LocalCluster, source: LocalServer
) -> None:
    with pytest.raises(UsageError, match="can't be asked to join"):
        plan_reshard(own.url, add=["127.0.0.1:1"])
    with pytest.raises(RefusedError, match="it is a standalone server"):
        plan_reshard(own.url, add=[source.address])
    with pytest.raises(RefusedError, match="it belongs to another one, of"):
        plan_reshard(own.url, add=[cluster.primaries[0].address])
    plan = plan_reshard(own.url, add=[newcomer.address])
    with connect(newcomer) as connection:
        connection.execute("CLUSTER", "ADDSLOTS", *range(16_384))
    with pytest.raises(RefusedError, match="it owns 16,384 slots"):
        plan_reshard(own.url, add=[newcomer.address])
    with connect(newcomer) as connection:
        connection.execute("CLUSTER", "DELSLOTS", *range(16_384))
        connection.execute("CLUSTER", "ADDSLOTS", *range(16_384))
    with pytest.raises(SlotferryError, match="can't join the cluster"):
        plan.apply()  # it was empty when the plan was made
    assert known_nodes(newcomer) == 1


@pytest.mark.parametrize("own", KINDS, indirect=True)
def test_a_node_with_keys_does_not_join(own: LocalCluster, newcomer: LocalServer) -> None:
    with connect(newcomer) as connection:
        connection.execute("CLUSTER", "ADDSLOTS", *range(16_384))
    own_state = plan_reshard(own.url).fingerprint
    with connect(newcomer) as connection:
        while connection.execute("CLUSTER", "INFO").splitlines()[0] != b"cluster_state:ok":
            pass
        connection.execute("SET", "key", "value")
        connection.execute("CLUSTER", "DELSLOTS", *range(16_384))
    with pytest.raises(RefusedError, match="it holds keys in db0"):
        plan_reshard(own.url, add=[newcomer.address])
    assert plan_reshard(own.url).fingerprint == own_state
