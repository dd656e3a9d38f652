"""A job's cut-overs in the journal: its attempts, and the settings of a source that were changed for them.

Invariant: a setting's earlier value is in the journal before the setting is changed, and leaves it only when
it holds again, whatever becomes of the job; both survive a power cut. An attempt without an outcome belongs
to a process that was killed, or lives.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotferry.errors import JournalError
from slotferry.jobs.journal.journal import Journal
from slotferry.model.cutover import CutoverReport, CutoverStep


@dataclass(frozen=True)
class ChangedSetting:
    """A setting of the source, as it was and as it was made."""

    node: str
    name: str
    before: str
    made: str


@dataclass(frozen=True)
class Attempt:
    """One cut-over that was tried; `outcome` is empty while nobody has recorded its end."""

    number: int
    began: float
    ended: float | None
    step: str
    fence: int | None
    outcome: str
    reason: str


class CutoverRecords:
    """What the journal has of one job's cut-overs. Any thread may use it: each call opens the journal.

    It is checked the first time alone: while writes are stopped nobody waits for all of it to be read.
    """

    def __init__(self, path: Path, job: str) -> None:
        self._path = path
        self.job = job
        self._is_checked = False

    def attempts(self) -> list[Attempt]:
        """Return all of them, the first one first. Raises `JournalError`."""
        with self._open() as journal:
            rows = journal.select(
                "SELECT number, began, ended, step, fence, outcome, reason FROM cutovers WHERE job = ? "
                "ORDER BY number",
                self.job,
            )
        return [Attempt(*row) for row in rows]

    def begin(self) -> int:
        """Begin an attempt and return its number, from 1 on. Raises `JournalError`."""
        with self._open() as journal, journal.transaction() as execute:
            (number,) = execute(
                "SELECT COALESCE(MAX(number), 0) + 1 FROM cutovers WHERE job = ?", (self.job,)
            ).fetchone()
            execute(
                "INSERT INTO cutovers (job, number, began, step, outcome, reason) "
                "VALUES (?, ?, ?, 'lag', '', '')",
                (self.job, number, time.time()),
            )
        return int(number)

    def enter(self, number: int, step: str, fence: int | None) -> None:
        """Record that a step begins. Raises `JournalError`."""
        with self._open() as journal, journal.transaction() as execute:
            execute(
                "UPDATE cutovers SET step = ?, fence = ? WHERE job = ? AND number = ?",
                (step, fence, self.job, number),
            )

    def end(self, number: int, outcome: str, reason: str) -> None:
        """Record what came of an attempt. Raises `JournalError`."""
        with self._open() as journal, journal.transaction() as execute:
            execute(
                "UPDATE cutovers SET outcome = ?, reason = ?, ended = ? WHERE job = ? AND number = ?",
                (outcome, reason, time.time(), self.job, number),
            )

    def keep(self, report: CutoverReport, steps: Sequence[CutoverStep] = ()) -> None:
        """Keep what came of an attempt, for those who ask once the run is gone. Raises `JournalError`."""
        kept = {**report.to_dict(), "steps": [step.to_dict() for step in steps]}
        with self._open() as journal, journal.transaction() as execute:
            execute(
                "INSERT OR REPLACE INTO cutover_reports (job, number, report) VALUES (?, ?, ?)",
                (self.job, report.attempts, json.dumps(kept)),
            )

    def report(self, number: int) -> dict[str, Any] | None:
        """Return what came of an attempt, as `CutoverReport.to_dict` has it; None where that is not known."""
        kept = self._kept(number)
        return None if kept is None else {name: value for name, value in kept.items() if name != "steps"}

    def steps(self, number: int) -> list[dict[str, Any]]:
        """Return the steps of an attempt that has a report, as `CutoverStep.to_dict` has them."""
        return list((self._kept(number) or {}).get("steps", ()))

    def _kept(self, number: int) -> dict[str, Any] | None:
        with self._open() as journal:
            rows = journal.select(
                "SELECT report FROM cutover_reports WHERE job = ? AND number = ?", self.job, number
            )
        try:
            return dict(json.loads(rows[0][0])) if rows else None
        except (ValueError, TypeError):
            raise JournalError(
                f"the journal {self._path} is damaged: the report of the cut-over {number} is none",
                hint="move it away or name another file with --journal",
            ) from None

    def forget_attempts(self) -> None:
        """Forget what was tried, where the job begins anew; changed settings stay. Raises `JournalError`."""
        with self._open() as journal, journal.transaction() as execute:
            for table in ("cutovers", "cutover_reports"):
                execute(f"DELETE FROM {table} WHERE job = ?", (self.job,))  # noqa: S608

    def changed_settings(self) -> list[ChangedSetting]:
        """Return the settings that are to be put back, in the order they were changed."""
        with self._open() as journal:
            rows = journal.select(
                "SELECT node, name, before, made FROM changed_settings WHERE job = ? ORDER BY id", self.job
            )
        return [ChangedSetting(*row) for row in rows]

    def remember(self, setting: ChangedSetting) -> None:
        """Write down a setting before it is changed; what is there already is the earlier value."""
        with self._open() as journal, journal.transaction() as execute:
            execute(
                "INSERT OR IGNORE INTO changed_settings (job, node, name, before, made) "
                "VALUES (?, ?, ?, ?, ?)",
                (self.job, setting.node, setting.name, setting.before, setting.made),
            )

    def forget(self, setting: ChangedSetting) -> None:
        """Forget a setting that is as it was. Raises `JournalError`."""
        with self._open() as journal, journal.transaction() as execute:
            execute(
                "DELETE FROM changed_settings WHERE job = ? AND node = ? AND name = ?",
                (self.job, setting.node, setting.name),
            )

    @contextmanager
    def _open(self) -> Iterator[Journal]:
        with Journal.open(self._path, is_checked=self._is_checked) as journal:
            self._is_checked = True
            journal.select("PRAGMA synchronous = FULL")
            yield journal
