"""How a verification stands in the journal: as two jobs, one for each direction.

Invariant: people see one job, by the name that it was given; the other one is only where the keys are that
the target alone has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotferry.jobs.journal.records import JobRecord

_EXTRA = ".extra"


def extra_job(job: str) -> str:
    """Return the name of the job that looks for extra keys."""
    return job + _EXTRA


def shown_jobs(records: Sequence[JobRecord]) -> list[JobRecord]:
    """Return the jobs without those that are the other direction of one of them."""
    verifications = {record.name for record in records if record.setup.purpose == "verify"}
    hidden = verifications & {extra_job(name) for name in verifications}
    return [record for record in records if record.name not in hidden]
