"""What a job may be called, and where its journal lies when nobody says.

Invariant: a job's name can be the name of a file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from slotferry.errors import UsageError

_JOB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def check_job_name(job: str | None) -> None:
    """Raise `UsageError` for a name that no job can have; None is chosen by the job itself."""
    if job is not None and not _JOB_NAME.fullmatch(job):
        raise UsageError(
            f"{job!r} can't be the name of a job",
            hint="use up to 100 letters, digits, dots, dashes and underscores; no dot or dash in front",
        )


def default_journal_path() -> Path:
    """Return `$XDG_STATE_HOME/slotferry/journal.db`; the folder is `~/.local/state` where that is not set."""
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "slotferry" / "journal.db"
