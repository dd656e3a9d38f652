"""Addresses of servers, and the words for who is spoken to and how it is logged in.

Invariant: values without a secret in their text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass


Side = Literal["source", "target", "cluster", "Sentinel"]
"""Whom a connection is to, as messages name it; a Sentinel belongs to the source."""


Role = Literal["primary", "replica", "prefer-replica"]


Password = str | Callable[[], str | tuple[str, str]]
"""A password, or what is asked for one, or for (user, password), whenever it may have changed."""


@dataclass(frozen=True, order=True)
class Address:
    """A TCP address; an IPv6 host is kept without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
