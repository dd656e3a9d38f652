"""`slotferry migrate run`: named migrations from a file, for schedulers.

Invariant: every job of the file is checked before one begins. A job whose window is closed, or whose copy is
not due, is left alone; one that its window ends saves what it has done, and the next run goes on.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.migrate import make_migration, migrate, run_migration
from slotferry.cli.options.passwords import File
from slotferry.cli.options.types import duration
from slotferry.errors import (
    ExitCode,
    JobLockedError,
    MigrationInterrupted,
    OptionError,
    SlotferryError,
    UsageError,
)
from slotferry.jobs.control.schedule import Past, Schedule, Turn
from slotferry.redaction import json_text
from slotferry.toml_file import read_jobs

if TYPE_CHECKING:
    from slotferry.api.migration import Migration

_EXAMPLES = """\
\b
Examples:
  slotferry migrate run --config jobs.toml
  slotferry migrate run --config jobs.toml nightly --json

\b
jobs.toml:
  [defaults]
  target = "redis+cluster://node1:7000,node2:7000"
  on-conflict = "replace"
  tz = "Europe/Berlin"

\b
  [jobs.nightly]
  source = "redis://old:6379"
  window = "01:00-05:00"
  max-keys-per-second = 20000

\b
Exit codes: as of 'migrate'; of several jobs the first that is not 0. 75 where work is left for a later run:
the window has closed, or the run before is still at work.
"""

# What is said on the command line for all jobs; and what makes no sense for a job that a scheduler starts.
_OF_THE_COMMAND = ("config", "help", "job", "journal", "json", "progress", "quiet", "verbose")
_OF_PEOPLE = ("follow", "cutover-when-ready", "dry-run", "restart")
_SCHEDULE = ("window", "tz", "every", "max-duration")


@dataclass(frozen=True)
class _Job:
    """A job of the file: when it may run, its migration, made but not begun, and what that writes besides."""

    name: str
    schedule: Schedule
    migration: Migration
    outputs: dict[str, Any]
    source: str
    target: str

    def fresh(self) -> Migration:
        """Return the migration that looks through the source anew."""
        from slotferry.api.migration import Migration

        return Migration(self.source, self.target, replace(self.migration.options, restart=True))


@click.command(
    "migrate run",
    cls=Command,
    context_settings={"auto_envvar_prefix": "SLOTFERRY_MIGRATE_RUN"},
    epilog=_EXAMPLES,
    short_help="Run named migrations of a file, for schedulers.",
)
@click.option("--config", type=File, required=True, help="TOML file with a table [jobs.NAME] for each job.")
@click.argument("names", nargs=-1, metavar="[JOB]...")
@click.option(
    "--journal",
    type=File,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "lines", "none"]),
    default="auto",
    show_default=True,
    help="On stderr: a bar, a line every 5 seconds, or only notices.",
)
@click.option("--quiet", is_flag=True, help="Print nothing where there was nothing to do, as for cron.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines on stdout, each with a type.")
def migrate_run(
    config: Path, names: tuple[str, ...], journal: Path | None, progress: str, quiet: bool, as_json: bool
) -> int:
    """Run the JOBs of a file, all of them by default: copy what is due, in its window.

    Settings have the names of the options of 'slotferry migrate'; and there are window, tz, max-duration and
    every: how old a complete copy may be before it is made again. To copy a file that is called 'run', write
    ./run.
    """
    jobs = _load_jobs(config, journal)
    if unknown := [name for name in names if name not in jobs]:
        raise UsageError(f"{config} has no job {unknown[0]!r}", hint=f"its jobs are {', '.join(jobs)}")
    codes = []
    for name in names or jobs:
        code = _run_one(jobs[name], progress, quiet=quiet, as_json=as_json, is_only=len(names or jobs) == 1)
        codes.append(code)
        if code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED):
            break
    return next((code for code in codes if code), ExitCode.OK)


def _run_one(job: _Job, progress: str, *, quiet: bool, as_json: bool, is_only: bool) -> int:
    past = _past(job.migration.options.journal_path, job.name)
    turn = job.schedule.turn(time.time(), past)
    if turn.status != "due":
        if not quiet:
            _tell_turn(job.name, turn, as_json=as_json)
        return ExitCode.WORK_LEFT if past.is_unfinished else ExitCode.OK
    watch = _Closing(turn.until)
    migration = job.fresh() if turn.is_fresh else job.migration
    try:
        with watch.over(migration):
            return run_migration(migration, as_json=as_json, progress=progress, **job.outputs)
    except JobLockedError as error:
        # The run before has not ended: that is no failure, and the next one goes on.
        click.echo(f"slotferry: job {job.name}: {error.message}; nothing was begun", err=True)
        return ExitCode.WORK_LEFT
    except MigrationInterrupted as error:
        if watch.has_closed:
            click.echo(f"slotferry: job {job.name}: its time is over; the next run goes on", err=True)
            return ExitCode.WORK_LEFT
        return _complain(job.name, error)
    except SlotferryError as error:
        if is_only:
            raise
        # The other jobs have their own sources: one that fails is no reason not to run them.
        return _complain(job.name, error)


def _complain(name: str, error: SlotferryError) -> int:
    click.echo(f"slotferry: job {name}: {error.message}", err=True)
    if error.hint:
        click.echo(f"  hint: {error.hint}", err=True)
    return error.exit_code


def _tell_turn(name: str, turn: Turn, *, as_json: bool) -> None:
    if not as_json:
        click.echo(f"{name}: nothing to do, {turn.reason}")
        return
    opens_at = None
    if turn.opens_at is not None:
        opens_at = datetime.fromtimestamp(turn.opens_at, timezone.utc).isoformat(timespec="seconds")
    click.echo(
        json_text(
            {"type": "job", "job": name, "status": turn.status, "reason": turn.reason, "opens_at": opens_at}
        )
    )


def _past(journal: Path, name: str) -> Past:
    """Return what the journal knows of a job. Raises `JournalError`."""
    from slotferry.jobs.journal.reader import JournalReader

    if not journal.exists():
        return Past()
    with JournalReader.open(journal) as reader:
        return Past.of(reader.runs(name)) if reader.has(name) else Past()


class _Closing:
    """Ends a migration in order when its time is over."""

    def __init__(self, until: float | None) -> None:
        self._until = until
        self.has_closed = False

    @contextmanager
    def over(self, migration: Migration) -> Iterator[None]:
        """Watch the migration for as long as the context lasts."""
        if self._until is None:
            yield
            return
        timer = threading.Timer(max(0.0, self._until - time.time()), self._close, (migration,))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _close(self, migration: Migration) -> None:
        self.has_closed = True
        migration.cancel()


def _load_jobs(path: Path, journal: Path | None) -> dict[str, _Job]:
    """Return the jobs of the file at `path` by name. Raises `UsageError`."""
    defaults, jobs = read_jobs(path)
    shared = _settings(path, "[defaults]", defaults)
    return {
        name: _job(path, name, {**shared, **_settings(path, f"[jobs.{name}]", job)}, journal)
        for name, job in jobs.items()
    }


def _settings(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table by option name. Raises `UsageError` for what is no setting of a job."""
    options = {one.opts[0].lstrip("-") for one in migrate.params if isinstance(one, click.Option)}
    known = ["source", "target", *_SCHEDULE, *sorted(options - {*_OF_THE_COMMAND, *_OF_PEOPLE, *_SCHEDULE})]
    settings = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name in (*_OF_THE_COMMAND, *_OF_PEOPLE):
            raise UsageError(
                f"the config file {path} has {key!r} in {where}, which is not for a job of a schedule",
                hint="give it to the command" if name in _OF_THE_COMMAND else "leave it out",
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise UsageError(f"the config file {path} has the unknown setting {key!r} in {where}", hint=hint)
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, (str, int, float, bool)) for one in values):
            raise UsageError(
                f"{key!r} in {where} in the config file {path} is not a text, number or truth value",
                hint="write one value, or a list of them",
            )
        settings[name] = value
    return settings


