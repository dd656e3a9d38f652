"""What the source is, whatever it is: a server alone, one behind Sentinel, or all primaries of a cluster.

Invariant: facts are stated here and judged in preflight.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.net.link import not_ready
from slotferry.text import format_slots, ranges_of
from slotferry.topology.cluster_source.look import ClusterLook, NodeLook, look_at_cluster
from slotferry.topology.discovery import ServerFacts, SourceFacts, discover_source, select_source


@dataclass(frozen=True)
class ClusterFacts(SourceFacts):
    """A source that is a cluster: `server` is its first primary, and everything else is of all of them."""

    look: ClusterLook = field(default_factory=lambda: ClusterLook(()))

    @property
    def nodes(self) -> tuple[NodeLook, ...]:
        """The primaries that own slots."""
        return tuple(node for node in self.look.nodes if node.slots)

    @property
    def servers(self) -> tuple[ServerFacts, ...]:
        """Who these are."""
        return tuple(node.server for node in self.nodes if node.server is not None)

    @property
    def run_id(self) -> str:
        """What stands in the place of a server's: each node's cursors are judged by its own."""
        return CLUSTER_RUN_ID

    def address(self, endpoint: Endpoint) -> Address | None:  # noqa: ARG002 - of a server alone it tells
        """Where the first primary is reached."""
        return self.nodes[0].address


CLUSTER_RUN_ID = "cluster"


def discover_any_source(connector: Connector, preferred: str = "") -> SourceFacts:
    """Look at the source. Raises `SourceLostError`, or `SourceNotReadyError`, also for holes."""
    if not connector.endpoint.is_cluster_url:
        return discover_source(connector, preferred)
    return _facts(connector, complete(look_at_cluster(connector)))


def complete(look: ClusterLook) -> ClusterLook:
    """Return a look at all slots. Raises `SourceNotReadyError` where some have no owner that answers."""
    if missing := look.missing:
        gaps = format_slots(ranges_of(missing), 10)
        raise not_ready(
            "source",
            f"has slots that no primary which answers owns: {gaps}",
            "start the nodes that are down, or assign the slots with 'slotferry reshard fix'",
        )
    return look


def _facts(connector: Connector, look: ClusterLook) -> ClusterFacts:
    nodes = [node for node in look.nodes if node.slots]
    connector.server = nodes[0].address
    databases: Counter[int] = Counter()
    keys, round_trip, used = 0, 0.0, 0
    for each in nodes:
        with connector.open(each.address) as node:
            if connector.endpoint.database:
                select_source(node, connector.endpoint.database)
            keys += node.need_parsed(replies.integer, "DBSIZE")
            round_trip = max(round_trip, node.round_trip())
            info = node.info()
            databases.update(replies.keys_by_database(info))
            used += replies.number_of(info, "used_memory")
    servers = [node.server for node in nodes if node.server is not None]
    return ClusterFacts(
        servers[0], keys, round_trip, databases=dict(databases), used_memory=used or None, look=look
    )
