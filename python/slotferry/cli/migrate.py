"""`slotferry migrate`: the command that does it.

Invariant: stdout is for results (the table, or JSON lines of which the summary is the last), stderr for
progress and complaints. The first Ctrl-C or SIGTERM lets the run finish what is in hand, the second stops
it at once, the third is the shell's own.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import note_config
from slotferry.cli.common.ending import WHAT_A_SECOND_DOES, Interruption, ending_signals, meaning
from slotferry.cli.options.cutover_options import CUTOVER_OPTIONS, cutover_options, take_cutover_options
from slotferry.cli.options.logs import Logs, log_options, quiet_option
from slotferry.cli.options.metrics import Metrics, metrics_options
from slotferry.cli.options.page_file import PageFile, html_option, migration_page
from slotferry.cli.options.passwords import File
from slotferry.cli.options.selection import (
    OrderedCommand,
    database_options,
    database_settings,
    migration_options,
    selection_options,
    selection_settings,
)
from slotferry.cli.options.sides import network_options, side_settings, tls_options
from slotferry.cli.options.types import (
    big_key_size,
    byte_rate,
    check_names,
    duration,
    key_rate,
    milliseconds,
    partition_count,
    size,
)
from slotferry.errors import InternalError, UsageError
from slotferry.jobs.limits import MAX_WAIT_REPLICAS
from slotferry.report import Display, choose_display
from slotferry.report.base import Silent

if TYPE_CHECKING:
    from slotferry.api.migration import Migration, Report
    from slotferry.model.cutover import CutoverOptions


# What a run writes besides its result.
_OUTPUTS = ("report", "html", "metrics", "metrics_file", "log_file", "log_format", "verbose")


def load_config_file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Make what the table of the command in a file of `--config` says the defaults."""
    if path is None:
        return
    from slotferry.cli.config import load_config

    # By the name that is written on the command line, which is not always the parameter's.
    names = {p.opts[0].lstrip("-").replace("-", "_"): str(p.name) for p in context.command.params}
    several = [p.opts[0].lstrip("-").replace("-", "_") for p in context.command.params if _is_list(p)]
    loaded = load_config(path, names.keys() - {"config", "help"}, several, str(context.command.name))
    note_config(context, path, str(context.command.name))
    context.default_map = {names[name]: value for name, value in loaded.items()}


