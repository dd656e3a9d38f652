"""`slotferry jobs pause|resume|rate|cancel`: ask something of a run that goes on in another terminal.

Invariant: a command says what was asked and how the run was then; whether it is followed shows in
`slotferry jobs show`. Migrations and reshards are asked alike.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.jobs.commands import journal_option, journal_path, json_option, kind_option, settings
from slotferry.cli.options.job_argument import job_argument
from slotferry.cli.options.types import byte_rate, key_rate, or_none
from slotferry.errors import UsageError
from slotferry.redaction import json_text

if TYPE_CHECKING:
    from slotferry.jobs.lock import Kind

_PAUSE_EXAMPLES = """\
\b
Examples:
  slotferry jobs pause nightly
  slotferry jobs resume nightly
"""
_RATE_EXAMPLES = """\
\b
Examples:
  slotferry jobs rate nightly --max-keys-per-second 20000
  slotferry jobs rate nightly --max-bytes-per-second 50MB
  slotferry jobs rate nightly --max-keys-per-second none --max-bytes-per-second none
"""
_CANCEL_EXAMPLES = """\
\b
Examples:
  slotferry jobs cancel nightly
  slotferry jobs cancel nightly --immediately
"""


@click.command("pause", cls=Command, context_settings=settings, epilog=_PAUSE_EXAMPLES)
@job_argument
@journal_option
@json_option
@kind_option
def pause_job(job: str, journal: Path | None, as_json: bool, kind: Any) -> None:
    """Pause a running job: nothing more is read or moved until it is resumed.

    What is under way is finished and recorded; while a reshard is paused, no slot of it is open. A job that
    ends is not paused any more the next time.
    """
    _ask(job, journal, as_json, kind, "pause", f"asked {job} to pause")


@click.command("resume", cls=Command, context_settings=settings, epilog=_PAUSE_EXAMPLES)
@job_argument
@journal_option
@json_option
@kind_option
def resume_job(job: str, journal: Path | None, as_json: bool, kind: Any) -> None:
    """Let a paused job go on."""
    _ask(job, journal, as_json, kind, "resume", f"asked {job} to go on")


@click.command("rate", cls=Command, context_settings=settings, epilog=_RATE_EXAMPLES)
@job_argument
@click.option(
    "--max-keys-per-second",
    type=or_none(key_rate),
    metavar="NUMBER",
    help="Keys to read, of a migration alone; none: no limit.",
)
@click.option(
    "--max-bytes-per-second",
    type=or_none(byte_rate),
    metavar="SIZE",
    help="Bytes to read, or to move; none: no limit.",
)
@journal_option
@json_option
@kind_option
def rate_job(job: str, journal: Path | None, as_json: bool, kind: Any, **limits: int | None) -> None:
    """Limit what a running migration reads, or a running reshard moves, in a second.

    A limit that is not named stays as it is. The next run begins with those of its own command.
    """
    # The environment is not asked: a limit for migrate is no wish to change one.
    context = click.get_current_context()
    named = {
        name: None if value == 0 else value
        for name, value in limits.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if not named:
        raise UsageError(
            "no rate was given", hint="give --max-keys-per-second, --max-bytes-per-second or both"
        )
    said = ", ".join(f"{name.replace('_', '-')} {value or 'none'}" for name, value in named.items())
    _ask(job, journal, as_json, kind, "rate", f"asked {job} for {said}", **named)


@click.command("cancel", cls=Command, context_settings=settings, epilog=_CANCEL_EXAMPLES)
@job_argument
@click.option("--immediately", is_flag=True, help="Do not finish what is under way; still nothing is lost.")
@journal_option
@json_option
@kind_option
def cancel_job(job: str, journal: Path | None, as_json: bool, kind: Any, immediately: bool) -> None:
    """End a running job in order, as Ctrl-C does: it can be resumed.

    Of 'reshard run', the next job of its file begins then.
    """
    _ask(job, journal, as_json, kind, "cancel", f"asked {job} to end", immediately=immediately)


def _ask(
    job: str,
    journal: Path | None,
    as_json: bool,
    kind: Any,
    command: str,
    said: str,
    **arguments: Any,
) -> None:
    from slotferry.jobs.control.control_socket import ask

    path = journal_path(journal)
    locked: Kind | None = "migrate" if kind == "verify" else kind
    answer = ask(path, job, command, locked or _running_kind(path, job), **arguments)
    click.echo(json_text({**answer, "type": "asked", "command": command}) if as_json else said)


def _running_kind(path: Path, job: str) -> Kind:
    """Return which kind of job is meant. Raises `UsageError` where two of that name are running."""
    from slotferry.jobs.lock import KINDS, is_running

    running = [kind for kind in KINDS if is_running(path, job, kind)]
    if len(running) > 1:
        raise UsageError(
            f"a migration and a reshard called {job!r} are running",
            hint="say which with --kind migrate or reshard",
        )
    return running[0] if running else KINDS[0]
