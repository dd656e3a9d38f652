"""A plan: which slots move where, and what the cluster was when it was made.

Invariant: a plan is a value that is applied as shown or not at all. It carries a digest of itself, so that an
edited one is refused, and the owners it started from, so that a cluster that has changed since is noticed.
Making one changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from slotferry.addressmap import AddressMap
from slotferry.admin import Connector
from slotferry.endpoints import Endpoint, Password, Tls
from slotferry.errors import OptionError, RefusedError, UsageError
from slotferry.reshard.balance import Move, balance
from slotferry.reshard.joining import Joining, with_joining
from slotferry.reshard.measure import Weights, measure
from slotferry.reshard.members import Cluster, Member, read_still_cluster
from slotferry.reshard.wire import format_ranges, parse_ranges, ranges_of

if TYPE_CHECKING:
    from slotferry.notices import Event
    from slotferry.reshard.care import Care
    from slotferry.reshard.control import Control
    from slotferry.reshard.options import Options
    from slotferry.reshard.report import Report

BY = ("slots", "keys", "bytes", "load")
DEFAULT_SAMPLES = 100
DEFAULT_THRESHOLD = 0.02
_VERSION = 1
# What moves at the least on a small machine; the estimate is there for planning a window, not for betting.
_KEYS_PER_SECOND, _BYTES_PER_SECOND, _SLOTS_PER_SECOND = 50_000.0, 50e6, 1_000.0


@dataclass(frozen=True)
class Policy:
    """What balance is wanted: as `plan_reshard` takes it. Nodes are named `host:port` or by id."""

    by: str = "slots"
    weights: Mapping[str, float] = field(default_factory=dict)
    add: tuple[str, ...] = ()
    drain: tuple[str, ...] = ()
    max_moves: int | None = None
    threshold: float = DEFAULT_THRESHOLD
    samples: int = DEFAULT_SAMPLES

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise UsageError(f"{self.by!r} is nothing to balance by", hint=f"use one of {', '.join(BY)}")
        if not 0 < self.threshold < 1:
            raise OptionError("{threshold} is not between 0% and 100%", hint="write it like 2%")
        if self.max_moves is not None and self.max_moves < 1:
            raise OptionError("{max_moves} is less than 1", hint="leave it out to move as many as it takes")
        if self.samples < 0:
            raise OptionError("{samples} is negative", hint="use 0 to size every key")


@dataclass(frozen=True)
class Holding:
    """What a node holds: before the moves, or after them."""

    slots: int = 0
    keys: int = 0
    bytes: int = 0
    load: float = 0.0


@dataclass(frozen=True)
class PlannedNode:
    """A primary of the plan. `share` is its part of the whole; `nodes` its own id and its replicas'."""

    id: str
    address: str
    nodes: tuple[str, ...]
    share: float
    slots: str
    before: Holding
    after: Holding


@dataclass(frozen=True)
class Transfer:
    """The slots that go from one node to another, with what they held when the plan was made."""

    source: str
    target: str
    slots: str
    keys: int
    bytes: int

    @property
    def slot_list(self) -> list[int]:
        """The slots, in order."""
        return parse_ranges(self.slots)


