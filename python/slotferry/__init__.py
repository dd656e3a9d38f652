"""Slotferry moves Redis and Valkey data from a standalone server into a cluster.

Invariant: importing the package is cheap; what needs a client library is loaded when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from slotferry import errors
from slotferry._core import __version__, key_slot, key_slots

if TYPE_CHECKING:
    from slotferry.api.migration import CutoverOptions, CutoverReport, Keys, Migration, Options, Report
    from slotferry.api.resharding import Plan, plan_reshard
    from slotferry.api.verification import Difference, Verification, VerifyOptions, VerifyReport
    from slotferry.preflight.check import CheckOptions, check
    from slotferry.preflight.report import CheckReport

__all__ = [
    "CheckOptions",
    "CheckReport",
    "CutoverOptions",
    "CutoverReport",
    "Difference",
    "Keys",
    "Migration",
    "Options",
    "Plan",
    "Report",
    "Verification",
    "VerifyOptions",
    "VerifyReport",
    "__version__",
    "check",
    "errors",
    "key_slot",
    "key_slots",
    "plan_reshard",
]

_HOMES = {
    **dict.fromkeys(
        ("CutoverOptions", "CutoverReport", "Keys", "Migration", "Options", "Report"),
        "slotferry.api.migration",
    ),
    **dict.fromkeys(("CheckOptions", "check"), "slotferry.preflight.check"),
    "CheckReport": "slotferry.preflight.report",
    **dict.fromkeys(("Plan", "plan_reshard"), "slotferry.api.resharding"),
    **dict.fromkeys(
        ("Difference", "Verification", "VerifyOptions", "VerifyReport"), "slotferry.api.verification"
    ),
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
