"""The public API of resharding: a plan that is made from a cluster, shown, and applied.

Invariant: `plan_reshard` changes nothing; `Plan.apply` alone moves slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from slotferry.errors import UsageError
from slotferry.model.address import Password
from slotferry.net.address_map import AddressMap
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint, Tls
from slotferry.reshard.plan import model as planned
from slotferry.reshard.plan.model import DEFAULT_SAMPLES, DEFAULT_THRESHOLD, Policy
from slotferry.reshard.plan.planner import make_plan

if TYPE_CHECKING:
    from slotferry.model.notices import Event
    from slotferry.reshard.control import Control
    from slotferry.reshard.limits import Limits
    from slotferry.reshard.options import Options
    from slotferry.reshard.report import Report


@dataclass(frozen=True)
class Plan(planned.Plan):
    """What `plan_reshard` returns or `from_json` reads; `apply` carries it out."""

    connector: Connector | None = field(default=None, repr=False, compare=False)

    def apply(
        self,
        cluster: str | Endpoint | Connector | None = None,
        *,
        options: Options | None = None,
        limits: Limits | None = None,
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
        return apply_plan(connector, self, chosen, limits=limits, on_event=on_event, control=control)


def plan_of(plan: planned.Plan, connector: Connector) -> Plan:
    """Return `plan` as one that can be applied through `connector`."""
    values = {each.name: getattr(plan, each.name) for each in fields(planned.Plan)}
    return Plan(**values, connector=connector)


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
    return plan_of(make_plan(connector, policy), connector)
