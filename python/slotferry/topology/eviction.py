"""Idle times and access frequencies: which of them can be carried over from source to target.

Invariant: what the target would ignore, or the source can't tell, is refused beforehand and never dropped in
silence. A server keeps frequencies under an LFU policy and idle times under every other one.
"""

from __future__ import annotations

from typing import Literal

from slotferry.errors import SourceNotReadyError, TargetNotReadyError
from slotferry.net.connector import Connector
from slotferry.net.node import Node
from slotferry.net.replies import NoPermissionError, ResponseError
from slotferry.topology.discovery import SourceFacts, TargetFacts

Eviction = Literal["idle_time", "frequency"]

_WORDS = {"idle_time": "idle times", "frequency": "access frequencies"}
_PROBE_KEY = "slotferry:preflight"


def choose_eviction(
    source: Connector, source_facts: SourceFacts, target: Connector, target_facts: TargetFacts
) -> Eviction:
    """Return what the target's primaries evict by, and the source can tell. Raises where that is nothing."""
    kinds: dict[Eviction, str] = {}
    for address in target_facts.topology.primaries:
        with target.open(address) as node:
            kinds.setdefault(_kind(_policy(node)), node.name)
    if len(kinds) > 1:
        raise TargetNotReadyError(
            f"the target's primaries evict by different things: {kinds['frequency']} by frequency, "
            f"{kinds['idle_time']} by idle time",
            hint="give all of them one maxmemory-policy, or leave out --keep-eviction-metadata",
        )
    (kind,) = kinds
    found = source_facts.found
    with source.open(None if found is None else found.address) as node:
        policy = _policy(node)
        if _kind(policy) != kind:
            raise SourceNotReadyError(
                f"the target evicts by {_WORDS[kind]}, and the source {node.name} keeps none under its "
                f"maxmemory-policy {policy}",
                hint="leave out --keep-eviction-metadata, or change one of the policies well before",
            )
        _check_right(node, kind)
    return kind


def _policy(node: Node) -> str:
    return node.info().get("maxmemory_policy", "noeviction")


def _kind(policy: str) -> Eviction:
    return "frequency" if policy.endswith("-lfu") else "idle_time"


def _check_right(node: Node, kind: Eviction) -> None:
    measure = "FREQ" if kind == "frequency" else "IDLETIME"
    try:
        node.call("OBJECT", measure, _PROBE_KEY)
    except NoPermissionError as error:
        if "to run the" in str(error) or "run the '" in str(error):
            raise SourceNotReadyError(
                f"the source user may not run OBJECT {measure} at {node.name} (NOPERM)",
                hint="grant it there: ACL SETUSER <user> +object, or leave out --keep-eviction-metadata",
            ) from None
    except ResponseError:
        return
