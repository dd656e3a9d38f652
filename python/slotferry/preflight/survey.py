"""What both sides say about themselves, asked once over one connection a server.

Invariant: asking changes nothing, and what is found is judged elsewhere (fitness.py, compatibility.py), so
that the judgement can be tested without a server.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.cluster_nodes import ClusterNode, cluster_nodes
from slotferry.net.connector import Connector
from slotferry.net.node import Node
from slotferry.net.replies import ResponseError
from slotferry.preflight.rights import Command, denied_commands, source_probes, target_probes
from slotferry.topology.cluster_source.facts import ClusterFacts
from slotferry.topology.discovery import ServerFacts, SourceFacts, TargetFacts, Topology
from slotferry.topology.product import Product

_CLOCK_SAMPLES = 3
_FAR = 0.01
_AT_ONCE = 16
_APART = ("used_memory_startup", "mem_clients_normal", "mem_clients_slaves", "mem_aof_buffer",
          "mem_replication_backlog", "mem_cluster_links", "used_memory_scripts")  # fmt: skip
"""What a server's memory holds besides data."""


@dataclass(frozen=True)
class Clock:
    """How far a server's clock is ahead of ours, and by how much that may be wrong; in seconds."""

    ahead: float
    uncertainty: float


@dataclass(frozen=True)
class ServerView:
    """One server: what it says of itself (INFO, modules, clock), and what it denies us.

    max_value: its proto-max-bulk-len. rdb_versions: those of the payloads that it takes, as far as it tells.
    nodes: the cluster as it sees it.
    """

    node: str
    product: Product
    info: Mapping[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    denied: tuple[str, ...] = ()
    clock: Clock | None = None
    max_value: int | None = None
    rdb_versions: frozenset[int] | None = None
    nodes: tuple[ClusterNode, ...] = ()

    def number(self, name: str, default: int = 0) -> int:
        """Return a field of INFO as a whole number."""
        return replies.number_of(self.info, name, default)

    @property
    def keys(self) -> dict[int, int]:
        """How many keys each database holds; empty ones are left out."""
        return replies.keys_by_database(self.info)

    @property
    def data_bytes(self) -> int:
        """About the memory that its data takes: without the server itself, its clients and replicas."""
        return max(0, self.number("used_memory") - sum(map(self.number, _APART)))


@dataclass(frozen=True)
class Survey:
    """Both sides; `primaries` in the order of the topology.

    source_keys: how many keys are to be moved, from `source_databases`; filtered: or fewer, by filters.
    wait_replicas: how many replicas of each primary are to confirm what is written.
    """

    source: ServerView
    primaries: tuple[ServerView, ...]
    topology: Topology
    source_keys: int
    source_databases: frozenset[int] = frozenset({0})
    target_database: int = 0
    filtered: bool = False
    wait_replicas: int = 0


def take_survey(
    source: Connector, source_facts: SourceFacts, target: Connector, target_facts: TargetFacts
) -> Survey:
    """Ask every server. Raises `SourceLostError` or `TargetLostError` where one goes away meanwhile."""
    if isinstance(source_facts, ClusterFacts):
        places = list(zip((node.address for node in source_facts.nodes), source_facts.servers, strict=True))
        view = _merged([_look_at_source(source, address, server) for address, server in places])
    else:
        address = source_facts.address(source.endpoint)
        view = _look_at_source(source, address, source_facts.server)
    there = survey_target(target, target_facts)
    return replace(
        there,
        source=view,
        source_keys=source_facts.keys,
        source_databases=frozenset({source.endpoint.database}),
    )


def _look_at_source(source: Connector, address: Address | None, server: ServerFacts) -> ServerView:
    with source.open(address) as node:
        if source.endpoint.database:
            node.need("SELECT", source.endpoint.database)
        return _look(node, server.product, source_probes(server))


def _merged(views: Sequence[ServerView]) -> ServerView:
    """Return the primaries of a cluster as one: the newest of them, with the data of all."""
    newest = max(views, key=lambda view: view.product.version)
    info = dict(newest.info)
    for name in ("used_memory", *_APART):
        info[name] = str(sum(view.number(name) for view in views))
    held: Counter[int] = Counter()
    for view in views:
        held.update(view.keys)
    info.update((f"db{number}", f"keys={keys},expires=0") for number, keys in held.items())
    denied = sorted({command for view in views for command in view.denied})
    modules = frozenset[str]().union(*(view.modules for view in views))
    return replace(newest, info=info, modules=modules, denied=tuple(denied))


def survey_target(target: Connector, target_facts: TargetFacts) -> Survey:
    """Ask the target alone; its survey has a source that is nothing. Raises `TargetLostError`."""
    probes = target_probes(has_pexpiretime=target_facts.has_pexpiretime)
    known = {primary.server.node: primary for primary in target_facts.primaries}

    def look(address: Address) -> ServerView:
        with target.open(address) as node:
            facts = known[node.name]
            view = _look(node, facts.server.product, probes, cluster=True)
            return replace(view, rdb_versions=facts.rdb_versions)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        primaries = list(pool.map(look, target_facts.topology.primaries))
    nothing = ServerView("", Product("redis", ""))
    return Survey(
        nothing, tuple(primaries), target_facts.topology, 0, target_database=target.endpoint.database
    )


def _look(node: Node, product: Product, probes: Iterable[Command], *, cluster: bool = False) -> ServerView:
    return ServerView(
        node=node.name,
        product=product,
        info=node.info(),
        modules=_modules(node),
        denied=denied_commands(node, list(probes)),
        clock=_clock(node),
        max_value=_max_value(node) if cluster else None,
        nodes=_nodes(node) if cluster else (),
    )


def _nodes(node: Node) -> tuple[ClusterNode, ...]:
    """Return the cluster as the node sees it; none where the user may not ask for it."""
    try:
        return node.parsed(cluster_nodes, "CLUSTER", "NODES")
    except ResponseError:
        return ()


def _text(node: Node, *command: str) -> str:
    try:
        reply = node.call(*command)
    except ResponseError:
        return ""
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else ""


def _modules(node: Node) -> frozenset[str]:
    # INFO has a line a module, all of one name: MODULE LIST would need a right of its own.
    names = re.findall(r"^module:name=([^,\r\n]+)", _text(node, "INFO", "modules"), re.MULTILINE)
    return frozenset(names) - {"lua"}  # Valkey's scripting engine: it has no data


def _clock(node: Node) -> Clock | None:
    best: Clock | None = None
    for _ in range(_CLOCK_SAMPLES):
        before, begun = time.time(), time.perf_counter()
        try:
            there = node.parsed(replies.clock, "TIME")
        except ResponseError:
            return None
        took = time.perf_counter() - begun
        clock = Clock(there - (before + took / 2), took / 2)
        if took > _FAR:  # to know it better is not worth the time
            return clock
        if best is None or clock.uncertainty < best.uncertainty:
            best = clock
    return best


def _max_value(node: Node) -> int | None:
    """Return proto-max-bulk-len; None where the user may not ask for it."""
    try:
        found = node.parsed(replies.pairs, "CONFIG", "GET", "proto-max-bulk-len")
    except ResponseError:
        return None
    return replies.number_of(found, "proto-max-bulk-len") or None
