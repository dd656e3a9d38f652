"""What `slotferry check` found out, for people and programs.

Invariant: the exit code follows from the rows alone: 4 with an error, 3 with a warning under `strict`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from slotferry.errors import ExitCode
from slotferry.preflight.application.analysis import Application
from slotferry.preflight.keyspace.summary import Keyspace
from slotferry.preflight.rows import Row


@dataclass(frozen=True)
class CheckReport:
    """The rows of a check, and what they were judged from.

    source, target: URLs without secrets. keyspace: the sampled data. application: what was seen of the
    commands. Both are None where they could not be looked at.
    """

    source: str
    target: str
    rows: tuple[Row, ...]
    keyspace: Keyspace | None = None
    application: Application | None = None
    elapsed_seconds: float = 0.0
    strict: bool = field(default=False, repr=False)

    @property
    def errors(self) -> tuple[Row, ...]:
        """The rows that a migration must not begin with."""
        return tuple(row for row in self.rows if row.status == "error")

    @property
    def warnings(self) -> tuple[Row, ...]:
        """The rows that a person should know about."""
        return tuple(row for row in self.rows if row.status == "warning")

    @property
    def ok(self) -> bool:
        """Whether nothing stands against the migration."""
        return not self.errors

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with."""
        if self.errors:
            return ExitCode.REFUSED
        return ExitCode.INCOMPLETE if self.strict and self.warnings else ExitCode.OK

    def row(self, name: str) -> Row | None:
        """Return the gravest row of that name; None where that check was not made."""
        rank = {"error": 0, "warning": 1, "ok": 2}
        found = [row for row in self.rows if row.name == name]
        return min(found, key=lambda row: rank[row.status], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Return the summary: what `--json` prints last. The rows are in it once more."""
        counts = Counter(row.status for row in self.rows)
        return {
            "type": "summary",
            "source": self.source,
            "target": self.target,
            "status": "errors" if self.errors else "warnings" if self.warnings else "ok",
            "counts": {status: counts[status] for status in ("ok", "warning", "error")},
            "elapsed_seconds": round(self.elapsed_seconds, 3),
            "data": None if self.keyspace is None else self.keyspace.to_dict(),
            "commands": None if self.application is None else self.application.to_dict(),
            "checks": [row.to_dict() for row in self.rows],
        }
