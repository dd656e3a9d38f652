"""`slotferry reshard apply`: a plan is carried out, in a window if need be.

Invariant: stdout is for results, stderr for progress and complaints. The first Ctrl-C or SIGTERM finishes the
slots in hand, the second stops at once; the next run goes on either way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.common.ending import WHAT_A_SECOND_DOES, Interruption, signals
from slotferry.cli.options.logs import Logs, log_options, quiet_option
from slotferry.cli.options.metrics import Metrics, metrics_options
from slotferry.cli.options.page_file import PageFile, html_option, reshard_page_of
from slotferry.cli.options.types import byte_rate, duration, milliseconds
from slotferry.cli.reshard.options import (
    FILE,
    SETTINGS,
    cluster_argument,
    json_option,
    login_options,
    take_connector,
)
from slotferry.errors import UsageError

if TYPE_CHECKING:
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.model.notices import Event
    from slotferry.reshard.limits import Limits

_EXAMPLES = """\
\b
Examples:
  slotferry reshard apply plan.json redis+cluster://node1:7000
  slotferry reshard apply plan.json redis+cluster://node1:7000 --window 01:00-05:00 --tz Europe/Berlin
  slotferry reshard apply plan.json redis+cluster://node1:7000 --pause-above-latency 10ms --json

\b
Exit codes:
  0   every slot is where the plan wants it     6   cluster lost, run again to go on
  2   usage                                     75  work is left (window, duration), run again to go on
  3   done, but some slots were left            130, 143  interrupted, run again to go on
  4   refused: the message says what to change
"""


def care_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what keeps a run from hurting."""
    options = [
        click.option(
            "--window",
            "windows",
            multiple=True,
            metavar="FROM-TO",
            help="Move only at this time of day, such as 01:00-05:00; may be repeated.",
        ),
        click.option("--tz", metavar="ZONE", help="Time zone of the windows.  [default: this machine's]"),
        click.option("--max-duration", type=duration, metavar="DURATION", help="Stop after this time."),
        click.option(
            "--pause-above-latency",
            type=milliseconds,
            metavar="MS",
            help="Pause while a node answers PING slower than this; MIGRATE blocks a tenth of it at most.",
        ),
        click.option("--max-bytes-per-second", type=byte_rate, metavar="SIZE", help="Move no faster."),
        click.option("--pause-file", type=FILE, help="Pause while this file exists."),
        click.option(
            "--max-key-size",
            type=byte_rate,
            default="100MB",
            show_default=True,
            metavar="SIZE",
            help="Leave slots with a larger key where they are: MIGRATE blocks both nodes for it.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what a run is recorded and shown with."""
    options = [
        click.option(
            "--method",
            type=click.Choice(["auto", "setslot", "atomic"]),
            default="auto",
            show_default=True,
            help="Atomic moves by the servers (Valkey 9, Redis 8.4), or SETSLOT and MIGRATE.",
        ),
        click.option(
            "--retry-for",
            type=duration,
            default="5m",
            show_default=True,
            metavar="DURATION",
            help="How long a lost node, or room at a full one, is waited for while nothing moves.",
        ),
        click.option(
            "--journal",
            type=FILE,
            help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
        ),
        click.option(
            "--conflicts",
            type=FILE,
            help="File for keys that differ between two nodes.  [default: beside the journal]",
        ),
        click.option(
            "--progress",
            type=click.Choice(["auto", "bar", "lines", "none"]),
            default="auto",
            show_default=True,
            help="On stderr: a bar, a line every 5 seconds, or only notices.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    "apply", cls=Command, context_settings=SETTINGS, epilog=_EXAMPLES, short_help="Carry out a plan."
)
@click.argument("plan", type=FILE)
@cluster_argument
@care_options
@run_options
@click.option("--replan", is_flag=True, help="Plan anew, by the same policy, where the cluster has changed.")
@click.option("--job", metavar="NAME", help="Name in the journal.  [default: made from the plan]")
@click.option("--report", type=FILE, help="Write the summary (JSON) to this file at the end.")
@json_option
@html_option
@metrics_options
@log_options
@quiet_option
@login_options
def apply(
    plan: Path,
    cluster: str,
    as_json: bool,
    progress: Any,
    report: Path | None,
    html: Path | None,
    quiet: bool,
    **parameters: Any,
) -> int:
    """Carry out PLAN, a file of 'reshard plan -o', on CLUSTER.

    The same command again goes on where the last run stopped, whatever stopped it. A plan of another cluster,
    of one that has changed, or one that was edited is refused.
    """
    from slotferry.cli.options.report_file import ReportFile
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.reshard.apply import apply_plan
    from slotferry.reshard.options import Options

    metrics, logs = Metrics(parameters, reshards=True), Logs(parameters)
    connector = take_connector(cluster, parameters)
    limits = take_limits(parameters)
    loaded = read_plan(plan)
    options = Options(**parameters)
    file, page = ReportFile(report), PageFile(html)
    cancel = CancelRequest()
    shown = None if quiet else progress
    with metrics, logs, show(as_json, shown, metrics, logs, cancel) as tell, signals(cancel):
        result = apply_plan(connector, loaded, options, limits=limits, on_event=tell, cancel=cancel)
    page.write(lambda: reshard_page_of(options.journal_path, result.job, loaded))
    return file.end(result, metrics.lost or page.lost or logs.lost)


def read_plan(path: Path) -> Any:
    """Return the plan in a file. Raises `UsageError`."""
    from slotferry.reshard.plan.model import Plan

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise UsageError(
            f"the plan {path} can't be read: {reason}", hint="make it with 'slotferry reshard plan -o'"
        ) from None
    return Plan.from_json(text, name=f"the plan {path}")


def take_limits(parameters: dict[str, Any]) -> Limits:
    """Take the options of `care_options` out of `parameters`."""
    from slotferry.reshard.limits import Limits

    latency = parameters.pop("pause_above_latency")
    return Limits(
        windows=parameters.pop("windows"),
        tz=parameters.pop("tz"),
        max_duration=parameters.pop("max_duration"),
        pause_above_latency=None if latency is None else latency / 1000,
        max_bytes_per_second=parameters.pop("max_bytes_per_second"),
        pause_file=parameters.pop("pause_file"),
        max_key_bytes=parameters.pop("max_key_size"),
    )


@contextmanager
def show(
    as_json: bool, progress: Any, metrics: Metrics | None, logs: Logs, cancel: CancelRequest
) -> Iterator[Callable[[Event], None]]:
    """Show the events of a run: progress on stderr, results on stdout, its metrics and its log."""
    from slotferry.model.notices import Notice
    from slotferry.report.reshard.displays import choose_displays
    from slotferry.reshard.events import ReshardEnded

    displays = choose_displays(progress, as_json, sys.stderr, sys.stdout)
    interruption = Interruption()

    def tell(event: Event) -> None:
        if metrics is not None:
            metrics.handle(event)
        logs.handle(event)
        interruption.received = cancel.level
        if interruption.is_untold() and not isinstance(event, ReshardEnded):
            displays[0].handle(Notice(WHAT_A_SECOND_DOES))
        for display in displays:
            display.handle(event)

    try:
        yield tell
    finally:
        for display in displays:
            display.close()
