"""Which DUMP payloads a server takes: found out by asking it.

Invariant: the question can't write. Its payload has a type byte that no server knows, so RESTORE refuses it
whatever its version: with "DUMP payload version or checksum are wrong" where it does not take the version,
and with "Bad data format" where it does (docs/protocol.md, DUMP and RESTORE). So nothing depends on what a
server says of itself, nor on `rdb-version-check`.
"""

from __future__ import annotations

from collections.abc import Iterable

from slotferry._core import key_slot
from slotferry.net.node import Node
from slotferry.net.replies import ResponseError

KNOWN_VERSIONS = (9, 10, 11, 12, 13, 14, 15, 80, 81, 82)
"""Redis 6.2 to 8.10 and Valkey 9; a server that writes a later one takes these as well."""

_UNKNOWN_TYPE = b"\xef"
_CRC64_POLYNOMIAL = 0x95AC9329AC4BC9B5  # Jones, reflected, as the servers use it

SlotRange = tuple[int, int]


def probe_versions(node: Node, owned: Iterable[SlotRange]) -> frozenset[int] | None:
    """Return the RDB versions that the primary `node`, which serves the slots `owned`, takes.

    None where it does not tell, because it refuses RESTORE for another reason now. Raises what
    `Node.call_many` raises.
    """
    key = _key_in(list(owned))
    if key is None:
        return None
    replies = node.call_many([("RESTORE", key, 0, _probe(version)) for version in KNOWN_VERSIONS])
    taken = set()
    for version, reply in zip(KNOWN_VERSIONS, replies, strict=True):
        text = str(reply) if isinstance(reply, ResponseError) else ""
        if "Bad data format" in text:
            taken.add(version)
        elif "DUMP payload version" not in text:
            return None
    return frozenset(taken) or None


def _key_in(owned: list[SlotRange]) -> str | None:
    """Return the name of a key in one of the slots; none is ever written."""
    if not owned:
        return None
    names = (f"slotferry:probe:{number}" for number in range(1_000_000))
    return next((name for name in names if any(a <= key_slot(name) <= b for a, b in owned)), None)


def _probe(version: int) -> bytes:
    body = _UNKNOWN_TYPE + version.to_bytes(2, "little")
    return body + _crc64(body).to_bytes(8, "little")


def _crc64(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (_CRC64_POLYNOMIAL if crc & 1 else 0)
    return crc
