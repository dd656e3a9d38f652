"""`--html`: the report page that a command leaves behind.

Invariant: a page that can't be made or written is told before the command begins; one that is lost at the end
changes no more than the exit code of a command that went well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.errors import OutputError, SlotferryError
from slotferry.output_file import OutputFile

if TYPE_CHECKING:
    from slotferry.report.page.content import Page
    from slotferry.reshard.plan.model import Plan


def html_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option."""
    return click.option(
        "--html",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write a report page (one HTML file that loads nothing) to this file at the end.",
    )(command)


class PageFile:
    """What becomes of `--html`. Raises `UsageError` where it can't be written, or for a missing package."""

    def __init__(self, path: Path | None, option: str = "--html") -> None:
        self._file: OutputFile | None = None
        self.lost: OutputError | None = None
        """Why there is no page."""
        if path is not None:
            from slotferry.report.page.render import need_library

            need_library()
            self._file = OutputFile(path, "report page", option)

    def write(self, make: Callable[[], Page | None]) -> None:
        """Write the page that `make` returns, where one was asked for and there is one."""
        if self._file is None:
            return
        from slotferry.report.page.render import html

        try:
            page = make()
            if page is not None:
                self._file.write([html(page)])
        except OutputError as error:
            self.lost = error
        except SlotferryError as error:  # the journal can't be read
            self.lost = OutputError(f"there is no report page: {error.message}", hint=error.hint)


def reshard_page_of(journal: Path, job: str, plan: Plan | None = None) -> Page | None:
    """Return the page of a reshard; of its `plan` where nothing was begun, None where that is not given."""
    from slotferry.jobs.control.control_socket import live_status
    from slotferry.report.page.resharding import plan_page, reshard_page
    from slotferry.reshard.journal import ReshardJournal

    with ReshardJournal(journal, is_checked=True) as opened:
        record = opened.job(job)
        if record is None:
            return None if plan is None else plan_page(plan)
        return reshard_page(opened, journal, record, live_status(journal, job, "reshard"))


def migration_page(journal: Path, job: str) -> Page | None:
    """Return the page of a migration or verification; None where it was refused before it was recorded."""
    from slotferry.jobs.control.control_socket import live_status
    from slotferry.jobs.journal.journal import Journal
    from slotferry.report.page.jobs import job_page

    if not journal.exists():
        return None
    # A page shows a thousand keys at most: the other million need not be read to show them.
    with Journal.open(journal, is_checked=True) as opened:
        record = opened.look(job)
        return None if record is None else job_page(opened, journal, record, live_status(journal, job))
