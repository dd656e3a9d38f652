"""What a cut-over that was killed, or is not wanted any more, leaves to be done.

Invariant: no run follows on while it may be that the application was switched already: what is written to the
target must not be overwritten by what the source held before.
"""

from __future__ import annotations

from slotferry.errors import RefusedError
from slotferry.jobs.journal.cutovers import CutoverRecords
from slotferry.migrate.cutover.settings import put_back
from slotferry.net.connector import Connector


def recover(source: Connector, records: CutoverRecords) -> list[str]:
    """Let writes flow that a killed attempt has stopped; return a sentence about each thing done.

    For the next run of a job, which holds its lock. Raises `RefusedError` where the job is cut over already,
    or was killed while the command ran that switches the application; `SlotferryError` for the source.
    """
    job = records.job
    attempts = records.attempts()
    if any(attempt.outcome == "cut_over" for attempt in attempts):
        raise RefusedError(
            f"the job {job} is cut over already",
            hint="the application speaks to the target: to begin anew, discard the job",
        )
    messages = put_back(source, records)
    for attempt in attempts:
        if attempt.outcome:
            continue
        if attempt.step == "run":
            raise RefusedError(
                f"the cut-over {attempt.number} of the job {job} was killed while its command ran",
                hint="let the application speak to the source, then tell so with "
                f"'slotferry cutover {job} --undo' and run it again",
            )
        records.end(attempt.number, "abandoned", f"it was killed in the step {attempt.step}")
        messages.append(
            f"the cut-over {attempt.number} was killed in the step {attempt.step}: it is abandoned"
        )
    return messages


def undo(source: Connector, records: CutoverRecords) -> list[str]:
    """Let the source take writes again, and forget that a command may have switched the application.

    Returns a sentence about each thing done. For a job that nobody runs. What is cut over stays so. Raises
    `SlotferryError`.
    """
    messages = put_back(source, records)
    for attempt in records.attempts():
        if not attempt.outcome:
            records.end(attempt.number, "abandoned", "it was killed, and undone")
            messages.append(f"the cut-over {attempt.number}, which was killed, is undone")
    return messages
