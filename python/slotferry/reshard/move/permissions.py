"""Whether the user may do what moving slots takes, found out before the first one is moved.

Invariant: asking changes nothing: STABLE on a closed slot does nothing, and the key is nobody's.
"""

from __future__ import annotations

import time

from slotferry.errors import RefusedError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.link import encode
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.cluster.methods import MethodName, choose_method
from slotferry.reshard.cluster.wire import Wire, is_error, refused
from slotferry.reshard.plan.drift import plan_shards
from slotferry.reshard.plan.model import Plan


def check_rights(connector: Connector, plan: Plan, cluster: Cluster, wanted: MethodName) -> None:
    """Ask both ends of every transfer of the plan. Raises `SlotferryError` where a right is missing."""
    shards = plan_shards(plan, cluster)
    open_slots = set(cluster.open_slots)
    probe = next((s for s in range(len(cluster.owners)) if s not in open_slots), None)
    ends = {end for transfer in plan.transfers for end in (transfer.source, transfer.target)}
    for end in sorted(ends):
        member = shards.get(end)
        if member is None:
            continue
        with Wire(connector, member.address) as wire:
            _check_node(wire, member, probe, wanted)


def _check_node(wire: Wire, member: Member, probe: int | None, wanted: MethodName) -> None:
    key = f"slotferry:probe:{time.time_ns()}"  # of no one: MIGRATE answers NOKEY
    commands = [
        ("MIGRATE", encode("MIGRATE", member.peer.host, member.peer.port, key, 0, 1)),
        ("CLUSTER COUNTKEYSINSLOT", encode("CLUSTER", "COUNTKEYSINSLOT", 0)),
        # What MIGRATE asks of the target as the same user; the payload is none, so nothing is stored.
        ("SELECT", encode("SELECT", 0)),
        ("RESTORE-ASKING", encode("RESTORE-ASKING", key, 0, "none")),
    ]
    if probe is not None:
        commands.insert(0, ("CLUSTER SETSLOT", encode("CLUSTER", "SETSLOT", probe, "STABLE")))
    for name, command in commands:
        wire.send(command)
        reply = wire.reply()
        if is_error(reply) and reply.startswith((b"-NOPERM", b"-NOAUTH")):
            raise refused(str(member), name, reply)
    if choose_method(member, member, wanted) == "setslot":
        _check_databases(wire, member)


def _check_databases(wire: Wire, member: Member) -> None:
    """Refuse MIGRATE where other databases hold keys: it would leave them behind, to be deleted."""
    keyspace = wire.need_parsed(replies.info, "INFO", "keyspace")
    databases = [name for name in keyspace if name.startswith("db")]
    if others := [name for name in databases if name != "db0"]:
        raise RefusedError(
            f"{member} holds keys in {', '.join(others)}, which SETSLOT and MIGRATE do not move",
            hint="use --method auto: atomic moves take every database",
        )