@dataclass(frozen=True)
class Plan:
    """What `plan_reshard` returns; `apply` carries it out.

    `expected_seconds` is a careful guess. `remarks` say what no choice of slots could balance. `joins` are
    the nodes of `add` that are no members yet: `apply` lets them join.
    """

    cluster: str
    created: float
    policy: Policy
    fingerprint: str
    nodes: tuple[PlannedNode, ...]
    transfers: tuple[Transfer, ...]
    remarks: tuple[str, ...]
    estimated: bool
    joins: tuple[Joining, ...] = ()
    connector: Connector | None = field(default=None, repr=False, compare=False)

    @property
    def slots(self) -> int:
        """How many slots move."""
        return sum(len(transfer.slot_list) for transfer in self.transfers)

    @property
    def keys(self) -> int:
        """How many keys they held."""
        return sum(transfer.keys for transfer in self.transfers)

    @property
    def bytes(self) -> int:
        """How many bytes of memory they took, by estimate."""
        return sum(transfer.bytes for transfer in self.transfers)

    @property
    def key_bytes(self) -> float:
        """What one of the keys took, by estimate."""
        return self.bytes / self.keys if self.keys else 0.0

    @property
    def expected_seconds(self) -> float:
        """How long it takes at careful rates, without any throttle."""
        rates = (
            (self.keys, _KEYS_PER_SECOND),
            (self.bytes, _BYTES_PER_SECOND),
            (self.slots, _SLOTS_PER_SECOND),
        )
        return max(amount / rate for amount, rate in rates)

    @property
    def balanced(self) -> bool:
        """Whether there is nothing to move."""
        return not self.transfers

    def node(self, node_id: str) -> PlannedNode:
        """Return the node of that id."""
        return next(node for node in self.nodes if node.id == node_id)

    def moves(self) -> list[Move]:
        """Return every slot that moves, in order."""
        found = [Move(slot, t.source, t.target) for t in self.transfers for slot in t.slot_list]
        return sorted(found, key=lambda move: move.slot)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as a JSON object, with its digest."""
        content = {
            "type": "reshard_plan",
            "version": _VERSION,
            "cluster": self.cluster,
            "created": self.created,
            "policy": asdict(self.policy),
            "fingerprint": self.fingerprint,
            "nodes": [asdict(node) for node in self.nodes],
            "transfers": [asdict(transfer) for transfer in self.transfers],
            "cost": {
                "slots": self.slots,
                "keys": self.keys,
                "bytes": self.bytes,
                "expected_seconds": round(self.expected_seconds, 1),
            },
            "remarks": list(self.remarks),
            "estimated": self.estimated,
            **({"joins": [asdict(join) for join in self.joins]} if self.joins else {}),
        }
        return {**content, "digest": _digest(content)}

    @property
    def digest(self) -> str:
        """The digest of the plan's content: what the journal knows it by."""
        return str(self.to_dict()["digest"])

    def to_json(self) -> str:
        """Return the plan as JSON text, for a file."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, name: str = "the plan") -> Plan:
        """Read a plan. Raises `UsageError` for what is none, `RefusedError` for one that was edited."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UsageError(
                f"{name} is no JSON: {error}", hint="make it with 'slotferry reshard plan -o'"
            ) from None
        if not isinstance(content, dict) or content.get("type") != "reshard_plan":
            raise UsageError(f"{name} is no plan", hint="make one with 'slotferry reshard plan -o'")
        if content.get("version") != _VERSION:
            raise UsageError(
                f"{name} has version {content.get('version')}, and this Slotferry knows version {_VERSION}",
                hint="make it anew with 'slotferry reshard plan'",
            )
        digest = content.pop("digest", None)
        if digest != _digest(content):
            raise RefusedError(
                f"{name} was changed after it was made: its digest does not fit its content",
                hint="make it anew with 'slotferry reshard plan'; what is to be moved is said by its options",
            )
        policy = content["policy"]
        return cls(
            cluster=content["cluster"],
            created=content["created"],
            policy=Policy(**{**policy, "add": tuple(policy["add"]), "drain": tuple(policy["drain"])}),
            fingerprint=content["fingerprint"],
            nodes=tuple(
                PlannedNode(
                    **{
                        **node,
                        "nodes": tuple(node["nodes"]),
                        "before": Holding(**node["before"]),
                        "after": Holding(**node["after"]),
                    }
                )
                for node in content["nodes"]
            ),
            transfers=tuple(Transfer(**transfer) for transfer in content["transfers"]),
            remarks=tuple(content["remarks"]),
            estimated=content["estimated"],
            joins=tuple(Joining(**join) for join in content.get("joins", ())),
        )

    def apply(
        self,
        cluster: str | Endpoint | Connector | None = None,
        *,
        options: Options | None = None,
        care: Care | None = None,
        on_event: Callable[[Event], None] | None = None,
        control: Control | None = None,
        password: Password | None = None,
        tls: Tls | None = None,
        address_map: Sequence[str] = (),
        **changes: Any,
    ) -> Report:
        """Carry the plan out in this thread and return how it ended; the same again goes on.

        `cluster` is needed for a plan that was read from a file; `password`, `tls` and `address_map` go with
        it, as in `plan_reshard`. `control` is what other threads pause, limit and end the run with. `changes`
        are fields of `Options` by name, such as `method="setslot"`. A run that was stopped, or that lost the
        cluster, returns its report too: look at `Report.ok`, `Report.remaining` and `Report.error`. Raises
        `SlotferryError` where the run was refused and nothing has moved.
        """
        from slotferry.reshard.apply import apply_plan
        from slotferry.reshard.options import Options

        where = cluster or self.connector
        if where is None:
            raise UsageError("the plan does not say how to log in", hint="give apply() the cluster's URL")
        connector = _connector(where, password, tls, address_map)
        chosen = replace(options or Options(), **changes)
        return apply_plan(connector, self, chosen, care=care, on_event=on_event, control=control)


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _connector(
    cluster: str | Endpoint | Connector,
    password: Password | None,
    tls: Tls | None,
    address_map: Sequence[str],
) -> Connector:
    if not isinstance(cluster, Connector):
        return connect(cluster, password=password, tls=tls, address_map=address_map)
    if password is not None or tls is not None or address_map:
        raise UsageError(
            "a password, TLS files or an address map are given for a cluster that has its own already",
            hint="give the cluster's URL with them, or give them to connect()",
        )
    return cluster


