"""How the nodes are reached: behind NAT, and with a password that changes."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import plan_reshard
from slotferry.api.resharding import connect as connector_of
from slotferry.errors import TargetNotReadyError, UsageError
from slotferry.model.address import Address
from slotferry.net.address_map import AddressMap
from slotferry.net.cluster_nodes import cluster_nodes
from slotferry.reshard.cluster.members import members as members_of
from slotferry.testing.servers import LocalCluster
from tests.command import run
from tests.reshard.broken import half_moved
from tests.reshard.moving import MOVING, assert_clean
from tests.servers.proxy import Proxy
from tests.servers.raw import connect

_NODES = """\
aa :7001@17001 myself,master - 0 0 3 connected 0-99
bb 10.0.0.2:7002@17002 master - 0 1 4 connected 100-199
"""


@pytest.fixture
def nats(own: LocalCluster, stack: ExitStack) -> list[Proxy]:
    return [stack.enter_context(Proxy(node.host, node.port)) for node in own.primaries]


def rules_of(own: LocalCluster, nats: list[Proxy]) -> list[str]:
    return [f"{node.address}={nat.address}" for node, nat in zip(own.primaries, nats, strict=True)]


def test_what_nodes_tell_each_other_is_not_mapped() -> None:
    known = AddressMap.parse(["10.0.0.1=nat", "10.0.0.2:7002=nat:17"])
    members = members_of(cluster_nodes(_NODES.encode()), Address("nat", 7001), {}, known)
    assert (members["aa"].address, members["aa"].peer) == (Address("nat", 7001), Address("10.0.0.1", 7001))
    assert (members["bb"].address, members["bb"].peer) == (Address("nat", 17), Address("10.0.0.2", 7002))


def test_slots_are_moved_behind_nat(own: LocalCluster, nats: list[Proxy]) -> None:
    rules = rules_of(own, nats)
    plan = plan_reshard(
        f"redis+cluster://{nats[0].address}", drain=[own.primaries[0].address], address_map=rules
    )
    assert {node.address for node in plan.nodes} == {nat.address for nat in nats}
    assert plan.apply(method="setslot").ok
    assert_clean(own)


def test_the_commands_take_an_address_map(own: LocalCluster, nats: list[Proxy], tmp_path: Path) -> None:
    rules, url = rules_of(own, nats), f"redis+cluster://{nats[0].address}"
    flags = [part for rule in rules for part in ("--address-map", rule)]
    half_moved(own.primaries[0], own.primaries[1], MOVING[0], 3)
    assert run("reshard", "status", url, *flags).code == 3
    repaired = run("reshard", "fix", url, "--apply", *flags)
    assert repaired.code == 0, repaired.stderr

    file = tmp_path / "plan.json"
    planned = run("reshard", "plan", url, "--weight", f"{nats[0].address}=2", "-o", str(file), *flags)
    assert planned.code == 0, planned.stderr
    applied = run("reshard", "apply", str(file), url, *flags)
    assert applied.code == 0, applied.stderr

    config = tmp_path / "jobs.toml"
    config.write_text(f"""
        [jobs.back]
        cluster = "{url}"
        address-map = {rules}
    """)
    ran = run("reshard", "run", "--config", str(config), "--json")
    assert (ran.code, ran.summary["status"]) == (0, "completed"), ran.stderr
    assert_clean(own)


def test_an_address_map_that_makes_no_sense(tmp_path: Path) -> None:
    refused = run("reshard", "status", "redis+cluster://127.0.0.1:1", "--address-map", "10.0.0.7")
    assert refused.code == 2
    assert "has no '='" in refused.stderr
    config = tmp_path / "jobs.toml"
    config.write_text('[jobs.a]\ncluster = "redis+cluster://127.0.0.1:1"\naddress-map = "10.0.0.7:x=nat:1"')
    refused = run("reshard", "run", "--config", str(config))
    assert refused.code == 2
    assert "unreadable host or port" in refused.stderr
    with pytest.raises(UsageError, match="has its own already"):
        plan_reshard(connector_of("redis+cluster://127.0.0.1:1"), address_map=["a=b"])


def set_password(own: LocalCluster, password: str) -> None:
    for node in own.primaries:
        with connect(node) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", "resetpass", f">{password}", "~*", "+@all")
            connection.execute("CLIENT", "KILL", "USER", "mover")


def test_a_password_that_changes_in_the_middle(own: LocalCluster, tmp_path: Path) -> None:
    set_password(own, "first")
    secret = tmp_path / "secret"
    secret.write_text("first")
    url = own.url.replace("://", "://mover@")
    plan = plan_reshard(url, drain=[own.primaries[0].address], password=secret.read_text)
    changed: list[object] = []

    def watch(event: object) -> None:
        if getattr(event, "slots_done", 0) and not changed:
            secret.write_text("second")
            set_password(own, "second")
            changed.append(event)

    report = plan.apply(method="setslot", on_event=watch)

    assert report.ok, report
    assert changed
    assert_clean(own)


def test_a_password_file_is_read_again_by_each_command(own: LocalCluster, tmp_path: Path) -> None:
    set_password(own, "first")
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    url = own.url.replace("://", "://mover@")
    refused = run("reshard", "status", url, "--cluster-password-file", str(secret))
    assert refused.code != 0
    assert "refuses the login" in refused.stderr
    secret.write_text("first")
    assert run("reshard", "status", url, "--cluster-password-file", str(secret)).code == 0


def test_a_callable_that_gives_nothing_of_use(own: LocalCluster) -> None:
    with pytest.raises(TargetNotReadyError, match="the cluster's credentials are of the type int"):
        plan_reshard(own.url, password=lambda: 7)  # type: ignore[arg-type]
