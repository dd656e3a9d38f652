"""What `jobs` tells of a verification: how many keys differ, of both directions.

Invariant: nothing is changed, and the figures are those that the verification ended with.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from slotferry.jobs.journal.records import COMPLETED

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import Journal
    from slotferry.jobs.journal.records import JobRecord
    from slotferry.model.differences import Difference


def differences(journal: Journal, record: JobRecord) -> dict[str, int] | None:
    """Return how many keys of each kind a verification has found; None for another job."""
    if record.setup.purpose != "verify":
        return None
    from slotferry.verify import misplaced

    return misplaced.count_all(journal, record.name)


def shown_outcome(status: str, found: dict[str, int] | None) -> str:
    """Return how a job ended: a verification with differences says so, whatever its two halves have."""
    return "completed_with_differences" if found and status in COMPLETED else status


def not_listed(job: str, found: dict[str, int] | None) -> str:
    """Return what is to be known of the keys that differ and are none of the source's; empty without any."""
    parts = [f"{found[kind]:,} {kind}" for kind in ("extra", "misplaced") if found and found.get(kind)]
    if not parts:
        return ""
    return (
        f"{' and '.join(parts)} at the target alone: not listed here, 'slotferry jobs show {job}' names them"
    )


def first_differences(journal: Journal, job: str, limit: int) -> list[Difference]:
    """Return the first differences that a verification has found, of both directions."""
    from slotferry.model.differences import Difference
    from slotferry.verify import misplaced

    return [Difference.of(failure) for failure in islice(misplaced.all_differences(journal, job), limit)]


def shown_differences(journal: Journal, record: JobRecord, limit: int) -> list[str]:
    """Return lines for the first differences, with how many there are; none without any."""
    from slotferry.report.verify_tables import difference_lines

    found = first_differences(journal, record.name, limit)
    if not found:
        return []
    count = sum((differences(journal, record) or {}).values())
    return [f"\ndifferences ({len(found):,} of {count:,}):", *difference_lines(found)]