def _is_list(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and parameter.multiple


_EPILOG = """\
Passwords are best given in SLOTFERRY_SOURCE_PASSWORD, SLOTFERRY_TARGET_PASSWORD and
SLOTFERRY_SENTINEL_PASSWORD, in files, or by commands. The command line (--source-password-file,
--source-password-command) goes first, then the URL, then the environment, then the config file. An empty
variable is not set.

Every option can be given in the environment as well (--on-conflict as SLOTFERRY_ON_CONFLICT) and in a file
(--config); the command line goes first, then the environment, then the file.

From another terminal, 'slotferry jobs pause|resume|rate|cancel JOB' steers a run, and 'slotferry jobs show
JOB' says how it is.

\b
Examples:
  slotferry migrate redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry migrate redis://old:6379/2 redis://new1:7000 --match 'user:*' --on-conflict replace
  slotferry migrate redis://old:6379 redis://new1:7000 --rewrite '^user:(\\d+):(.*)$ => user:{$1}:$2'
  slotferry migrate redis://old:6379 redis://new1:7000 --all-dbs --map-db 2=prefix:db2:
  slotferry migrate rediss://old:6380 rediss+cluster://new1:7000 --source-ca ca.pem --target-ca ca.pem
  slotferry migrate 'redis+sentinel://s1,s2,s3/mymaster?role=prefer-replica' redis+cluster://new1:7000
  slotferry migrate redis://old:6379 redis://nat:17000 --address-map 10.0.0.7:7000=nat:17000
  slotferry migrate dump.rdb redis+cluster://new1:7000
  aws s3 cp s3://backups/dump.rdb.gz - | slotferry migrate - redis+cluster://new1:7000
  slotferry migrate unix:///run/redis.sock redis://new1:7000 --dry-run
  slotferry migrate redis://old:6379 redis://new1:7000 --verify
  slotferry migrate redis://old:6379 redis+cluster://new1:7000 --read snapshot
  slotferry migrate redis://old:6379 redis+cluster://new1:7000 --follow
  slotferry migrate redis://old:6379 redis+cluster://new1:7000 --follow --cutover-when-ready \\
      --window 02:00-04:00 --run './switch-application'
  slotferry migrate redis://old:6379 redis://new1:7000 --max-keys-per-second 20000 --pause-above-latency 20
  slotferry migrate redis://old:6379 redis+cluster://new1:7000 --wait-replicas 1
  slotferry migrate --config nightly.toml --json --report summary.json

\b
Exit codes:
  0  all done                      4  refused: the message says what to change
  1  a bug of ours                 5  source lost, run again to resume
  2  usage                         6  target lost, run again to resume
  3  done, but keys failed or are pending, or --verify found differences,
     or there was no key, with --fail-if-empty
  74 all done and recorded, but an output could not be written
  130, 143  interrupted, checkpoint saved, run again to resume
"""


@click.command(cls=OrderedCommand, context_settings={"auto_envvar_prefix": "SLOTFERRY"}, epilog=_EPILOG)
@click.argument("source", envvar="SLOTFERRY_SOURCE")
@click.argument("target", envvar="SLOTFERRY_TARGET")
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "replace", "skip"]),
    default="error",
    show_default=True,
    help="A key that the target has: compare and record a difference, overwrite it, or leave it.",
)
@click.option(
    "--field-ttl",
    type=click.Choice(["error", "drop"]),
    default="error",
    show_default=True,
    help="Hashes with TTLs on fields, where the target has none: a failed key, or copy them without.",
)
@click.option(
    "--big-key-bytes",
    type=big_key_size,
    metavar="SIZE",
    default="8MB",
    show_default=True,
    help="Keys of this size and more are copied in parts, so that no server stalls; 0: in one piece.",
)
@click.option(
    "--read",
    type=click.Choice(["scan", "snapshot"]),
    default="scan",
    show_default=True,
    help="Ask the source for each key, or take them from a snapshot that its forked child makes, which "
    "spares its main thread.",
)
@selection_options
@database_options
@migration_options
@click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="Budget for data in flight.",
)
@click.option(
    "--retry-for",
    type=duration,
    metavar="DURATION",
    default="5m",
    show_default=True,
    help="How long a lost server or an unavailable slot is tried again.",
)
@click.option(
    "--max-keys-per-second", type=key_rate, metavar="NUMBER", help="Read no more keys from the source."
)
@click.option(
    "--max-bytes-per-second",
    type=byte_rate,
    metavar="SIZE",
    help="Read no more bytes from the source, such as 50MB.",
)
@click.option(
    "--pause-above-latency",
    type=milliseconds,
    metavar="MS",
    help="Read nothing while the source or a primary takes longer for a ping or a reply.",
)
@click.option(
    "--wait-replicas",
    type=click.IntRange(0, MAX_WAIT_REPLICAS),
    default=0,
    show_default=True,
    metavar="NUMBER",
    help="A checkpoint holds only what so many replicas of its primary have confirmed.",
)
@click.option(
    "--wait-timeout",
    type=milliseconds,
    metavar="MS",
    default="1000",
    show_default=True,
    help="How long a checkpoint waits for them before it stays back.",
)
@click.option(
    "--parallel-scans",
    type=partition_count,
    metavar="NUMBER",
    help="Scans at once, a power of two.  [default: from round trip and number of keys]",
)
@click.option("--job", metavar="NAME", help="Name in the journal.  [default: made from SOURCE and TARGET]")
@click.option(
    "--journal",
    type=File,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
)
@click.option("--restart", is_flag=True, help="Forget what the journal knows of this job and start over.")
@click.option(
    "--ignore-checksum",
    is_flag=True,
    help="Take an RDB file whose checksum is wrong, and say so.",
)
@click.option(
    "--skip-check",
    metavar="NAME",
    multiple=True,
    shell_complete=check_names,
    help="Go on although this check of the preflight fails; may be repeated.",
)
@click.option(
    "--fail-if-empty",
    is_flag=True,
    help="Exit with 3 where no key was found to copy; else that is a warning.",
)
@click.option(
    "--follow",
    is_flag=True,
    help="Copy what is written meanwhile as well, and go on with that until Ctrl-C or 'jobs cancel'; keys "
    "that the target has are overwritten.",
)
@click.option(
    "--on-flush",
    type=click.Choice(["stop", "apply"]),
    default="stop",
    show_default=True,
    help="With --follow, when the source's database is emptied or swapped: end, or do the same to the target "
    "by a comparison of both sides.",
)
@click.option(
    "--cutover-when-ready",
    is_flag=True,
    help="With --follow, cut over by itself once that may succeed, as 'slotferry cutover' does; what fails "
    "is tried again, at ever longer distances.",
)
@click.option(
    "--window",
    metavar="TIMES",
    help="Cut over by itself between these times alone, such as 02:00-04:00 by this machine's clock.",
)
@cutover_options
@click.option("--verify", is_flag=True, help="Compare both sides afterwards, as 'slotferry verify' does.")
@click.option("--dry-run", is_flag=True, help="Look, count and say what would be done; write nothing.")
@click.option("--report", type=File, help="Write the summary (JSON) to this file at the end.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="SLOTFERRY_JSON",
    help="JSON lines on stdout; the last one is the summary.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "lines", "none"]),
    default="auto",
    show_default=True,
    help="On stderr: a bar, a line every 5 seconds, or only notices.",
)
@html_option
@metrics_options
@log_options
@quiet_option
@network_options
@tls_options("source")
@tls_options("target")
@click.option(
    "--config",
    type=File,
    is_eager=True,
    expose_value=False,
    callback=load_config_file,
    help="TOML file with a table [migrate] of these options.",
)
def migrate(as_json: bool, progress: Any, quiet: bool, **parameters: Any) -> int:
    """Copy the keys of a standalone server, or of a cluster, into a cluster.

    The same command again resumes what was interrupted, and tries failed and pending keys again.

    SOURCE is redis://[user:password@]host:port/db, rediss://... (TLS), unix:///path?db=0, or for a service
    behind Sentinel redis+sentinel://host:port,host:port/service/db, with ?role=replica or
    ?role=prefer-replica to spare its primary; for a cluster, every primary of which is read,
    redis+cluster://host:port,host:port; or the path of an RDB file, plain, gzip or zstd, - for stdin.
    TARGET is redis+cluster://host:port,host:port, rediss+cluster://..., or the redis:// URL of one of its
    nodes.
    """
    migration, outputs = make_migration(parameters)
    return run_migration(migration, as_json=as_json, progress=None if quiet else progress, **outputs)


