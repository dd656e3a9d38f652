"""The byte budget: large values through a small one."""

from __future__ import annotations

import random

import pytest

from slotferry.local import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.raw import connect, encode


@pytest.mark.timeout(60)
def test_values_larger_than_the_budget_pass_one_by_one(source: LocalServer, cluster: LocalCluster) -> None:
    rng = random.Random(3)
    with connect(source) as connection:
        for i in range(6):
            connection.execute("SET", f"huge:{i}", rng.randbytes(5_000_000))
        connection.pipeline_checked([encode("SET", f"small:{i}", i) for i in range(2_000)])

    report = migrate(source, cluster, memory_limit=1 << 20)

    assert report.ok
    assert report.keys.migrated == 2_006
    assert_equal(source, cluster, byte_equal=True)
