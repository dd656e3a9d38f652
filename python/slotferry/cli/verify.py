"""`slotferry verify`: the command that says whether everything is there, exactly.

Invariant: as of `migrate`: stdout is for results, stderr for progress and complaints. Differences are
results: they set the exit code and are no error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.migrate import follow, load_config_file
from slotferry.cli.options.logs import Logs, log_options, quiet_option
from slotferry.cli.options.metrics import Metrics, metrics_options
from slotferry.cli.options.page_file import PageFile, html_option, migration_page
from slotferry.cli.options.passwords import File
from slotferry.cli.options.selection import (
    OrderedCommand,
    database_options,
    database_settings,
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
    share,
    size,
)

if TYPE_CHECKING:
    from slotferry.api.verification import Verification
    from slotferry.model.events import RepairPlanned

_EPILOG = """\
\b
Examples:
  slotferry verify redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry verify redis://old:6379 redis://new1:7000 --sample 5% --quick
  slotferry verify redis://old:6379 redis://new1:7000 --differences differences.jsonl --show-values
  slotferry verify redis://old:6379 redis://new1:7000 --repair
  slotferry verify redis://old:6379 redis://new1:7000 --repair --delete-extra --dry-run
  slotferry verify redis://old:6379 redis://new1:7000 --rewrite '^user:(\\d+):(.*)$ => user:{$1}:$2'
  slotferry verify redis://old:6379 redis://new1:7000 --json | tail -1 | jq .keys

\b
Exit codes:
  0  both sides are the same       4  refused: the message says what to change
  1  a bug of ours                 5  source lost, run again to resume
  2  usage                         6  target lost, run again to resume
  3  keys differ, or could not be compared, or there was none, with --fail-if-empty
  74 all done and recorded, but an output could not be written
  130, 143  interrupted, checkpoint saved, run again to resume
"""


@click.command(cls=OrderedCommand, context_settings={"auto_envvar_prefix": "SLOTFERRY"}, epilog=_EPILOG)
@click.argument("source", envvar="SLOTFERRY_SOURCE")
@click.argument("target", envvar="SLOTFERRY_TARGET")
@selection_options
@database_options
@click.option("--sample", type=share, metavar="SHARE", help="Only this part of the keys, such as 5%.")
@click.option("--quick", is_flag=True, help="Compare existence, type, TTL and length, not the values.")
@click.option(
    "--ttl-tolerance",
    type=duration,
    metavar="DURATION",
    default="100ms",
    show_default=True,
    help="By how much the TTLs of equal keys may differ.",
)
@click.option(
    "--recheck",
    type=click.IntRange(0, 100),
    default=2,
    show_default=True,
    help="How often keys that differ are read again before they are reported.",
)
@click.option(
    "--field-ttl",
    type=click.Choice(["error", "drop"]),
    default="error",
    show_default=True,
    help="As for migrate: with drop, hashes may lack TTLs on fields where the target has none.",
)
@click.option(
    "--big-key-bytes",
    type=big_key_size,
    metavar="SIZE",
    default="8MB",
    show_default=True,
    help="Keys of this size and more are compared in parts, so that no server stalls; 0: in one piece.",
)
@click.option("--repair", is_flag=True, help="Send again what is missing or different, and compare it again.")
@click.option(
    "--delete-extra",
    is_flag=True,
    help="With --repair: delete from the target what is extra, after a question or with --yes.",
)
@click.option(
    "--max-delete",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="Refuse to delete more extra keys.  [default: a tenth of the target, or 1000 if that is more]",
)
@click.option("--yes", is_flag=True, help="Delete extra keys without a question.")
@click.option(
    "--dry-run", is_flag=True, help="With --repair: show what would be sent and deleted, and how many."
)
@click.option(
    "--show-values",
    is_flag=True,
    help="Show with a difference what the values hold, in short; it is kept in the journal as well.",
)
@click.option("--differences", type=File, help="Write every difference (JSON lines) to this file.")
@click.option(
    "--memory-limit",
    type=size,
    metavar="SIZE",
    default="64MiB",
    show_default=True,
    help="Budget for data in flight; payloads of more than a sixteenth are compared in parts.",
)
@click.option(
    "--retry-for",
    type=duration,
    metavar="DURATION",
    default="5m",
    show_default=True,
    help="How long a lost server or an unavailable slot is tried again.",
)
@click.option("--max-keys-per-second", type=key_rate, metavar="NUMBER", help="Read so many keys at the most.")
@click.option(
    "--max-bytes-per-second", type=byte_rate, metavar="SIZE", help="Read so many bytes at the most."
)
@click.option(
    "--pause-above-latency",
    type=milliseconds,
    metavar="MS",
    help="Pause while a server takes longer for a ping or a reply.",
)
@click.option(
    "--parallel-scans",
    type=partition_count,
    metavar="NUMBER",
    help="Scans of the source at once, a power of two.  [default: from round trip and number of keys]",
)
@click.option("--job", metavar="NAME", help="Name in the journal.  [default: made from SOURCE and TARGET]")
@click.option(
    "--journal",
    type=File,
    help="The journal's file.  [default: journal.db in slotferry in the XDG state folder]",
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
    help="Exit with 3 where no key was found to compare; else that is a warning.",
)
@click.option("--restart", is_flag=True, help="Forget an interrupted verification and start over.")
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
    help="TOML file with a table [verify] of these options.",
)
def verify(
    as_json: bool, progress: Any, report: Path | None, html: Path | None, quiet: bool, **parameters: Any
) -> int:
    """Compare a cluster with the standalone server that it was copied from.

    Every key, in both directions: value, type and TTL, whatever the encoding. Keys that differ are read again
    a moment later, to tell what is in motion from what is wrong. Nothing is written without --repair.

    SOURCE and TARGET are written as for 'slotferry migrate'; SOURCE may be the RDB file that was copied.
    """
    from slotferry.cli.options.report_file import ReportFile

    metrics, logs = Metrics(parameters), Logs(parameters)
    verification = _verification(**parameters)
    file, page = ReportFile(report), PageFile(html)
    with metrics, logs:  # the run logs by itself
        ended = follow(verification, as_json, None if quiet else progress, metrics)
    page.write(lambda: migration_page(verification.options.journal_path, verification.job))
    return file.end(ended, metrics.lost or page.lost or logs.lost)


def _verification(source: str, target: str, **parameters: Any) -> Verification:
    from slotferry.api.verification import Verification, VerifyOptions

    settings = side_settings(parameters) | selection_settings(parameters) | database_settings(parameters)
    if sys.stdin.isatty() and sys.stderr.isatty():
        settings["confirm"] = _ask
    return Verification(source, target, VerifyOptions(**parameters, **settings))


def _ask(planned: RepairPlanned) -> bool:
    """Ask on the terminal."""
    keys = "1 key" if planned.to_delete == 1 else f"{planned.to_delete:,} keys"
    sent = f", and send {planned.to_send:,} again" if planned.to_send else ""
    question = f"Delete {keys} of the target (of {planned.target_keys:,}) that the source lacks{sent}? [y/N] "
    click.echo(question, nl=False, err=True)
    answer = b""
    # Read below sys.stdin: a thread that is left behind with its lock would break the end of the process.
    while not answer.endswith(b"\n") and (piece := os.read(sys.stdin.fileno(), 1024)):
        answer += piece
    return answer.strip().lower() in (b"y", b"yes")
