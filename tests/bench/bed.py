"""The servers that a benchmark runs on: a filled standalone source and an empty cluster, on this machine.

Invariant: every tool finds the same keyspace and an empty, healthy cluster; with a delay both sides are
reached through proxies alone, the cluster's nodes announcing the proxies' ports.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy, put_behind_proxies
from tests.servers.raw import connect


@dataclass(frozen=True)
class ServerCpu:
    """CPU seconds, user and system, that the servers have used so far."""

    source: float
    cluster: float

    def __sub__(self, earlier: ServerCpu) -> ServerCpu:
        return ServerCpu(self.source - earlier.source, self.cluster - earlier.cluster)


class Bed:
    """A source of one kind and three primaries of another; `delay` in seconds each way. A context manager."""

    def __init__(self, source_kind: ServerKind, cluster_kind: ServerKind, *, delay: float = 0.0) -> None:
        self.source = LocalServer(source_kind.binary)
        self.cluster = LocalCluster(cluster_kind.binary)
        self.source_address = ""
        self.seed_address = ""
        self._delay = delay
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Bed:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.source)
            stack.enter_context(self.cluster)
            self.source_address = self.source.address
            self.seed_address = self.cluster.primaries[0].address
            if self._delay:
                self._put_far_away(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, keys: int, *, value_size: int) -> None:
        """Make the source hold exactly `keys` strings of `value_size` bytes."""
        with connect(self.source) as connection:
            connection.execute("FLUSHALL")
            fill_strings(connection, keys, value_size=value_size)

    def empty_cluster(self) -> None:
        """Flush the target and wait until it is healthy."""
        for node in self.cluster.primaries:
            with connect(node) as connection:
                connection.execute("FLUSHALL")
        self.cluster.wait_until_healthy()

    def keys_in_cluster(self) -> int:
        """How many keys the target holds."""
        return sum(_execute(node, "DBSIZE") for node in self.cluster.primaries)

    def server_cpu(self) -> ServerCpu:
        """What the servers have used until now."""
        return ServerCpu(_cpu(self.source), sum(_cpu(node) for node in self.cluster.nodes))

    def _put_far_away(self, stack: contextlib.ExitStack) -> None:
        proxy = stack.enter_context(Proxy(self.source.host, self.source.port, delay=self._delay))
        self.source_address = proxy.address
        proxies = put_behind_proxies(self.cluster, stack, delay=self._delay)
        self.seed_address = proxies[0].address


def _execute(server: LocalServer, *parts: str | int) -> Any:
    with connect(server) as connection:
        return connection.execute(*parts)


def _cpu(server: LocalServer) -> float:
    with server.client() as client:
        cpu: Any = client.info("cpu")
    return float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
