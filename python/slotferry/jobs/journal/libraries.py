"""The function libraries that a job has brought to its target, in the journal.

Invariant: a library is in it as it was when the target had it from this job, so that one that is deleted at
the source later, also while nobody looks, is known from the target's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from slotferry.jobs.journal.journal import Journal


@dataclass(frozen=True)
class LibraryRecords:
    """What the journal has of one job's libraries."""

    journal: Journal
    job: str

    def load(self) -> dict[str, str]:
        """Return the digest of each library's code, by its name. Raises `JournalError`."""
        rows = self.journal.select("SELECT name, digest FROM libraries WHERE job = ?", self.job)
        return {str(name): str(digest) for name, digest in rows}

    def store(self, digests: Mapping[str, str]) -> None:
        """Put these in the place of what was there. Raises `JournalError`."""
        if digests == self.load():
            return
        with self.journal.transaction() as execute:
            execute("DELETE FROM libraries WHERE job = ?", (self.job,))
            for name, digest in digests.items():
                execute(
                    "INSERT INTO libraries (job, name, digest) VALUES (?, ?, ?)", (self.job, name, digest)
                )
