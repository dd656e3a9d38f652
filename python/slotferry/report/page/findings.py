"""What a verification has found, of both of its directions, as a page needs it.

Invariant: a verification is two jobs in the journal, and every figure here is of both. A key that both have
is one difference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotferry.jobs.journal.records import COMPLETED
from slotferry.jobs.journal.series import failed_by_slot
from slotferry.verify import misplaced
from slotferry.verify.jobs import extra_job

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.jobs.journal.records import PendingKey


@dataclass(frozen=True)
class Findings:
    """`kinds` counts the keys that differ, by how; `unread` keys of either side could not be read.

    `sought` is how many keys of the target were looked for at the source, None where none were.
    """

    kinds: Mapping[str, int]
    unread: int
    sought: int | None
    sought_unread: int
    slots: Mapping[int, int]

    @property
    def differ(self) -> int:
        """How many keys differ."""
        return sum(self.kinds.values())

    def status(self, recorded: str) -> str:
        """Return how the verification ended, by what both directions found; `recorded` is one's."""
        if recorded not in COMPLETED:
            return recorded
        if self.differ:
            return "completed_with_differences"
        return "completed_with_failures" if self.unread else "completed"


def findings(journal: Journal, job: str) -> Findings:
    """Return what the verification `job` has found so far."""
    other = extra_job(job)
    target = journal.job(other)
    sought_unread = 0 if target is None else target.totals.keys.pending
    slots: Counter[int] = Counter(failed_by_slot(journal, job))
    slots.update(failed_by_slot(journal, other))
    astray = "SELECT slot, count(*) FROM notes WHERE job = ? AND kind = ? GROUP BY slot"
    slots.update(dict(journal.select(astray, other, misplaced.KIND)))
    return Findings(
        kinds=misplaced.count_all(journal, job),
        unread=journal.totals(job).keys.pending + sought_unread,
        sought=None if target is None else target.totals.keys.scanned,
        sought_unread=sought_unread,
        slots=slots,
    )


def unread_keys(journal: Journal, job: str, limit: int) -> Sequence[PendingKey]:
    """Return the first `limit` keys of either side that could not be read."""
    return [key for name in (job, extra_job(job)) for key in journal.pending(name, limit)][:limit]
