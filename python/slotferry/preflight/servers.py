"""Whether source and target are what a migration needs: one server, and another one's complete cluster.

Invariant: judged by what discovery has found alone, so that nothing is asked of a wrong server.
"""

from __future__ import annotations

from collections.abc import Iterator

from slotferry.errors import SourceNotReadyError, UsageError
from slotferry.net.endpoints import Endpoint
from slotferry.preflight.rows import Row, error, ok
from slotferry.text import format_slots
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.discovery import SourceFacts, TargetFacts, is_same


def judge_servers(source: SourceFacts, target: TargetFacts, database: int) -> list[Row]:
    """Return what stands between these two, whatever else is asked of them; errors where it is so."""
    rows = list(_identities(source, target))
    if rows:
        return rows
    what = str(source.server.product)
    if isinstance(source, ClusterFacts):
        what = f"a cluster of {len(source.nodes)} primaries, {what},"
    rows.append(ok("servers", f"{what} to a cluster of {_count(target)} primaries"))
    rows += [_slots(target)]
    if rows[-1].status == "ok":
        rows += [_state(target), _database(target, database)]
    return rows


def _identities(source: SourceFacts, target: TargetFacts) -> Iterator[Row]:
    if isinstance(source, ClusterFacts) and (common := source.look.node_ids & target.topology.node_ids):
        yield error(
            "servers",
            "source",
            f"source and target are the same cluster: both have the node {min(common)}",
            "name the cluster to migrate into as the target; 'slotferry reshard' moves slots inside of one",
        )
        return
    servers = (target.seed, *(primary.server for primary in target.primaries))
    named = next((p.server for p in target.primaries if is_same(p.server, source.server)), None)
    if named is not None and not is_same(target.seed, source.server):
        yield error(
            "servers",
            "target",
            f"the target's cluster names {named.node}, and the server there is the source itself",
            "it is a node of that cluster: name the standalone server to copy from as the source"
            if source.server.cluster
            else "correct what the cluster's nodes announce (cluster-announce-ip, cluster-announce-port), or "
            "--address-map",
        )
        return
    if is_same(target.seed, source.server):
        yield error(
            "servers",
            "source",
            f"source and target are the same server, {source.server.node}",
            "name the cluster to migrate into as the target",
        )
        return
    history = source.server.replication_id
    sharing = next((s for s in servers if history and s.replication_id == history), None)
    if sharing is not None:
        yield error(
            "servers",
            "source",
            f"the source {source.server.node} and the target's node {sharing.node} hold the same data: "
            "one is a replica of the other",
            "name a server that no node of the target replicates and that replicates none of them",
        )
        return
    if source.server.cluster and not isinstance(source, ClusterFacts):
        refusal = source_is_cluster(source.server.node)
        yield error("servers", "source", refusal.message, refusal.hint)
    if not target.seed.cluster:
        yield error(
            "servers",
            "target",
            f"the target {target.seed.node} is not a cluster (cluster-enabled is off there)",
            "name a node of the cluster to migrate into",
        )
        return
    yield from judge_nodes(target)


def judge_nodes(target: TargetFacts) -> Iterator[Row]:
    """Yield an error where addresses of the target's cluster lead to no node of one, or several to one."""
    for address in sorted(target.topology.shared):
        yield error(
            "servers",
            "target",
            f"several primaries of the target's cluster are to be reached at {address}: keys of the others "
            "would never arrive",
            "correct what the cluster's nodes announce, or --address-map: each node needs its own address",
        )
        return
    bare = next((primary.server for primary in target.primaries if not primary.server.cluster), None)
    if bare is not None:
        yield error(
            "servers",
            "target",
            f"the target's cluster names {bare.node}, and the server there is not a node of a cluster",
            "correct what the cluster's nodes announce, or give --address-map",
        )


def source_is_cluster(node: str) -> SourceNotReadyError:
    """Return the error for a source that is itself a cluster."""
    return SourceNotReadyError(
        f"the source {node} is a node of a cluster",
        hint="write redis+cluster:// to read all primaries of the cluster, or name a standalone server",
    )


def refuse_streams(source: Endpoint, *, follow: bool, snapshot: bool) -> None:
    """Raise `UsageError` where a stream of a cluster would have to be read."""
    if source.is_cluster_url and (follow or snapshot):
        raise UsageError(
            f"a cluster as the source can't be {'followed' if follow else 'read from snapshots'} yet",
            hint="leave out --follow and --read snapshot: every primary is scanned",
        )


def _slots(target: TargetFacts) -> Row:
    if not target.topology.missing:
        return ok("slots", "all 16,384 slots are served")
    return error(
        "slots",
        "target",
        f"the target cluster of {target.seed.node} has slots that no primary serves: "
        f"{format_slots(target.topology.missing, 10)}",
        "assign them, for example with 'redis-cli --cluster fix', and check 'CLUSTER SLOTS'",
    )


def _state(target: TargetFacts) -> Row:
    for primary in target.primaries:
        if primary.state != "ok":
            return error(
                "cluster-state",
                "target",
                f"the target primary {primary.server.node} says cluster_state:{primary.state}",
                "look at CLUSTER INFO and CLUSTER NODES there and wait until the cluster is ok",
            )
    return ok("cluster-state", "every primary says cluster_state:ok")


def _database(target: TargetFacts, database: int) -> Row:
    if not target.database_refusal:
        return ok("database", f"the target has database {database}")
    return error(
        "database",
        "target",
        f"the target cluster has no database {database}: {target.database_refusal}",
        "use database 0, or a Valkey 9 cluster with cluster-databases set high enough",
    )


def _count(target: TargetFacts) -> int:
    return len(target.primaries)
