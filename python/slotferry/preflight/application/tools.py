"""Commands that the statistics of a server count, and that no application has sent.

Invariant: what is taken out was sent by Slotferry or by Sentinels, as far as numbers tell; a note says so,
and what is beyond these numbers stays the application's.
"""

from __future__ import annotations

from collections.abc import Mapping

from slotferry.net.node import CLIENT_NAME

_NAMES = (CLIENT_NAME.encode(), b"sentinel-")


def is_tool(name: bytes) -> bool:
    """Whether a connection of this name is Slotferry's or a Sentinel's."""
    return name.startswith(_NAMES)


def has_sentinels(clients: str) -> bool:
    """Whether a CLIENT LIST shows a Sentinel."""
    return " name=sentinel-" in clients


def without_tools(calls: Mapping[str, int], clients: str) -> tuple[dict[str, int], str]:
    """Return the calls of the application, and a note of what was taken out (empty: nothing).

    `clients` is a CLIENT LIST. A large key that Slotferry copies takes an UNWATCH, a WATCH and an EXEC, and
    clients hardly ever send UNWATCH otherwise. Sentinels PUBLISH every two seconds, and EXEC at a failover.
    """
    left = dict(calls)
    notes = []
    own = min(left.get("exec", 0), left.get("unwatch", 0))
    if own:
        left["exec"] -= own
        notes.append(f"EXEC {own:,} times, as Slotferry copies large keys (by as many UNWATCH)")
    if has_sentinels(clients) and (told := left.pop("publish", 0)):
        notes.append(f"PUBLISH {told:,} times, as Sentinels do")
    return left, "; ".join(notes)
