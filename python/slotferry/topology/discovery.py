"""What the two sides are: facts about the source and its server, about the target and its topology.

Invariant: looking changes nothing, and facts are stated here but judged in preflight. Sources: INFO,
CLUSTER INFO and CLUSTER SLOTS (Redis Cluster specification; docs/protocol.md, Topology).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from slotferry._core import SLOTS
from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.address_map import AddressMap
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.net.link import lost, not_ready
from slotferry.net.node import Node, raise_for
from slotferry.net.replies import NoPermissionError, ResponseError
from slotferry.text import count_of
from slotferry.topology.clusters import are_one_cluster, mixed_target
from slotferry.topology.file_facts import FileFacts
from slotferry.topology.product import Product, version_numbers
from slotferry.topology.rdb_versions import probe_versions
from slotferry.topology.sentinel import Found, ServiceFinder
from slotferry.topology.target_limits import UNKNOWN, TargetLimits, ask_limits, smallest

_WORD = re.compile(r"[\x21-\x7e]{1,100}")
_SEEDS_AT_ONCE = 16

SlotRange = tuple[int, int, str, int]
"""First slot, last slot, host, port: as the engine takes it."""


@dataclass(frozen=True)
class ServerFacts:
    """One server: `version` as INFO says it (Valkey says a Redis version that it is compatible with)."""

    node: str
    run_id: str
    version: tuple[int, ...]
    product: Product
    cluster: bool
    replication_id: str = ""
    """`master_replid`: a primary and its replicas have one in common. Empty where it does not tell."""

    @property
    def has_pexpiretime(self) -> bool:
        """PEXPIRETIME came with Redis 7.0; every Valkey has it and reports 7.2 or more here."""
        return self.version >= (7, 0)


def is_same(server: ServerFacts, other: ServerFacts | None) -> bool:
    """Whether both are one process."""
    return other is not None and bool(server.run_id) and server.run_id == other.run_id


@dataclass(frozen=True)
class SourceFacts:
    """The source: its server, how many keys its database holds, and how far away it is in seconds.

    `found` says how the server was found, where the source is a service behind Sentinel. `used_memory` is
    that of the whole server, in bytes; None where it does not tell.
    """

    server: ServerFacts
    keys: int
    round_trip: float
    found: Found | None = None
    databases: Mapping[int, int] = field(default_factory=dict)
    """How many keys each database holds; those that hold none are left out."""
    used_memory: int | None = None
    file: FileFacts | None = None
    """The RDB file that it is, where it is no server."""

    @property
    def run_id(self) -> str:
        """What the job's cursors depend on."""
        return self.server.run_id

    @property
    def notes(self) -> tuple[str, ...]:
        """What the operator should know of how the server was found."""
        return () if self.found is None else self.found.notes

    def address(self, endpoint: Endpoint) -> Address | None:
        """Where the server is reached; None for a Unix socket."""
        if self.found is not None:
            return self.found.address
        return endpoint.addresses[0] if endpoint.addresses else None


