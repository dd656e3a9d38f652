"""Keys that two nodes hold at once: told apart into copies and conflicts.

Invariant: a value is dropped only where the other node holds the same one. Where they differ, both stay where
they are and both are written to a file; a person decides. The file holds data: it is for its owner alone.
"""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from slotferry.errors import RefusedError
from slotferry.net.connector import Connector
from slotferry.net.link import encode, lost
from slotferry.net.replies import MalformedReplyError
from slotferry.reshard.cluster.wire import Wire, decode_key, is_error, text_of
from slotferry.text import show_key

if TYPE_CHECKING:
    from slotferry.reshard.cluster.methods import Pair

Keep = Literal["ask", "source", "target"]

_TIMEOUT = 30.0
_SAME_TTL = 1_000  # ms by which two copies of one TTL may differ


class ConflictFile:
    """Collects conflicts as JSON lines; made when the first one comes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._lock = threading.Lock()
        self._seen: set[tuple[int, bytes]] = set()

    def settle(
        self,
        connector: Connector,
        pair: Pair,
        slot: int,
        keys: Sequence[bytes],
        migrate: Callable[..., bytes],
        *,
        keep: Keep = "ask",
        home: bool = False,
    ) -> bool:
        """Go through the encoded keys of a MIGRATE that met BUSYKEY; return whether none is in conflict.

        Where both nodes hold the same value, the source's copy goes; `home` says that the target owns the
        slot, so that clients write there and its copy is left alone. `keep` decides a conflict: `ask` keeps
        both and writes them down, `source` overwrites the target's, `target` drops the source's; what is
        overwritten or dropped is written down all the same.
        """
        clean = True
        # Connections of its own: replies of the mover's may be under way on the others.
        with Wire(connector, pair.source.address) as source, Wire(connector, pair.target.address) as target:
            source.set_timeout(_TIMEOUT * 2)
            for key in keys:
                clean = self._settle_key(source, target, pair, slot, key, migrate, keep, home) and clean
        return clean

    def _settle_key(
        self,
        source: Wire,
        target: Wire,
        pair: Pair,
        slot: int,
        key: bytes,
        migrate: Callable[..., bytes],
        keep: Keep,
        home: bool,
    ) -> bool:
        name = decode_key(key)
        mine = _read(source, name)
        theirs = _read(target, name)
        if mine is None or theirs is None:
            return True  # gone meanwhile, or not there yet: the next round takes it
        if _same(mine, theirs):
            if home:
                return _drop(source, name)
        else:
            self._write(slot, name, pair, mine, theirs)
            if keep == "ask":
                return False
            if keep == "target":
                # Written down above, so nothing is lost; what the target has is what remains.
                return _drop(source, name)
        source.send(migrate([key], _TIMEOUT, replace=True))
        (reply,) = source.lines(1)
        return not is_error(reply)

    def drop_copies(self, source: Wire, target: Wire, pair: Pair, slot: int, keys: Sequence[bytes]) -> int:
        """Drop the target's copies of encoded keys, which the source serves; no conflict for a person.

        A copy that is not what the source has by now is written down before; returns how many. Raises
        `SlotferryError`.
        """
        outdated = 0
        for key in keys:
            name = decode_key(key)
            mine, theirs = _read(source, name, strict=True), _read(target, name, strict=True)
            if theirs is None:
                continue
            if mine is None or not _same(mine, theirs):
                self._write(slot, name, pair, mine, theirs, kind="outdated_copy")
                outdated += 1
            if not _drop(target, name):
                raise lost(
                    "cluster", f"does not drop a copy in slot {slot} at {pair.target}", "see that node's log"
                )
        return outdated

    def _write(
        self,
        slot: int,
        key: bytes,
        pair: Pair,
        mine: tuple[bytes, int] | None,
        theirs: tuple[bytes, int],
        *,
        kind: Literal["conflict", "outdated_copy"] = "conflict",
    ) -> None:
        with self._lock:
            if kind == "conflict":
                if (slot, key) in self._seen:
                    return
                self._seen.add((slot, key))
                self.count += 1
            versions = [(pair.source, mine), (pair.target, theirs)]
            line = {
                "type": kind,
                "slot": slot,
                "key": show_key(key),
                "key_base64": base64.b64encode(key).decode(),
                "versions": [_version(member, value) for member, value in versions if value is not None],
            }
            try:
                file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                with os.fdopen(file, "w", encoding="utf-8") as out:
                    out.write(json.dumps(line) + "\n")
                    out.flush()
                    os.fsync(out.fileno())
            except OSError as error:
                raise RefusedError(
                    f"the conflicts of slot {slot} can't be written to {self.path}: {error.strerror}",
                    hint="make room there; nothing was dropped",
                ) from None


def _drop(wire: Wire, key: bytes) -> bool:
    """Delete a key where it lies; return whether that was done."""
    wire.send(encode("ASKING") + encode("DEL", key))
    return not is_error(wire.lines(2)[1])


def _read(wire: Wire, key: bytes, *, strict: bool = False) -> tuple[bytes, int] | None:
    """Return a key's payload and its TTL in ms (-1: none); None where it is not there.

    An error means, unless `strict`, that it is elsewhere by now. Raises `SlotferryError`.
    """
    wire.send(encode("ASKING") + encode("DUMP", key) + encode("ASKING") + encode("PTTL", key))
    wire.reply()
    payload = wire.reply()
    wire.reply()
    ttl = wire.reply()
    for reply in (payload, ttl):
        if is_error(reply) and (strict or not reply.startswith((b"-ASK", b"-MOVED", b"-TRYAGAIN"))):
            raise lost("cluster", f"can't be read at {wire.address}: {text_of(reply)}", "it is tried again")
    if payload is None or is_error(payload) or not isinstance(ttl, int) or ttl == -2:
        return None
    return wire.take(_payload, payload, "DUMP"), ttl


def _payload(reply: object) -> bytes:
    if not isinstance(reply, bytes) or not reply:
        raise MalformedReplyError("that is no payload")
    return reply


def _same(mine: tuple[bytes, int], theirs: tuple[bytes, int]) -> bool:
    if mine[0] != theirs[0] or (mine[1] < 0) != (theirs[1] < 0):
        return False
    return mine[1] < 0 or abs(mine[1] - theirs[1]) <= _SAME_TTL


def _version(member: Any, value: tuple[bytes, int]) -> dict[str, Any]:
    return {
        "node": str(member),
        "node_id": member.id,
        "ttl_ms": value[1],
        "dump_base64": base64.b64encode(value[0]).decode(),
    }