def connect(
    cluster: str | Endpoint,
    *,
    password: Password | None = None,
    tls: Tls | None = None,
    address_map: Sequence[str] = (),
) -> Connector:
    """Return what opens connections to a cluster's nodes. Raises `UsageError` for a URL of another kind.

    `password` may be a callable that returns it, or user and password: it is asked when the first connection
    is made and again when a login is refused. `address_map` says where an announced address is reached from
    here, as `announced=reachable`; the nodes go on reaching each other as they announce themselves.
    """
    endpoint = Endpoint.parse(cluster, "cluster") if isinstance(cluster, str) else cluster
    if endpoint.service is not None:
        raise UsageError("the cluster URL names Sentinels", hint="a cluster has none: name one of its nodes")
    if endpoint.path is not None:
        raise UsageError("the cluster URL is a Unix socket", hint="name one of its nodes by host and port")
    if endpoint.database:
        raise UsageError("the cluster URL names a database", hint="slots are moved with all that is in them")
    if password is not None or tls is not None:
        endpoint = endpoint.with_credentials(password, tls or Tls())
    return Connector(endpoint, "cluster", AddressMap.parse(address_map))


def plan_reshard(
    cluster: str | Endpoint | Connector,
    *,
    by: str = "slots",
    weights: Mapping[str, float] | None = None,
    add: Sequence[str] = (),
    drain: Sequence[str] = (),
    max_moves: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    samples: int = DEFAULT_SAMPLES,
    password: Password | None = None,
    tls: Tls | None = None,
    address_map: Sequence[str] = (),
) -> Plan:
    """Return the fewest slot moves that give every primary its share; nothing is changed.

    `by` is `slots`, `keys`, `bytes` or `load`. `weights` maps a node to its part (1 where not given; a
    primary without slots takes part only if it is named in `add` or has a weight; an empty node that `add`
    names by `host:port` need be no member yet), `drain` empties nodes.
    `threshold` is how far from its share a node may be, as a part of it. `samples` keys a slot are sized (0:
    all). `password`, `tls` and `address_map` are those of `connect`. Raises `UsageError` for a node that the
    cluster does not have and for shares that make no sense, `SlotferryError` where the cluster can't be read
    or is not whole.
    """
    policy = Policy(by, dict(weights or {}), tuple(add), tuple(drain), max_moves, threshold, samples)
    connector = _connector(cluster, password, tls, address_map)
    return make_plan(connector, policy)


def make_plan(connector: Connector, policy: Policy) -> Plan:
    """`plan_reshard` for a policy."""
    cluster = read_still_cluster(connector)
    _check_whole(cluster)
    fingerprint = cluster.fingerprint
    cluster, joins = with_joining(connector, cluster, policy.add)
    shares = node_shares(cluster, policy)
    weights = measure(connector, cluster, by=policy.by, samples=policy.samples)
    names = {member.id: str(member) for member in cluster.members.values()}
    values, remarks = weights.of(policy.by), []
    if not sum(values):
        remarks.append(f"no slot has any {policy.by}: balanced by slots instead")
        values = weights.of("slots")
    result = balance(
        cluster.owners,
        values,
        shares,
        threshold=policy.threshold,
        max_moves=policy.max_moves,
        names=names,
    )
    plan = _assemble(connector, cluster, policy, shares, weights, result.moves, [*remarks, *result.remarks])
    return replace(plan, fingerprint=fingerprint, joins=tuple(joins))