@dataclass(frozen=True)
class Topology:
    """Which primary serves which slots.

    `primary_ids` are the ids of those primaries, `node_ids` those of the replicas as well, as far as told.
    `shared` are addresses that lead to several primaries: a mistake in what they announce, or in the map.
    """

    ranges: tuple[SlotRange, ...]
    primary_ids: Mapping[Address, str] = field(default_factory=dict, compare=False)
    node_ids: frozenset[str] = field(default=frozenset(), compare=False)
    shared: frozenset[Address] = field(default=frozenset(), compare=False)

    @property
    def primaries(self) -> tuple[Address, ...]:
        """Each primary once, sorted."""
        return tuple(sorted({Address(host, port) for _, _, host, port in self.ranges}))

    @property
    def named_ranges(self) -> list[tuple[int, int, str]]:
        """The ranges with the name of their primary."""
        return [(first, last, str(Address(host, port))) for first, last, host, port in sorted(self.ranges)]

    @property
    def missing_slots(self) -> int:
        """How many slots no primary serves."""
        return sum(last - first + 1 for first, last in self.missing)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The ranges of slots that no primary serves."""
        gaps, expected = [], 0
        for first, last, _, _ in sorted(self.ranges):
            if first > expected:
                gaps.append((expected, first - 1))
            expected = max(expected, last + 1)
        if expected < SLOTS:
            gaps.append((expected, SLOTS - 1))
        return gaps


@dataclass(frozen=True)
class PrimaryFacts:
    """A primary of the target: its server, and the `cluster_state` that it sees (`ok` or `fail`).

    `rdb_versions` are those of the payloads that it takes; None where it does not tell. `node_id` is its id
    in the cluster, which it keeps when it is restarted; empty where it is not told. `limits` are those of one
    command.
    """

    server: ServerFacts
    state: str
    rdb_versions: frozenset[int] | None = None
    node_id: str = ""
    limits: TargetLimits = UNKNOWN


@dataclass(frozen=True)
class TargetFacts:
    """The target. `primaries` is empty, and `seed` all that is known, where it is not a cluster."""

    seed: ServerFacts
    topology: Topology = Topology(())
    primaries: tuple[PrimaryFacts, ...] = field(default=())
    database_refusal: str = ""

    @property
    def has_pexpiretime(self) -> bool:
        """Whether every primary has PEXPIRETIME."""
        return all(primary.server.has_pexpiretime for primary in self.primaries)

    @property
    def rdb_versions(self) -> list[int]:
        """The RDB versions that every primary takes; empty where one of them does not tell."""
        taken = [primary.rdb_versions or frozenset() for primary in self.primaries]
        return sorted(frozenset.intersection(*taken)) if taken else []

    @property
    def fingerprint(self) -> str:
        """What changes when a primary is another process or slots have moved."""
        text = repr((self.topology.ranges, [primary.server.run_id for primary in self.primaries]))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def limits(self) -> TargetLimits:
        """What every primary takes of one command, as far as they tell."""
        return smallest([primary.limits for primary in self.primaries])


def discover_source(connector: Connector, preferred: str = "") -> SourceFacts:
    """Look at the source. Raises `SourceLostError` or `SourceNotReadyError`.

    Behind Sentinel its server is found first; of several, the one with the `run_id` `preferred`.
    """
    found = None if connector.endpoint.service is None else ServiceFinder(connector).find(preferred)
    connector.server = None if found is None else found.address
    with connector.open() as node:
        server = server_facts(node)
        database = connector.endpoint.database
        if database and not server.cluster:
            select_source(node, database)
        keys = node.need_parsed(replies.integer, "DBSIZE")
        round_trip, info = node.round_trip(), node.info()
        used = replies.number_of(info, "used_memory", -1)
        databases = replies.keys_by_database(info)
        return SourceFacts(server, keys, round_trip, found, databases, used if used >= 0 else None)


def select_source(node: Node, number: int) -> None:
    """Select a database of the source. Raises `SourceNotReadyError`, with those that there are."""
    try:
        node.call("SELECT", number)
    except NoPermissionError as error:
        raise_for(error, node, "SELECT")
    except ResponseError as error:
        held = [
            f"database {n} holds {count_of(keys, 'key')}"
            for n, keys in sorted(replies.keys_by_database(node.info("keyspace")).items())
        ]
        more = f" and {len(held) - 5} more" if len(held) > 5 else ""
        where = f"{', '.join(held[:5])}{more}" if held else "none of them holds a key"
        raise not_ready(
            "source",
            f"has no database {number} at {node.name}: {error}{_database_range(node)}",
            f"correct the number in the URL or --db: {where}",
        ) from None


def _database_range(node: Node) -> str:
    """Return which databases there are, where the server says so."""
    try:
        count = int(node.parsed(replies.pairs, "CONFIG", "GET", "databases").get("databases", ""))
    except (ResponseError, ValueError):
        return ""
    return (
        f"; it has {count_of(count, 'database')}, 0 to {count - 1}"
        if count > 1
        else "; it has database 0 alone"
    )


def discover_target(connector: Connector, source: ServerFacts | None = None) -> TargetFacts:
    """Look at the target and at each of its primaries.

    What is not a node of a cluster, or is the `source`, is only asked who it is: for preflight to refuse it.
    Raises `TargetLostError`, `TargetNotReadyError`, or `MixedTargetError` where its addresses lead to two
    clusters.
    """
    seed, topology = _look_at_seeds(connector)
    if not seed.cluster or is_same(seed, source):
        return TargetFacts(seed)
    primaries, refusal = [], ""
    for address in topology.primaries:
        with _open_primary(connector, address) as node:
            server = server_facts(node)
            if not server.cluster or is_same(server, source):
                primaries.append(PrimaryFacts(server, "unknown"))
                continue
            if not are_one_cluster(topology.node_ids, read_topology(node, connector.address_map).node_ids):
                raise mixed_target(_address_of(connector, seed), address)
            owned = [(r[0], r[1]) for r in topology.ranges if Address(r[2], r[3]) == address]
            versions = probe_versions(node, owned)
            primaries.append(
                PrimaryFacts(
                    server,
                    cluster_info(node).get("cluster_state", "unknown"),
                    versions,
                    topology.primary_ids.get(address, ""),
                    ask_limits(node),
                )
            )
            refusal = refusal or _database_refusal(node, connector.endpoint.database)
    return TargetFacts(seed, topology, tuple(primaries), refusal)


@dataclass(frozen=True)
class _SeedView:
    """What one of the endpoint's nodes says; of one without a cluster, its server alone."""

    address: Address
    server: ServerFacts
    topology: Topology = Topology(())
    epoch: int = 0


