"""How a verification stands in the journal: as two jobs, one for each direction.

Invariant: people see one job, by the name that it was given; the other one is only where the keys are that
the target alone has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotferry.jobs.journal.journal import JobRecord

_EXTRA = ".extra"
_PURPOSE = "verify "


def extra_job(job: str) -> str:
    """Return the name of the job that looks for extra keys."""
    return job + _EXTRA


def is_verification(record: JobRecord) -> bool:
    """Whether the job compares, and copies nothing."""
    return record.setup.purpose.startswith(_PURPOSE)


def kind_of(record: JobRecord) -> str:
    """Return what the job is listed as."""
    return "verify" if is_verification(record) else "migrate"


def what_is_compared(record: JobRecord) -> str:
    """Return what the verification looks at."""
    return record.setup.purpose.removeprefix(_PURPOSE)


def shown_jobs(records: Sequence[JobRecord]) -> list[JobRecord]:
    """Return the jobs without those that are the other direction of one of them."""
    hidden = {extra_job(record.name) for record in records if is_verification(record)}
    return [record for record in records if not (is_verification(record) and record.name in hidden)]
