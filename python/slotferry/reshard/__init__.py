"""Resharding: keeping the slots of a cluster where they belong, by plans that are shown and then applied.

Invariant: nothing moves without a plan; a plan is applied as shown, and an interrupted one is finished by the
same command again.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotferry.reshard.control import Control
    from slotferry.reshard.limits import Limits
    from slotferry.reshard.options import Options
    from slotferry.reshard.report import Report

__all__ = ["Control", "Limits", "Options", "Report"]

_HOMES = {
    "Limits": "limits",
    "Control": "control",
    "Options": "options",
    "Report": "report",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"slotferry.reshard.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
