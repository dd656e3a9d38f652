"""Connections that break while keys are renamed, chosen and measured: nothing is lost or comes twice."""

from __future__ import annotations

from contextlib import ExitStack

from slotferry import Migration, Options
from slotferry.model.rules import Rewrite
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy, put_behind_proxies


def test_both_sides_break_while_keys_are_chosen_and_renamed(
    source: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    proxies = put_behind_proxies(cluster, stack)
    front = stack.enter_context(Proxy(source.host, source.port))
    with source.client() as old:
        old.mset({f"user:{i}:name": f"value {i}" for i in range(20_000)})
        for i in range(2_000):
            old.rpush(f"user:{i}:list", i)
    front.cut_after(replies=200_003, times=5)
    proxies[0].cut_after(commands=100_011, times=4)
    options = Options(
        rules=[Rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2")],
        exclude_type=["list"],
        keep_eviction_metadata=True,
        on_collision="unchecked",
        parallel_scans=4,
    )

    report = Migration(f"redis://127.0.0.1:{front.port}", cluster.url, options).run()

    assert front.to_client.cuts == 5
    assert report.ok
    assert report.keys.add_up
    assert count_keys(cluster) == 20_000
    with cluster.client() as new:
        for i in range(0, 20_000, 1_000):
            assert new.get(f"user:{{{i}}}:name") == f"value {i}".encode()