def _job(path: Path, name: str, settings: dict[str, Any], journal: Path | None) -> _Job:
    for needed in ("source", "target"):
        if not isinstance(settings.get(needed), str):
            raise UsageError(
                f"the job {name} in {path} names no {needed}", hint=f'give it {needed} = "redis://…"'
            )
    try:
        schedule = _schedule(settings)
        by_name = {one.opts[0].lstrip("-"): str(one.name) for one in migrate.params}
        ends = [settings.pop("source"), settings.pop("target")]
        defaults = {by_name[key]: value for key, value in settings.items()}
        # On the command line, which goes before the environment.
        given = [f"--job={name}", *([] if journal is None else [f"--journal={journal}"])]
        with migrate.make_context("migrate", [*given, "--", *ends], default_map=defaults) as context:
            parameters = dict(context.params)
            _refuse_variables(parameters)
            for shown in ("as_json", "progress", "quiet"):
                del parameters[shown]
            return _Job(name, schedule, *make_migration(parameters), *ends)
    except click.UsageError as error:
        raise UsageError(
            f"the job {name} in {path}: {error.format_message()}", hint="see 'slotferry migrate --help'"
        ) from None
    except UsageError as error:
        if isinstance(error, OptionError):
            error = error.named(lambda option: option.replace("_", "-"))
        raise UsageError(f"the job {name} in {path}: {error.message}", hint=error.hint) from None


def _refuse_variables(parameters: Mapping[str, Any]) -> None:
    """Raise `UsageError` for what the file may not say, and the environment does."""
    for option in _OF_PEOPLE:
        name = option.replace("-", "_")
        if parameters[name]:
            raise UsageError(
                f"SLOTFERRY_{name.upper()} is set, which is not for a job of a schedule", hint="unset it"
            )


def _schedule(settings: dict[str, Any]) -> Schedule:
    """Take what says when a job may run out of its settings."""
    windows = settings.pop("window", [])
    tz = settings.pop("tz", None)
    times = {name: settings.pop(name, None) for name in ("every", "max-duration")}
    windows = (windows,) if isinstance(windows, str) else tuple(windows)
    if not all(isinstance(text, str) for text in (*windows, *([] if tz is None else [tz]))):
        raise UsageError(
            "'window' or 'tz' is not a text", hint="write it like 01:00-05:00, and Europe/Berlin"
        )
    try:
        every, longest = (None if value is None else duration(value) for value in times.values())
    except click.BadParameter as error:
        raise UsageError(
            f"'every' or 'max-duration' makes no sense: {error.message}", hint="write it like 20h"
        ) from None
    return Schedule(windows, tz, every, longest)
