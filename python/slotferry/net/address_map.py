"""Where announced addresses are reached from here: `--address-map announced=reachable`, for NAT.

Invariant: an announced address is mapped once, where it comes in (CLUSTER SLOTS, MOVED, ASK, a Sentinel's
answer); what the user typed as a URL is never mapped. The engine is given the same rules (`rules`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from slotferry.errors import UsageError
from slotferry.model.address import Address

Rule = tuple[str, "int | None", str, "int | None"]
"""Announced host and port, reachable host and port; without ports, every port of the host is meant."""

_END = re.compile(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]+))(?::([0-9]{1,5}))?", re.ASCII)
_HINT = "write it like 10.0.0.7:6379=nat.example:16379, or 10.0.0.7=nat.example for every port"


@dataclass(frozen=True)
class AddressMap:
    """What `--address-map` says; a rule with a port goes before one for its host."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> AddressMap:
        """Parse `announced=reachable` entries. Raises `UsageError` that names the entry."""
        rules: dict[tuple[str, int | None], Rule] = {}
        for entry in entries:
            announced, equals, reachable = entry.strip().partition("=")
            if not equals:
                raise UsageError(f"the address map {entry!r} has no '='", hint=_HINT)
            host, port = _parse_end(entry, announced)
            to_host, to_port = _parse_end(entry, reachable)
            if (port is None) != (to_port is None):
                raise UsageError(f"the address map {entry!r} has a port on one side only", hint=_HINT)
            rule = (host, port, to_host, to_port)
            if rules.setdefault((host, port), rule) != rule:
                raise UsageError(
                    f"the address map names {announced!r} twice, with different addresses to reach it",
                    hint="leave one of them out",
                )
        return cls(tuple(sorted(rules.values(), key=lambda rule: (rule[0], rule[1] or 0))))

    def reach(self, announced: Address) -> Address:
        """Return where `announced` is reached: itself where no rule is for it."""
        host = announced.host.lower()
        for rule_host, port, to_host, to_port in self.rules:
            if rule_host == host and port == announced.port and to_port is not None:
                return Address(to_host, to_port)
        for rule_host, port, to_host, _ in self.rules:
            if rule_host == host and port is None:
                return Address(to_host, announced.port)
        return announced

    def named(self, host: bytes | str | None, port: int, asked: Address) -> Address:
        """Return where a node is reached that `asked` names; an empty, "?" or null host means its own."""
        name = host.decode() if isinstance(host, bytes) else host
        return self.reach(Address(name if name and name != "?" else self.announced_host(asked), port))

    def announced_host(self, reachable: Address) -> str:
        """Return the host that a node which is reached at `reachable` announces; its own without a rule.

        A node that names itself only by a port means this host.
        """
        for host, _, to_host, to_port in self.rules:
            if to_host == reachable.host.lower() and to_port in (None, reachable.port):
                return host
        return reachable.host


def _parse_end(entry: str, text: str) -> tuple[str, int | None]:
    match = _END.fullmatch(text.strip())
    port = int(match[3]) if match and match[3] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise UsageError(f"the address map {entry!r} has an unreadable host or port", hint=_HINT)
    return (match[1] or match[2]).lower(), port