def _look_at_seeds(connector: Connector) -> tuple[ServerFacts, Topology]:
    """Return the first of the endpoint's nodes that answers, and the newest topology that one of them knows.

    Raises the first error where none answers, and `MixedTargetError` where those that do are not one cluster.
    """
    addresses = list(dict.fromkeys(connector.endpoint.addresses))
    if not addresses:
        raise lost("target", "has no address", "name one of its nodes")
    with ThreadPoolExecutor(min(len(addresses), _SEEDS_AT_ONCE)) as pool:
        answers = list(pool.map(lambda address: _look_at_seed(connector, address), addresses))
    views = [answer for answer in answers if isinstance(answer, _SeedView)]
    if not views:
        raise next(answer for answer in answers if isinstance(answer, SlotferryError))
    _check_seeds(views)
    newest = max(views, key=lambda view: (view.epoch, -view.topology.missing_slots))
    return views[0].server, newest.topology


def _look_at_seed(connector: Connector, address: Address) -> _SeedView | SlotferryError:
    try:
        with connector.open(address) as node:
            server = server_facts(node)
            if not server.cluster:
                return _SeedView(address, server)
            topology = read_topology(node, connector.address_map)
            epoch = replies.number_of(cluster_info(node), "cluster_current_epoch")
            return _SeedView(address, server, topology, epoch)
    except SlotferryError as error:
        return error


def _check_seeds(views: Sequence[_SeedView]) -> None:
    """Raise where the seeds that answer are not nodes of one cluster."""
    first = views[0]
    for view in views[1:]:
        if view.server.cluster != first.server.cluster:
            bare = first if view.server.cluster else view
            raise not_ready(
                "target",
                f"is not a cluster at {bare.address} (cluster-enabled is off there), "
                "but is one at other addresses",
                "name nodes of one cluster",
            )
    # Two that know no node in common may still know one in common with a third.
    joined, rest = set(first.topology.node_ids), list(views[1:])
    while near := [view for view in rest if are_one_cluster(joined, view.topology.node_ids)]:
        for view in near:
            joined |= view.topology.node_ids
        rest = [view for view in rest if view not in near]
    if rest:
        raise mixed_target(first.address, rest[0].address)


def _address_of(connector: Connector, server: ServerFacts) -> Address:
    return next(address for address in connector.endpoint.addresses if str(address) == server.node)


def _open_primary(connector: Connector, address: Address) -> Node:
    try:
        return connector.open(address)
    except SlotferryError as error:
        error.hint += f"; it is the cluster that names {address} as a primary"
        raise


def server_facts(node: Node) -> ServerFacts:
    """Return who a server is. Raises `SlotferryError`."""
    info = node.info()
    if info.get("redis_mode") == "sentinel":
        hint = (
            "for what it watches, use redis+sentinel://…/SERVICE"
            if node.side == "source"
            else "name a server"
        )
        raise not_ready(node.side, f"is a Sentinel at {node.name}, which holds no keys", hint)
    run_id, version = info.get("run_id", ""), info.get("redis_version", "")
    product = Product.of(info)
    if not all(_WORD.fullmatch(text) for text in (run_id, version, product.version_text)):
        raise not_ready(
            node.side, f"does not say its run_id and version at {node.name}", "is INFO complete there?"
        )
    return ServerFacts(
        node=node.name,
        run_id=run_id,
        version=version_numbers(version),
        product=product,
        cluster=info.get("cluster_enabled") == "1" or info.get("redis_mode") == "cluster",
        replication_id=info.get("master_replid", "")[:100],
    )


def cluster_info(node: Node) -> dict[str, str]:
    """Return the fields of CLUSTER INFO. Raises `SlotferryError`."""
    return node.need_parsed(replies.info, "CLUSTER", "INFO")


def _database_refusal(node: Node, database: int) -> str:
    """Return why `database` can't be selected there; empty where it can."""
    if not database:
        return ""
    try:
        node.call("SELECT", database)
    except ResponseError as error:
        return str(error)
    return ""


def read_topology(node: Node, address_map: AddressMap) -> Topology:
    """Return the topology that a node of the target knows. Raises `SlotferryError`."""
    try:
        return node.parsed(
            lambda reply: parse_cluster_slots(reply, node.address, address_map), "CLUSTER", "SLOTS"
        )
    except ResponseError as error:
        raise_for(error, node, "CLUSTER SLOTS")


def parse_cluster_slots(reply: Any, asked: Address, address_map: AddressMap | None = None) -> Topology:
    """Return the topology that a CLUSTER SLOTS reply describes, by the addresses that nodes are reached at.

    A host that is empty, "?" or null means the one that was asked. Raises `MalformedReplyError`.
    """
    known = address_map or AddressMap()
    ranges, node_ids, shared = [], set[str](), set[Address]()
    primary_ids: dict[Address, str] = {}
    for entry in replies.cluster_slots(reply):
        reached = known.named(entry.primary.host, entry.primary.port, asked)
        ranges.append((entry.first, entry.last, reached.host, reached.port))
        if primary_ids.setdefault(reached, entry.primary.id) != entry.primary.id:
            shared.add(reached)
        node_ids.update(node.id for node in (entry.primary, *entry.replicas) if node.id)
    return Topology(tuple(sorted(ranges)), primary_ids, frozenset(node_ids), frozenset(shared))