def node_shares(cluster: Cluster, policy: Policy) -> dict[str, float]:
    """Return each primary's share by id. Raises `UsageError` for shares that make no sense."""
    drained = {cluster.find(name).id for name in policy.drain}
    added = {_find_added(cluster, name).id for name in policy.add}
    given = {cluster.find(name).id: weight for name, weight in policy.weights.items()}
    if both := drained & (added | {node for node, weight in given.items() if weight > 0}):
        name = cluster.members[both.pop()]
        raise UsageError(f"{name} is to be drained and to take slots", hint="leave out one of the two")
    for node, weight in given.items():
        if not 0 <= weight < float("inf"):
            raise UsageError(
                f"the weight {weight} of {cluster.members[node]} makes no sense", hint="give 0 or more"
            )
    shares = {}
    for member in cluster.primaries:
        if member.id in drained:
            shares[member.id] = 0.0
        elif member.slots or member.id in added or given.get(member.id):
            shares[member.id] = float(given.get(member.id, 1))
    if not any(shares.values()):
        if drained and not given:
            raise UsageError(
                "every primary is to be drained, and nobody is left to take the slots",
                hint="leave out one --drain, or add a node with --add",
            )
        raise UsageError("the weights add up to nothing", hint="give one node at least a weight above 0")
    return shares


def _find_added(cluster: Cluster, name: str) -> Member:
    try:
        return cluster.find(name)
    except UsageError as error:
        raise UsageError(
            error.message,
            hint=f"let it join first: redis-cli --cluster add-node {name} {cluster.primaries[0]}",
        ) from None


def _check_whole(cluster: Cluster) -> None:
    """Refuse to plan on a cluster that needs mending first."""
    if cluster.uncovered:
        raise RefusedError(
            f"the slots {format_ranges(cluster.uncovered)} have no owner",
            hint="see 'slotferry reshard status', mend it with 'slotferry reshard fix', then plan again",
        )
    down = sorted({str(cluster.members[o]) for o in cluster.owners if o and cluster.members[o].is_down})
    if down:
        raise RefusedError(
            f"{', '.join(down)} owns slots and is down", hint="wait for its failover or start it again"
        )


def _assemble(
    connector: Connector,
    cluster: Cluster,
    policy: Policy,
    shares: Mapping[str, float],
    weights: Weights,
    moves: Sequence[Move],
    remarks: list[str],
) -> Plan:
    grouped: dict[tuple[str, str], list[int]] = defaultdict(list)
    for move in moves:
        grouped[move.source, move.target].append(move.slot)
    after = {move.slot: move.target for move in moves}
    owned = {name: cluster.slots_of(name) for name in shares}
    later: dict[str, list[int]] = defaultdict(list)
    for slot, owner in enumerate(cluster.owners):
        later[after.get(slot, str(owner))].append(slot)
    whole = sum(shares.values())

    def holding(slots: Sequence[int]) -> Holding:
        return Holding(
            len(slots),
            sum(weights.keys[slot] for slot in slots),
            sum(weights.bytes[slot] for slot in slots),
            sum(weights.load[slot] for slot in slots),
        )

    def node(member: Member) -> PlannedNode:
        return PlannedNode(
            id=member.id,
            address=str(member),
            nodes=(member.id, *(replica.id for replica in cluster.replicas_of(member.id))),
            share=shares[member.id] / whole,
            slots=format_ranges(owned[member.id]),
            before=holding(owned[member.id]),
            after=holding(later[member.id]),
        )

    keys = sum(weights.keys)
    return Plan(
        cluster=connector.endpoint.target_identity,
        created=time.time(),
        policy=policy,
        fingerprint=cluster.fingerprint,
        nodes=tuple(node(member) for member in cluster.primaries if member.id in shares),
        transfers=tuple(
            Transfer(
                source,
                target,
                format_ranges(slots),
                sum(weights.keys[slot] for slot in slots),
                sum(weights.bytes[slot] for slot in slots),
            )
            for (source, target), slots in sorted(grouped.items())
        ),
        remarks=tuple(remarks),
        estimated=weights.sampled < keys,
        connector=connector,
    )


def count_ranges(plan: Plan) -> Mapping[str, tuple[int, int]]:
    """Return in how many ranges each node's slots lie, before and after."""
    moved = {move.slot for move in plan.moves()}
    taken: dict[str, list[int]] = defaultdict(list)
    for move in plan.moves():
        taken[move.target].append(move.slot)
    counts = {}
    for node in plan.nodes:
        before = parse_ranges(node.slots)
        after = [slot for slot in before if slot not in moved] + taken[node.id]
        counts[node.id] = (len(ranges_of(before)), len(ranges_of(after)))
    return counts
