"""What an RDB file is: which server wrote it, when, and what it holds beside its keys.

Invariant: a file is known by its size, its last change and its beginning; only those are read here. Of stdin
nothing is known, and no two of them are taken for the same.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from typing import Literal

from slotferry._core import EngineError, RdbBeginning, look_at_rdb
from slotferry.errors import SourceNotReadyError
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.topology.discovery import ServerFacts, SourceFacts, TargetFacts
from slotferry.topology.file_facts import FileFacts
from slotferry.topology.product import Product

_BEGINNING = 1 << 16
_FIRST_VALKEY = 80
_HINT = "name an RDB file, as SAVE, BGSAVE or 'redis-cli --rdb' write it"
_LIBRARY = re.compile(rb"#![^\n]*?[ \t]name=(?:\"([^\"\n]*)\"|'([^'\n]*)'|([^ \t\r\n]+))", re.IGNORECASE)


def look_at_file(endpoint: Endpoint) -> SourceFacts:
    """Look at the beginning of the file. Raises `SourceNotReadyError`."""
    if endpoint.is_stdin:
        file = FileFacts(None, "stdin")
        server = ServerFacts("stdin", uuid.uuid4().hex, (), Product("redis", ""), cluster=False)
        return SourceFacts(server, 0, 0.0, file=file)
    path = endpoint.path or ""
    name = os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path
    try:
        beginning = look_at_rdb(path, name)
        identity, is_compressed = _identity(path, beginning)
    except EngineError as error:
        raise SourceNotReadyError(error.args[1], hint=_HINT) from None
    except OSError as error:
        raise SourceNotReadyError(f"the file {name} can't be read: {error.strerror}", hint=_HINT) from None
    file = FileFacts(path, name, beginning.stamp, _libraries(beginning), is_compressed)
    number, keys = beginning.first_database or (0, None)
    databases = {number: keys} if keys else {}
    server = ServerFacts(name, identity, (), _product(beginning), cluster=False)
    return SourceFacts(server, databases.get(0, 0), 0.0, databases=databases, file=file)


def target_now(target: Connector, facts: TargetFacts) -> int:
    """Return the target's time in ms since the epoch; this machine's, where TIME is refused.

    Raises `SlotferryError` where no primary can be asked.
    """
    with target.open(facts.topology.primaries[0]) as node:
        try:
            return round(node.parsed(replies.clock, "TIME") * 1000)
        except replies.ResponseError:
            return round(time.time() * 1000)


def _identity(path: str, beginning: RdbBeginning) -> tuple[str, bool]:
    """Return what tells the file from others, and whether it is compressed."""
    with open(path, "rb") as file:
        head = file.read(_BEGINNING)
    identity = hashlib.sha256(repr(beginning.stamp).encode() + head).hexdigest()[:40]
    return identity, not head.startswith((b"REDIS", b"VALKEY"))


def _product(beginning: RdbBeginning) -> Product:
    """Return what wrote the file; the version is empty where it does not tell."""
    fields = dict(beginning.fields)
    family: Literal["redis", "valkey"]
    for family, field in (("valkey", b"valkey-ver"), ("redis", b"redis-ver")):
        if re.fullmatch(rb"[0-9][0-9.]{0,20}", version := fields.get(field, b"")):
            return Product(family, version.decode())
    return Product("redis" if beginning.version < _FIRST_VALKEY else "valkey", "")


def _libraries(beginning: RdbBeginning) -> tuple[tuple[str, bytes], ...]:
    """Return the libraries with their names, which stand in their first line as arguments of a shell do."""
    found = [(_LIBRARY.match(code), code) for code in beginning.libraries]
    return tuple(
        ((name[1] or name[2] or name[3] or b"").decode("utf-8", "replace"), code)
        for name, code in found
        if name is not None
    )
