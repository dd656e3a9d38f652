"""Plans of real clusters: what they show, what they refuse, and that making one changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from redis.crc import key_slot

from slotferry import plan_reshard
from slotferry.api.resharding import Plan
from slotferry.errors import RefusedError, TargetLostError, TargetNotReadyError, UsageError
from slotferry.model.address import Address
from slotferry.net.cluster_nodes import cluster_nodes
from slotferry.reshard.cluster.members import members as members_of
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.servers.raw import chunked, connect, encode

_NODES = """\
aa 127.0.0.1:7001@17001,host-a,shard-id=5 myself,master - 0 0 3 connected 0-99 200 [150->-bb] [7-<-bb]
bb ::1:7002@17002 master - 0 1 4 connected 100-199
cc :0@0 slave,noaddr bb 0 1 4 disconnected
"""


def test_cluster_nodes_with_open_slots_and_ipv6() -> None:
    members = members_of(
        cluster_nodes(_NODES.encode()), Address("seed", 7001), {"bb": Address("name-b", 7002)}
    )
    assert members["aa"].address == Address("seed", 7001)
    assert members["aa"].peer == Address("127.0.0.1", 7001)
    assert len(members["aa"].slots) == 101
    assert members["aa"].migrating == {150: "bb"}
    assert members["aa"].importing == {7: "bb"}
    assert members["bb"].peer == Address("::1", 7002)
    assert members["bb"].address == Address("name-b", 7002)
    assert members["cc"].is_down
    assert members["cc"].primary_id == "bb"


def fill(cluster: LocalCluster, keys: int, *, size: int = 100) -> None:
    for node in cluster.primaries:
        with connect(node) as connection:
            rows = connection.execute("CLUSTER", "SLOTS")
            own = {
                s
                for first, last, primary, *_ in rows
                if primary[1] == node.port
                for s in range(first, last + 1)
            }
            commands = (
                encode("SET", f"key:{i}", "x" * size) for i in range(keys) if key_slot(b"key:%d" % i) in own
            )
            for chunk in chunked(commands):
                connection.pipeline(chunk)


def test_a_plan_by_bytes_evens_out_a_skewed_cluster(cluster: LocalCluster, tmp_path: Path) -> None:
    fill(cluster, 6_000)
    first = cluster.primaries[0]
    with connect(first) as connection:
        tag = next(f"{{{i}}}" for i in range(100_000) if key_slot(b"%d" % i) == 17)
        for i in range(10):
            connection.execute("SET", f"{tag}{i}", "x" * 30_000)

    plan = plan_reshard(cluster.url, by="bytes")

    whole = sum(node.before.bytes for node in plan.nodes)
    assert whole == sum(node.after.bytes for node in plan.nodes)
    assert max(node.after.bytes for node in plan.nodes) <= whole / 3 * 1.05
    assert {t.source for t in plan.transfers} == {n.id for n in plan.nodes if n.address == first.address}
    assert not plan.estimated
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest


def test_the_command_shows_writes_and_changes_nothing(cluster: LocalCluster, tmp_path: Path) -> None:
    before = plan_reshard(cluster.url).fingerprint
    file = tmp_path / "plan.json"
    last = cluster.primaries[2].address

    shown = run("reshard", "plan", cluster.url, "--drain", last, "-o", str(file))

    assert shown.code == 0, shown.stderr
    assert "5,462 slots to move" in shown.stdout
    assert f"slotferry reshard apply {file}" in shown.stdout
    plan = Plan.from_json(file.read_text())
    assert plan.slots == 5_462
    assert plan_reshard(cluster.url).fingerprint == before
    as_json = run("reshard", "plan", cluster.url, "--json")
    assert as_json.lines[0]["transfers"] == []


def test_weights_and_threshold(cluster: LocalCluster) -> None:
    heavy = cluster.primaries[0].address
    plan = plan_reshard(cluster.url, weights={heavy: 2})
    after = {node.address: node.after.slots for node in plan.nodes}
    assert abs(after[heavy] / 8192 - 1) <= 0.02
    assert plan_reshard(cluster.url, weights={heavy: 1.05}, threshold=0.2).balanced


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drain": ["127.0.0.1:1"]}, "has no primary 127.0.0.1:1"),
        ({"weights": {"nowhere:7": 2}}, "has no primary nowhere:7"),
        ({"by": "colour"}, "nothing to balance by"),
        ({"threshold": 1.5}, "threshold"),
        ({"max_moves": 0}, "max_moves"),
        ({"samples": -1}, "samples"),
    ],
)
def test_what_makes_no_sense(cluster: LocalCluster, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_reshard(cluster.url, **options)  # type: ignore[arg-type]


def test_shares_that_add_up_to_nothing(cluster: LocalCluster) -> None:
    addresses = [node.address for node in cluster.primaries]
    with pytest.raises(UsageError, match="add up to nothing"):
        plan_reshard(cluster.url, weights=dict.fromkeys(addresses, 0))
    with pytest.raises(UsageError, match="nobody is left"):
        plan_reshard(cluster.url, drain=addresses)
    with pytest.raises(UsageError, match="to be drained and to take"):
        plan_reshard(cluster.url, drain=addresses[:1], weights={addresses[0]: 2})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--weight", "x"), "the weight 'x' makes no sense"),
        (("--weight", "a:1=x"), "the weight 'a:1=x' makes no sense"),
        (("--weight", "a:1=1", "--weight", "a:1=2"), "two weights"),
        (("--threshold", "0"), "not a part between 0% and 100%"),
        (("--by", "colour"), "'colour' is not one of"),
    ],
)
def test_refusals_of_the_command(arguments: tuple[str, ...], message: str) -> None:
    refused = run("reshard", "plan", "redis+cluster://127.0.0.1:1", *arguments)
    assert refused.code == 2
    assert message in refused.stderr


def test_no_cluster_there(source: LocalServer) -> None:
    with pytest.raises(TargetNotReadyError, match="is a standalone server"):
        plan_reshard(source.url)
    with pytest.raises(TargetLostError, match="the cluster can't be reached"):
        plan_reshard("redis://127.0.0.1:1")
    with pytest.raises(UsageError, match="Unix socket"):
        plan_reshard("unix:///tmp/x.sock")


def test_load_where_the_servers_do_not_measure_it(cluster: LocalCluster) -> None:
    with pytest.raises(TargetNotReadyError, match="can't say the load"):
        plan_reshard(cluster.url, by="load")


@pytest.mark.parametrize("cluster", ["valkey-9.1"], indirect=True)
def test_a_plan_by_load(cluster: LocalCluster) -> None:
    for node in cluster.primaries:
        with connect(node) as connection:
            connection.execute("CONFIG", "SET", "cluster-slot-stats-enabled", "yes")
    fill(cluster, 3_000)
    plan = plan_reshard(cluster.url, by="load")
    assert sum(node.before.load for node in plan.nodes) > 0


def test_a_plan_that_was_edited_or_is_none(cluster: LocalCluster) -> None:
    content = json.loads(plan_reshard(cluster.url, drain=[cluster.primaries[0].address]).to_json())
    content["transfers"] = content["transfers"][:1]
    with pytest.raises(RefusedError, match="was changed after it was made"):
        Plan.from_json(json.dumps(content))
    for text, message in (("{", "no JSON"), ("[]", "no plan"), ('{"type": "summary"}', "no plan")):
        with pytest.raises(UsageError, match=message):
            Plan.from_json(text)
    with pytest.raises(UsageError, match="version 9"):
        Plan.from_json('{"type": "reshard_plan", "version": 9}')
