"""What the journal keeps of the target: its nodes as they were seen last, and what has to be looked at again.

Invariant: a look and the doubts that it raised are written in one transaction, so a doubt is never lost to a
kill; it stands until the keys of its slots were looked at. A key that was settled and is missing becomes
pending, and the counts add up all the while.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import PendingKey
from slotferry.jobs.journal.row_checks import parsing
from slotferry.topology.identity import Doubt, NodeState

_SETTLED = ("migrated", "unchanged", "skipped", "expired", "vanished")


@dataclass(frozen=True)
class OpenDoubts:
    """The doubts that stand, the last of which has this number."""

    doubts: tuple[Doubt, ...]
    last: int


class AccountBook:
    """The accounts of one job."""

    def __init__(self, journal: Journal, name: str) -> None:
        self._journal = journal
        self._name = name

    def nodes(self) -> list[NodeState]:
        """Return the nodes as they were seen last; none where that was never written."""
        rows = self._journal.select(
            "SELECT node_id, state FROM target_nodes WHERE job = ? ORDER BY node_id", self._name
        )
        nodes = []
        for node_id, state in rows:
            with parsing(self._journal.path, "target_nodes", f"job {self._name!r}, node_id {node_id!r}"):
                nodes.append(NodeState.from_dict(json.loads(state)))
        return nodes

    def doubts(self) -> OpenDoubts:
        """Return what has to be looked at again."""
        rows = self._journal.select(
            "SELECT id, kind, node, slots, message FROM doubts WHERE job = ? ORDER BY id", self._name
        )
        found = []
        for number, kind, node, slots, message in rows:
            with parsing(self._journal.path, "doubts", str(number)):
                ranges = tuple((int(first), int(last)) for first, last in json.loads(slots))
                found.append(Doubt(kind, node, ranges, message))
        return OpenDoubts(tuple(found), rows[-1][0] if rows else 0)

    def expired(self) -> int:
        """Return how many keys have expired at the target since the job began."""
        rows = self._journal.select("SELECT expired FROM target_counts WHERE job = ?", self._name)
        return int(rows[0][0]) if rows else 0

    def enter(self, nodes: Sequence[NodeState], doubts: Sequence[Doubt], expired: int) -> None:
        """Write what a look has shown. A doubt that stands already counts as raised now."""
        rows = [(self._name, node.node_id, json.dumps(node.to_dict())) for node in nodes]
        with self._journal.transaction() as execute:
            execute(
                "INSERT OR REPLACE INTO target_counts (job, expired) VALUES (?, ?)", (self._name, expired)
            )
            execute("DELETE FROM target_nodes WHERE job = ?", (self._name,))
            for row in rows:
                execute("INSERT INTO target_nodes (job, node_id, state) VALUES (?, ?, ?)", row)
            for doubt in doubts:
                execute(
                    "INSERT OR REPLACE INTO doubts (job, kind, node, slots, message) VALUES (?, ?, ?, ?, ?)",
                    (self._name, doubt.kind, doubt.node, json.dumps(doubt.slots), doubt.message),
                )

    def close(self, looked_at: OpenDoubts) -> None:
        """Forget doubts whose slots were looked at; those that were raised since stand."""
        with self._journal.transaction() as execute:
            execute("DELETE FROM doubts WHERE job = ? AND id <= ?", (self._name, looked_at.last))

    def reopen(self, keys: Sequence[PendingKey]) -> int:
        """Make settled or failed keys pending again; return how many are so that were not.

        What each counted as is not known: it is taken from the counts in their order. A key that was never
        counted, since the source has it only by now, is from here on.
        """
        if not keys:
            return 0
        with self._journal.transaction() as execute:
            failed = sum(
                execute(
                    "DELETE FROM unsettled WHERE job = ? AND db = ? AND key = ? AND outcome = 'failed'",
                    (self._name, key.database, key.key),
                ).rowcount
                for key in keys
            )
            reopened = sum(
                execute(
                    "INSERT OR IGNORE INTO unsettled (job, db, key, slot, outcome, kind, message, node) "
                    "VALUES (?, ?, ?, ?, 'pending', '', ?, '')",
                    (self._name, key.database, key.key, key.slot, key.reason),
                ).rowcount
                for key in keys
            )
            left = reopened - failed
            settled = dict(zip(_SETTLED, self._settled(), strict=True))
            for outcome, count in settled.items():
                taken = min(left, count)
                settled[outcome] -= taken
                left -= taken
            execute(
                "UPDATE jobs SET migrated = ?, unchanged = ?, skipped = ?, expired = ?, vanished = ?, "
                "failed = failed - ?, pending = pending + ?, scanned = scanned + ? WHERE name = ?",
                (*settled.values(), failed, reopened, left, self._name),
            )
        return reopened

    def _settled(self) -> tuple[int, ...]:
        (row,) = self._journal.select(
            "SELECT migrated, unchanged, skipped, expired, vanished FROM jobs WHERE name = ?", self._name
        )
        return tuple(map(int, row))
