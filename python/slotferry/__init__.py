"""Slotferry moves Redis and Valkey data from a standalone server into a cluster.

Invariant: importing the package is cheap; what needs a client library is loaded when it is first used.
"""

from typing import TYPE_CHECKING, Any

from slotferry import errors
from slotferry._core import __version__, key_slot, key_slots

if TYPE_CHECKING:
    from slotferry.migration import Keys, Migration, Options, Report

__all__ = ["Keys", "Migration", "Options", "Report", "__version__", "errors", "key_slot", "key_slots"]


def __getattr__(name: str) -> Any:
    if name in ("Keys", "Migration", "Options", "Report"):
        from slotferry import migration

        return getattr(migration, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
