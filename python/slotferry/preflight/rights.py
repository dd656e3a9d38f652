"""Which commands the users of both sides may run.

Invariant: no probe changes anything. ACL DRYRUN answers where the server has it (7.0 on) and the user may
ask; else a right is probed with the command itself, on a key that does not matter: ACL is what a server
checks first (docs/protocol.md, Redirects and errors), so NOPERM tells, and any other reply means that the
right is there. RESTORE is probed with an empty payload, which no server takes.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from slotferry.model.address import Side
from slotferry.net import replies
from slotferry.net.node import Node
from slotferry.net.replies import NoPermissionError, ResponseError
from slotferry.preflight.rows import Row, error, ok
from slotferry.topology.discovery import ServerFacts

PROBE_KEY = "slotferry:preflight"
Command = tuple[str | bytes | int, ...]


def source_probes(server: ServerFacts) -> list[Command]:
    """Return what reading the source needs."""
    return [("SCAN", 0, "COUNT", 1), ("DUMP", PROBE_KEY), _ttl_probe(server.has_pexpiretime), ("TIME",)]


def target_probes(*, has_pexpiretime: bool) -> list[Command]:
    """Return what writing to a primary needs."""
    return [
        ("RESTORE", PROBE_KEY, 0, ""),
        ("ASKING",),
        ("DUMP", PROBE_KEY),
        _ttl_probe(has_pexpiretime),
        *([] if has_pexpiretime else [("TIME",)]),
    ]


def verify_source_probes(server: ServerFacts, *, quick: bool) -> list[Command]:
    """Return what comparing the source's keys needs."""
    return [
        ("SCAN", 0, "COUNT", 1),
        ("EXISTS", PROBE_KEY),
        ("TIME",),
        _ttl_probe(server.has_pexpiretime),
        *_value_probes(quick=quick),
    ]


def verify_target_probes(*, has_pexpiretime: bool, quick: bool) -> list[Command]:
    """Return what comparing a primary's keys needs."""
    return [
        ("SCAN", 0, "COUNT", 1),
        ("ASKING",),
        _ttl_probe(has_pexpiretime),
        *([] if has_pexpiretime else [("TIME",)]),
        *_value_probes(quick=quick),
    ]


def repair_probes(*, delete: bool) -> list[Command]:
    """Return what repairing needs besides."""
    # A key of that name is nowhere: it is deleted to no effect, where ACL DRYRUN can't be asked.
    nowhere = f"{PROBE_KEY}:{uuid.uuid4().hex}"
    return [("RESTORE", PROBE_KEY, 0, ""), *([("UNLINK", nowhere)] if delete else [])]


def _value_probes(*, quick: bool) -> list[Command]:
    if not quick:
        return [("DUMP", PROBE_KEY)]
    return [(name, PROBE_KEY) for name in ("TYPE", "STRLEN", "LLEN", "SCARD", "ZCARD", "HLEN", "XLEN")]


def _ttl_probe(has_pexpiretime: bool) -> Command:
    return ("PEXPIRETIME" if has_pexpiretime else "PTTL", PROBE_KEY)


def denied_commands(node: Node, probes: Sequence[Command]) -> tuple[str, ...]:
    """Return the names of those commands that the user may not run at `node`, whatever the key."""
    user = _dryrun_user(node)
    asked = probes if user is None else [("ACL", "DRYRUN", user, *command) for command in probes]
    answers = node.call_many(asked)  # in one go: a cluster may have many primaries, and be far away
    return tuple(
        str(command[0]) for command, answer in zip(probes, answers, strict=True) if _is_denial(answer)
    )


def denied_key(node: Node, command: Command) -> bool:
    """Whether the user may not run `command` on that very key. It is sent as it is: mind what it does."""
    try:
        node.call(*command)
    except NoPermissionError:
        return True
    except ResponseError:
        return False
    return False


def judge_rights(side: Side, denied: Mapping[str, tuple[str, ...]]) -> list[Row]:
    """Return one row for all nodes (by name) that deny the same commands, or one that says all is well."""
    name = f"{side}-rights"
    rows = []
    for commands in dict.fromkeys(filter(None, denied.values())):
        nodes = ", ".join(node for node, missing in denied.items() if missing == commands)
        rows.append(
            error(
                name,
                side,
                f"the {side} user may not run {', '.join(commands)} at {nodes} (NOPERM, or not known)",
                f"grant it there: ACL SETUSER <user> {' '.join('+' + name.lower() for name in commands)}",
            )
        )
    return rows or [ok(name, f"the {side} user may run all that is needed")]


def _dryrun_user(node: Node) -> str | None:
    """Return whom to ask ACL DRYRUN about; None where that can't be asked."""
    try:
        user = node.parsed(replies.text, "ACL", "WHOAMI")
        answer = node.call("ACL", "DRYRUN", user, "PING")
    except ResponseError:
        return None
    return user if isinstance(answer, bytes) else None


def _is_denial(answer: Any) -> bool:
    """Whether a probe or ACL DRYRUN was answered so because the user may not run that command at all.

    A key pattern that keeps out the probe key is fine. Some providers take commands away altogether.
    """
    if isinstance(answer, ResponseError) and not isinstance(answer, NoPermissionError):
        return re.match(r"unknown command|Command '.*' not found", str(answer)) is not None
    if isinstance(answer, bytes):  # of ACL DRYRUN; a value can't be, as no probe names a key that exists
        answer = answer.decode("utf-8", "replace")
    return re.search(r"run the '", str(answer)) is not None
