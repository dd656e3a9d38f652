"""The argument JOB, whose names a shell completes from the journal.

Invariant: completing opens the journal to read alone: it makes, upgrades and locks nothing, and where that
fails there are no names and no message.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


def job_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the jobs of the journal whose names begin so."""
    import sqlite3

    from click.shell_completion import CompletionItem

    from slotferry.jobs.names import default_journal_path

    path = Path(ctx.params.get("journal") or default_journal_path()).absolute()
    names: set[str] = set()
    for table in ("jobs", "reshard_jobs"):
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0.2)) as journal,
        ):
            names |= {str(name) for (name,) in journal.execute(f"SELECT name FROM {table}")}  # noqa: S608
    # The other direction of a verification is no job of its own.
    shown = {name for name in names if not (name.endswith(".extra") and name[: -len(".extra")] in names)}
    return [CompletionItem(name) for name in sorted(shown) if name.startswith(incomplete)]


job_argument = click.argument("job", shell_complete=job_names)
