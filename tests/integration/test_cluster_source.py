"""A cluster as the source: all its primaries are read, copied, compared and told about as one.

Invariant: what the source holds was put there from a server that stands alone, with which the target is
compared.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from slotferry import Migration, Options, Verification, VerifyOptions
from slotferry.errors import SlotferryError, UsageError
from slotferry.model.rules import AddPrefix, StripPrefix
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import available
from tests.servers.raw import connect

_PAIRS = [
    ("redis-7.0", "valkey-9.1"),
    ("redis-8.0", "valkey-8.1"),
    ("valkey-9.1", "redis-8.0"),
    ("redis-6.2", "redis-7.0"),
]


@pytest.mark.parametrize(("old", "new"), _PAIRS)
def test_three_primaries_into_five(old: str, new: str, stack: ExitStack) -> None:
    source, reference = _filled_cluster(stack, old, 120_000)
    target = _cluster(stack, new, 5)

    report = _migrate(source, target, parallel_scans=16)

    assert report.ok, report
    held = count_keys(target)
    assert held == count_keys(source)
    # SCAN may bring a key twice.
    assert report.keys.migrated == held
    assert report.keys.scanned - report.keys.unchanged == held
    # 6.2 tells what is left of a TTL, and it was copied twice.
    assert_equal(reference, target, ttl_tolerance_ms=1_000)
    verified = Verification(source.url, target.url, VerifyOptions(ttl_tolerance=1.0)).run()
    assert verified.ok, verified.differences
    assert verified.target_keys.scanned >= held


def test_differences_of_both_directions_are_found_and_repaired(stack: ExitStack, kind: Any) -> None:
    source, reference = _filled_cluster(stack, kind.name, 5_000)
    target = _cluster(stack, kind.name, 4)
    assert _migrate(source, target).ok
    with target.client() as client:
        client.set("extra", 1)
        client.set("{tag}one", "another")
        client.delete("{tag}two{other}")

    found = run("verify", source.url, target.url, "--json")
    assert found.code == 3
    assert [found.keys[kind] for kind in ("different", "extra", "missing")] == [1, 1, 1]
    repaired = run("verify", source.url, target.url, "--repair", "--delete-extra", "--yes", "--json")

    assert repaired.code == 0, repaired.stderr
    assert_equal(reference, target, byte_equal=True)


def test_large_keys_filters_and_rules(stack: ExitStack, kind: Any) -> None:
    source = _cluster(stack, kind.name, 3)
    target = _cluster(stack, kind.name, 2)
    with source.client() as client:
        for number in range(9):
            client.hset(f"large:{number}", mapping={f"field{i}": "x" * 100 for i in range(5_000)})
            client.set(f"left:{number}", number)
            client.sadd(f"set:{number}", number)

    report = _migrate(
        source,
        target,
        match="large:*",
        type=("hash",),
        rules=(StripPrefix("large:"), AddPrefix("big:")),
        big_key_bytes=100_000,
    )

    assert report.ok
    assert report.keys.migrated == 9 == count_keys(target)
    with target.client() as client:
        assert all(client.hlen(f"big:{number}") == 5_000 for number in range(9))


def test_a_rate_holds_over_all_primaries(stack: ExitStack, kind: Any) -> None:
    source, _ = _filled_cluster(stack, kind.name, 3_000)
    target = _cluster(stack, kind.name, 1)

    report = _migrate(source, target, max_keys_per_second=1_500)

    # The limiter may begin with what a second allows.
    assert report.ok
    assert report.elapsed_seconds >= report.keys.scanned / 1_500 - 1.1


def test_the_same_cluster_is_refused_also_by_another_node(stack: ExitStack, kind: Any) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=3, replicas_per_primary=1))
    seed = f"redis+cluster://{cluster.replicas[2].address}"

    refused = run("migrate", f"redis+cluster://{cluster.primaries[0].address}", seed)

    assert refused.code == 4
    assert "source and target are the same cluster" in refused.stderr


def test_holes_and_what_is_not_built_are_refused(stack: ExitStack, kind: Any) -> None:
    source, target = _cluster(stack, kind.name, 3), _cluster(stack, kind.name, 1)
    for option in ("--follow", "--read=snapshot"):
        refused = run("migrate", source.url, target.url, option)
        assert refused.code == 2
        assert "a cluster as the source can't be" in refused.stderr
    alone = run("migrate", f"redis+cluster://{target.primaries[0].address}", source.url, "--dry-run")
    assert alone.code == 0, alone.stderr
    with connect(source.primaries[0]) as node:
        node.execute("CLUSTER", "DELSLOTS", 7, 8)

    refused = run("migrate", source.url, target.url)

    assert refused.code == 4
    assert "slots that no primary which answers owns: 7-8" in refused.stderr


def test_a_server_that_stands_alone_is_no_cluster(source: LocalServer, cluster: LocalCluster) -> None:
    with pytest.raises(SlotferryError, match="is not a cluster at"):
        raise Migration(
            f"redis+cluster://{source.address}", cluster.url, Options()
        ).run().error or UsageError("none")


def test_a_node_of_a_cluster_is_told_how_to_be_read(
    stack: ExitStack, cluster: LocalCluster, kind: Any
) -> None:
    source = _cluster(stack, kind.name, 1)
    refused = run("migrate", source.primaries[0].url, cluster.url)
    assert refused.code == 4
    assert "write redis+cluster://" in refused.stderr


def _cluster(stack: ExitStack, kind: str, primaries: int) -> LocalCluster:
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    return stack.enter_context(LocalCluster(available()[kind].binary, primaries=primaries))


def _filled_cluster(stack: ExitStack, kind: str, keys: int) -> tuple[LocalCluster, LocalServer]:
    """Return a cluster and a server that hold the same keys."""
    cluster = _cluster(stack, kind, 3)
    reference = stack.enter_context(LocalServer(available()[kind].binary))
    with connect(reference) as connection:
        fill(connection, keys)
    assert migrate(reference, cluster).ok
    return cluster, reference


def _migrate(source: LocalCluster, target: LocalCluster, **options: Any) -> Any:
    return Migration(source.url, target.url, Options(**options)).run()
