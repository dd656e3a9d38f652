"""Resharding: keeping the slots of a cluster where they belong, by plans that are shown and then applied.

Invariant: nothing moves without a plan; a plan is applied as shown, and an interrupted one is finished by the
same command again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slotferry.reshard.plan import Plan, plan_reshard

__all__ = ["Plan", "plan_reshard"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from slotferry.reshard import plan

        return getattr(plan, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
