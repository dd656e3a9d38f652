"""What happened to a job, as its journal and its report have it.

Invariant: an entry is a value: frozen, complete in itself, and free of secrets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slotferry.text import iso_time


@dataclass(frozen=True)
class HistoryEntry:
    """One thing that happened, `count` times from `at` to `last` (seconds since 1970), in run number `run`.

    `kind` is `run` (its begin or end), `notice`, `topology`, or what the engine met: `node_lost`,
    `source_lost`, `slot_parked` and so on.
    """

    run: int
    at: float
    last: float
    kind: str
    message: str
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object, with its times in UTC."""
        times = {"at": iso_time(self.at), "last": iso_time(self.last)}
        return {"run": self.run, **times, "kind": self.kind, "message": self.message, "count": self.count}