def make_migration(parameters: dict[str, Any]) -> tuple[Migration, dict[str, Any]]:
    """Return the migration that a command's parameters ask for, and those of them that are for its outputs.

    Raises `UsageError`.
    """
    outputs = {name: parameters.pop(name) for name in _OUTPUTS}
    return _migration(**parameters), outputs


def run_migration(
    migration: Migration,
    *,
    as_json: bool,
    progress: Any,
    report: Path | None,
    html: Path | None,
    **outputs: Any,
) -> int:
    """Run, show it, write what was asked for, and return the exit code. Raises `SlotferryError`."""
    from slotferry.cli.options.report_file import ReportFile

    metrics, logs = Metrics(outputs), Logs(outputs)
    if html is not None and migration.options.dry_run:
        raise UsageError("--html is given with --dry-run, of which nothing is recorded", hint="leave one out")
    file, page = ReportFile(report), PageFile(html)
    with metrics, logs:  # the run logs by itself
        ended = follow(migration, as_json, progress, metrics)
    page.write(lambda: migration_page(migration.options.journal_path, migration.job))
    return file.end(ended, metrics.lost or page.lost or logs.lost)


def _migration(source: str, target: str, **parameters: Any) -> Migration:
    from slotferry.api.migration import Migration, Options

    _refuse_policy(parameters)
    wanted = _take_cutover(parameters)
    settings = side_settings(parameters)
    settings |= selection_settings(parameters) | database_settings(parameters)
    return Migration(source, target, Options(**settings, **parameters, cutover_when_ready=wanted))


def _take_cutover(parameters: dict[str, Any]) -> CutoverOptions | None:
    """Take how it is cut over by itself; None where it is not. Raises `UsageError` for options in vain."""
    wanted, options = parameters.pop("cutover_when_ready"), take_cutover_options(parameters)
    if wanted:
        return options
    context = click.get_current_context()
    for name in CUTOVER_OPTIONS:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option} is given without --cutover-when-ready",
                hint="give both, or give it to 'slotferry cutover' later",
            )
    return None


def _refuse_policy(parameters: dict[str, Any]) -> None:
    """Raise for a conflict policy that was asked for, where following has one of its own."""
    given = click.get_current_context().get_parameter_source("on_conflict")
    chosen = parameters["on_conflict"]
    if parameters["follow"] and chosen != "replace" and given is not click.core.ParameterSource.DEFAULT:
        raise UsageError(
            f"--follow is given together with --on-conflict {chosen}: what is written again is copied again",
            hint="give --on-conflict replace, or leave it out",
        )


def follow(migration: Migration, as_json: bool, progress: Any, metrics: Metrics) -> Report:
    """Run, show it, and return the report."""
    from slotferry.model.events import Notice, RunEnded

    with ExitStack() as stack:
        displays = [Silent() if progress is None else choose_display(progress), _results(as_json)]
        for display in displays:
            stack.enter_context(closing(display))
        stack.enter_context(migration)
        interruption = stack.enter_context(_signals(migration))
        for event in migration.events():
            metrics.handle(event)
            if interruption.is_untold() and not isinstance(event, RunEnded):
                displays[0].handle(Notice(WHAT_A_SECOND_DOES))
            for display in displays:
                display.handle(event)
            if isinstance(event, RunEnded):
                return event.report
    raise InternalError("the run ended without a report")


def _results(as_json: bool) -> Display:
    """Return what writes results to stdout."""
    if as_json:
        from slotferry.report.json_lines import JsonLines

        return JsonLines(sys.stdout)
    from slotferry.report.tables import ResultTables

    return ResultTables(sys.stdout)


@contextmanager
def _signals(migration: Migration) -> Iterator[Interruption]:
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in ending_signals()}
    received = 0

    def ask(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = interruption.received = received + 1
        migration.cancel(immediately=received > 1, signal=meaning(number))
        if received > 1:
            restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield interruption
    finally:
        restore()
