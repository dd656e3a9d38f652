"""`slotferry reshard run`: named jobs from a file, for schedulers.

Invariant: a job that finds the cluster balanced does nothing; one that was stopped goes on with its own plan
first, or with a new one where the cluster has changed. Every job of the file is checked before one begins.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.common.ending import signals
from slotferry.cli.options.logs import Logs, log_options
from slotferry.cli.options.metrics import JobsMetrics, metrics_options
from slotferry.cli.reshard.apply import show
from slotferry.cli.reshard.jobs_file import JobSettings, load_jobs
from slotferry.cli.reshard.options import FILE, SETTINGS, json_option
from slotferry.errors import ExitCode, JobLockedError, SlotferryError, UsageError

if TYPE_CHECKING:
    from slotferry.model.notices import Event

_EXAMPLES = """\
\b
Examples:
  slotferry reshard run --config jobs.toml
  slotferry reshard run --config jobs.toml nightly --json

\b
jobs.toml:
  [defaults]
  cluster = "redis+cluster://node1:7000,node2:7000"
  tz = "Europe/Berlin"

\b
  [jobs.nightly]
  by = "bytes"
  threshold = "5%"
  window = "01:00-05:00"
  pause-above-latency = "10ms"

\b
Exit codes: as of 'reshard apply'; of several jobs the first that is not 0. A job that the run before is
still at work on, or whose cluster another Slotferry works on, is left to it: 75.
"""


@click.command(
    "run",
    cls=Command,
    context_settings=SETTINGS,
    epilog=_EXAMPLES,
    short_help="Run named jobs of a file, for schedulers.",
)
@click.option("--config", type=FILE, required=True, help="TOML file with a table [jobs.NAME] for each job.")
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option(
    "--journal",
    type=FILE,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "lines", "none"]),
    default="auto",
    show_default=True,
    help="On stderr: a bar, a line every 5 seconds, or only notices.",
)
@click.option("--quiet", is_flag=True, help="Print no result where there was nothing to do, as for cron.")
@json_option
@metrics_options
@log_options
def run(
    config: Path,
    names: tuple[str, ...],
    journal: Path | None,
    progress: Any,
    quiet: bool,
    as_json: bool,
    **parameters: Any,
) -> int:
    """Run the JOBs of a file, all of them by default: plan where that is due, and move in the window.

    The names of the settings are those of the options of 'reshard plan' and 'reshard apply'.
    """
    from slotferry.jobs.control.cancel import CancelRequest

    jobs = load_jobs(config)
    if unknown := [name for name in names if name not in jobs]:
        raise UsageError(f"{config} has no job {unknown[0]!r}", hint=f"its jobs are {', '.join(jobs)}")
    cancel = CancelRequest()
    codes: list[int] = []
    metrics, logs = JobsMetrics(parameters), Logs(parameters)
    with metrics, logs, signals(cancel):
        for name in names or jobs:
            metrics.begin_job(name)
            with show(as_json, progress, None, logs, cancel) as tell:
                heard = _heard(metrics, _unless_idle(tell) if quiet else tell)
                codes.append(_run_one(name, jobs[name], journal, heard, cancel, metrics, last=len(jobs) == 1))
            if cancel.level:
                break
        code = next((code for code in codes if code), ExitCode.OK)
        metrics.end(code)
    lost = metrics.lost or logs.lost
    if lost is not None and code == ExitCode.OK:
        raise lost
    return code


def _heard(metrics: JobsMetrics, tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return what tells metrics of every event, whatever is shown."""

    def heard(event: Event) -> None:
        metrics.handle(event)
        tell(event)

    return heard


def _unless_idle(tell: Callable[[Event], None]) -> Callable[[Event], None]:
    """Return what tells all but the end of a run that had nothing to do."""
    from slotferry.reshard.events import ReshardEnded

    def heard(event: Event) -> None:
        if not isinstance(event, ReshardEnded) or event.report.status not in ("balanced", "outside_window"):
            tell(event)

    return heard


def _run_one(
    name: str,
    job: JobSettings,
    journal: Path | None,
    tell: Any,
    cancel: Any,
    metrics: JobsMetrics,
    *,
    last: bool,
) -> int:
    from slotferry.reshard.jobs import run_job

    try:
        report = run_job(
            job.connector(),
            name,
            job.policy,
            job.limits,
            job.options(name, journal),
            on_event=tell,
            cancel=cancel,
        )
        if report.error is not None:
            raise report.error
    except JobLockedError as error:
        # The run before has not ended: that is no failure, and the next one goes on.
        metrics.end_job(error)
        click.echo(f"slotferry: job {name}: {error.message}; nothing was begun", err=True)
        return ExitCode.WORK_LEFT
    except SlotferryError as error:
        metrics.end_job(error)
        if last:
            metrics.end(error.exit_code)
            raise
        # The other jobs have their own clusters: one that fails is no reason not to run them.
        click.echo(f"slotferry: job {name}: {error.message}", err=True)
        if error.hint:
            click.echo(f"  hint: {error.hint}", err=True)
        return error.exit_code
    return report.exit_code
