"""What a server is and of which version: the one place that reads it from INFO.

Invariant: a version is compared as numbers, within one family; its text is only shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Product:
    """A server's family, and the version in that family's own count, as INFO says it."""

    family: Literal["redis", "valkey"]
    version_text: str

    @classmethod
    def of(cls, info: Mapping[str, str]) -> Product:
        """Return what INFO tells; of a server that tells none, the version is empty."""
        if "valkey_version" in info:
            return cls("valkey", info["valkey_version"])
        return cls("redis", info.get("redis_version", ""))

    @property
    def version(self) -> tuple[int, ...]:
        """Its numbers, as many as there are."""
        return version_numbers(self.version_text)

    def __str__(self) -> str:
        return f"{self.family.capitalize()} {self.version_text}"


def scans_by_slot(product: Product) -> bool:
    """Whether SCAN of a node of a cluster goes from slot to slot (docs/protocol.md, SCAN)."""
    return product.version >= ((8, 0) if product.family == "valkey" else (7, 4))


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version such as `7.2.4` or `8.0.0-rc1`."""
    return tuple(int(part) for part in re.findall("[0-9]{1,9}", text)[:3])
