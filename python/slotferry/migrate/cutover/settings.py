"""Settings of the source that a cut-over has changed, and how they are put back.

Invariant: a setting that somebody has changed since is theirs, and left as it is. The journal forgets one
only when the source has told that it is as it was, or is theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from slotferry.errors import SourceNotReadyError
from slotferry.jobs.journal.cutovers import ChangedSetting, CutoverRecords
from slotferry.migrate.cutover.source import open_primary
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.replies import ResponseError

if TYPE_CHECKING:
    from slotferry.net.node import Node

_RIGHTS = "allow +config|get and +config|set, or stop writes with 'pause'"


def read_setting(node: Node, name: str) -> str:
    """Return a setting of a server. Raises `SlotferryError`."""
    try:
        found = node.parsed(replies.pairs, "CONFIG", "GET", name)
    except ResponseError as error:
        raise _not_ready(node, f"does not tell its {name}: {error}") from None
    if name not in found:
        raise _not_ready(node, f"has no setting {name}")
    return found[name]


def write_setting(node: Node, name: str, value: str) -> None:
    """Change a setting of a server. Raises `SlotferryError`."""
    try:
        node.call("CONFIG", "SET", name, value)
    except ResponseError as error:
        raise _not_ready(node, f"does not let its {name} be changed: {error}") from None


def put_back(source: Connector, records: CutoverRecords) -> list[str]:
    """Put back every setting that the journal has; return a sentence about each. Raises `SlotferryError`."""
    messages = []
    for setting in reversed(records.changed_settings()):
        with _open(source, setting.node) as node:
            messages.append(_put_back(node, setting))
        records.forget(setting)
    return messages


def _open(source: Connector, name: str) -> Node:
    """Open the server whose setting was changed, be it a primary or not by now."""
    if source.endpoint.path is not None:
        return open_primary(source)
    host, _, port = name.rpartition(":")
    return source.open(Address(host.strip("[]"), int(port)))


def _put_back(node: Node, setting: ChangedSetting) -> str:
    now = read_setting(node, setting.name)
    if now == setting.before:
        return f"{setting.name} of {setting.node} is {now} already"
    if now != setting.made:
        return f"{setting.name} of {setting.node} is {now} by now, which somebody else has set: left as it is"
    write_setting(node, setting.name, setting.before)
    return f"{setting.name} of {setting.node} is {setting.before} again"


def _not_ready(node: Node, what: str) -> SourceNotReadyError:
    return SourceNotReadyError(f"the source {node.name} {what}", hint=_RIGHTS)
