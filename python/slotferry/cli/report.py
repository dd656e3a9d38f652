"""`slotferry report`: the page of a job, from the journal, at any time.

Invariant: it looks at the journal and, where the job runs, asks the run; nothing is changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from slotferry.cli.common.command import Command
from slotferry.cli.options.job_argument import job_argument
from slotferry.cli.options.passwords import File
from slotferry.errors import UsageError

if TYPE_CHECKING:
    from slotferry.report.page.content import Page

_EPILOG = """\
\b
Examples:
  slotferry report nightly -o report.html
  slotferry report nightly -o - > report.html
"""


@click.command(cls=Command, context_settings={"auto_envvar_prefix": "SLOTFERRY"}, epilog=_EPILOG)
@job_argument
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The file to write; - for stdout."
)
@click.option(
    "--journal",
    type=File,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@click.option(
    "--kind",
    type=click.Choice(["migrate", "verify", "reshard"]),
    help="Which, where both have a job of that name.",
)
def report(job: str, output: Path, journal: Path | None, kind: str | None) -> None:
    """Write a page that tells of JOB: one HTML file that loads nothing, to be read by people.

    What was done and how it ended, what became of the keys, how fast it was over time, what happened on the
    way, the map of slots, failed keys, settings. A job that runs has one as well.
    """
    from slotferry.cli.jobs.commands import journal_path
    from slotferry.cli.options.page_file import PageFile

    file = PageFile(Path("/dev/stdout") if str(output) == "-" else output, "--output")
    page = _page(journal_path(journal), job, kind)
    file.write(lambda: page)
    if file.lost is not None:
        raise file.lost


def _page(journal: Path, job: str, kind: str | None = None) -> Page:
    """Return the page of what the journal has of a job.

    Raises `UsageError` where there is none, or there are two of that name and no `kind` says which.
    """
    from slotferry.cli.jobs.commands import find_kind
    from slotferry.cli.options.page_file import migration_page, reshard_page_of

    reshards = find_kind(journal, job, kind) == "reshard"
    page = reshard_page_of(journal, job) if reshards else migration_page(journal, job)
    if page is None:  # forgotten a moment ago
        raise UsageError(f"there is no job {job!r} in {journal}", hint="see 'slotferry jobs list'")
    return page
