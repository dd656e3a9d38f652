"""What the integration tests share: a migration in one call, and keys that are asked for by name.

Invariant: the migration goes through the public API alone.
"""

from __future__ import annotations

from typing import Any

from slotferry import Migration, Options, Report
from slotferry.testing.servers import LocalCluster, LocalServer


def migrate(source: LocalServer, cluster: LocalCluster, **options: Any) -> Report:
    """Run a migration between two servers to its end."""
    return Migration(source.url, cluster.url, Options(**options)).run()


def count_keys(cluster: LocalCluster) -> int:
    """How many keys the cluster's primaries hold."""
    total = 0
    for node in cluster.primaries:
        with node.client() as client:
            total += int(client.dbsize())
    return total
