"""What may be chosen for a run that carries a plan out.

Invariant: options say how a plan is carried out, never what it is: that is the plan's own policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from slotferry.errors import UsageError
from slotferry.jobs.names import check_job_name, default_journal_path
from slotferry.reshard.cluster.methods import MethodName


@dataclass(frozen=True)
class Options:
    """What may be chosen for a run.

    `job` names it in the journal (None: after the plan). `method`: `auto` takes atomic moves where both nodes
    know them. `retry_for` is how long (seconds) a lost or full node is waited for while nothing moves.
    `replan` makes a new plan of the same policy where the cluster has changed. `conflicts` is the file for
    keys that two nodes hold with different values (None: beside the journal).
    """

    job: str | None = None
    journal: Path | None = None
    method: MethodName = "auto"
    retry_for: float = 300.0
    replan: bool = False
    conflicts: Path | None = None

    def __post_init__(self) -> None:
        if self.method not in ("auto", "setslot", "atomic"):
            raise UsageError(f"{self.method!r} is no method", hint="use auto, setslot or atomic")
        check_job_name(self.job)

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.journal or default_journal_path()
