"""A cluster on loopback: primaries that share the slots, and their replicas.

Invariant: it is healthy once all nodes that run have the same view of it and every slot is served.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import redis

from slotferry.testing.servers.context import StartedContext
from slotferry.testing.servers.process import LocalServer, is_synchronised, wait_until

SLOTS = 16384
_CLUSTER_SECONDS = 60.0


class LocalCluster(StartedContext):
    """A cluster of embedded servers; all 16,384 slots are served evenly by its primaries.

    `primaries` and `replicas` are the nodes in their roles at creation, `replicas` in the order of the
    primaries they follow. Use it as a context manager.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str],
        *,
        primaries: int = 3,
        replicas_per_primary: int = 0,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "5000", **(config or {})}
        self.password = password
        self._replicas_per_primary = replicas_per_primary

        def node() -> LocalServer:
            return LocalServer(binary, password=password, config=settings)

        self.primaries = [node() for _ in range(primaries)]
        self.replicas = [node() for _ in range(primaries * replicas_per_primary)]

    @property
    def nodes(self) -> list[LocalServer]:
        """Every node: first the primaries, then the replicas."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """A `redis+cluster://` URL with every primary as a seed, without the password."""
        return "redis+cluster://" + ",".join(node.address for node in self.primaries)

    def client(self, **options: Any) -> redis.RedisCluster:
        """Return a new redis-py cluster client: RESP2, bytes; `options` go to redis-py."""
        node = self.primaries[0]
        defaults: dict[str, Any] = {
            "host": node.host,
            "port": node.port,
            "password": self.password,
            "protocol": 2,
            "socket_timeout": 60,
        }
        return redis.RedisCluster(**{**defaults, **options})

    def start(self) -> None:
        """Start every node, form the cluster and wait until all nodes agree on all slots.

        Raises `LocalServerError` when that does not come about.
        """
        for node in self.nodes:
            node.start()
        self._assign_slots()
        self._introduce()
        self._attach_replicas()
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop every node and remove its directory."""
        for node in self.nodes:
            node.stop()

    def detach(self) -> None:
        """Let every node outlive this process."""
        for node in self.nodes:
            node.detach()

    def wait_until_healthy(self, *, timeout: float = _CLUSTER_SECONDS) -> None:
        """Wait until all running nodes see the cluster as ok and agree on which of them serves which slot."""
        wait_until(self._agrees, "the nodes of the cluster to agree on all slots", timeout=timeout)

    def _assign_slots(self) -> None:
        count = len(self.primaries)
        for index, node in enumerate(self.primaries):
            slots = range(SLOTS * index // count, SLOTS * (index + 1) // count)
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        for epoch, node in enumerate(self.nodes, start=1):
            # Distinct from the start, so that no two nodes have to fight over one.
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)

    def _introduce(self) -> None:
        first = self.nodes[0]
        for node in self.nodes[1:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", first.host, first.port)
        count = str(len(self.nodes))
        wait_until(
            lambda: all(_cluster_info(node)["cluster_known_nodes"] == count for node in self.nodes),
            "the nodes of the cluster to meet",
            timeout=_CLUSTER_SECONDS,
        )

    def _attach_replicas(self) -> None:
        for index, replica in enumerate(self.replicas):
            with self.primaries[index // self._replicas_per_primary].client() as client:
                primary_id = client.execute_command("CLUSTER", "MYID")
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", primary_id)
        wait_until(
            lambda: all(is_synchronised(replica) for replica in self.replicas),
            "the replicas to follow their primaries",
            timeout=_CLUSTER_SECONDS,
        )

    def _agrees(self) -> bool:
        running = [node for node in self.nodes if node.running]
        try:
            if any(_cluster_info(node)["cluster_state"] != "ok" for node in running):
                return False
            views = [_view(node) for node in running]
        except redis.RedisError:
            return False
        # By the owners' own words: the others take a while to notice that one has died.
        served = sum(own for own, _ in views)
        return served == SLOTS and all(view == views[0][1] for _, view in views)


def _cluster_info(node: LocalServer) -> dict[str, str]:
    with node.client(socket_timeout=5) as client:
        text: bytes = client.execute_command("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in text.decode().split() if ":" in line)


def _view(node: LocalServer) -> tuple[int, set[tuple[str, ...]]]:
    """Return how many slots `node` serves, and each node's role, primary and slots as it sees them.

    CLUSTER SLOTS would not do: it leaves out replicas that have replicated nothing yet.
    """
    with node.client(socket_timeout=5) as client:
        text: bytes = client.execute_command("CLUSTER", "NODES")
    own = 0
    view = set()
    for line in text.decode().splitlines():
        _, address, flags, primary, _, _, _, _, *slots = line.split()
        served = [part for part in slots if not part.startswith("[")]  # open slots: the owner's own matter
        if "myself" in flags:
            own = sum(_count(part) for part in served)
        view.add((address, flags.replace("myself,", ""), primary, *served))
    return own, view


def _count(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1
