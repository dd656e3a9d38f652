"""The command `slotferry`: one file a command, and here what they share.

Invariant: whatever goes wrong comes out as one sentence on stderr (and a hint below it) with the exit code of
errors.py; a traceback is shown only with SLOTFERRY_DEBUG=1.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO, cast

import click

from slotferry._core import __version__
from slotferry.cli.common.colour import choose_colour, has_colour, paint
from slotferry.cli.common.command import blamed
from slotferry.cli.common.lazy import Home, LazyGroup
from slotferry.cli.common.streams import GuardedStdout, RedactedStderr
from slotferry.errors import ExitCode, SlotferryError, unexpected
from slotferry.redaction import redact

_EXAMPLES = """\
\b
Examples:
  slotferry demo
  slotferry check redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry migrate redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry cutover nightly --run './switch-application'
  slotferry reshard plan redis+cluster://new1:7000 --by bytes
  slotferry verify redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry jobs list

Run 'slotferry COMMAND --help' for the options of a command and more examples.
"""

# In the order in which they are used.
_SUMMARIES = {
    "check": "Look at both sides before a migration: will it work?",
    "migrate": "Copy a standalone server's keys into a cluster.",
    "migrate run": "Run named migrations of a file, for schedulers.",
    "cutover": "Switch a job that follows its source over to the target.",
    "verify": "Compare a cluster with the server that it was migrated from.",
    "jobs": "List, show, steer and discard the jobs in the journal.",
    "report": "Write a page that tells of a job.",
    "reshard": "Balance a cluster, and repair its slots.",
    "rewrite": "Try rules that rewrite keys.",
    "slot": "Print the hash slot of each KEY.",
    "demo": "See a migration between embedded servers.",
    "completion": "Print the completion script for a shell.",
}
_MODULES = {"jobs": "slotferry.cli.jobs.commands"}
_HOMES = {
    name: Home(_MODULES.get(name, f"slotferry.cli.{module}"), module, summary)
    for name, summary in _SUMMARIES.items()
    for module in [name.replace(" ", "_")]
}
_COMPLETE = "_SLOTFERRY_COMPLETE"


@click.group(
    cls=LazyGroup,
    homes=_HOMES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_EXAMPLES,
)
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    is_eager=True,
    expose_value=False,
    callback=choose_colour,
    help="Colours: on terminals that have them, unless NO_COLOR is set.",
)
@click.version_option(
    None,
    "-V",
    "--version",
    package_name="slotferry",
    message=f"%(package)s %(version)s, engine {__version__}",
)
def cli() -> None:
    """Move Redis and Valkey data into a cluster: fast, resumable, without losing a key."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    if arguments is None:
        # The process ends after this: what is left goes with it, and need not be searched for cycles first.
        atexit.register(gc.freeze)
    stdout = sys.stdout
    guarded = GuardedStdout(stdout or open(os.devnull, "w"))  # noqa: SIM115 - for the rest of the process
    sys.stdout = cast("TextIO", guarded)
    stderr = sys.stderr
    sys.stderr = cast("TextIO", RedactedStderr(stderr or open(os.devnull, "w")))  # noqa: SIM115
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        try:
            guarded.flush()
        except BrokenPipeError:
            _silence(stdout)
        if guarded.failure is not None:
            _silence(stdout)
            _complain(
                f"stdout can't be written: {guarded.failure.strerror}",
                "the output is not whole; what was to be done is done and recorded",
            )
            return code or ExitCode.OUTPUT_LOST
        return code
    finally:
        guarded.release()
        sys.stdout, sys.stderr = stdout, stderr


def _run(arguments: list[str]) -> int:
    try:
        if _COMPLETE in os.environ:
            cli.main(prog_name="slotferry", complete_var=_COMPLETE)  # answers the shell and exits
        # Not `cli.main`, which would exit with 1 when the reader of stdout is gone.
        with cli.make_context("slotferry", arguments or ["--help"]) as context:
            result = cli.invoke(context)
    except BrokenPipeError:
        return ExitCode.OK  # whoever read the output has seen enough
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except (click.Abort, KeyboardInterrupt):
        _complain("interrupted")
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        return _complain_usage(error)
    except SlotferryError as error:
        _complain(error.message, error.hint, error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - this is the last place to catch it
        bug = unexpected(error)
        _complain(bug.message, bug.hint, bug)
        return bug.exit_code
    return result if isinstance(result, int) else ExitCode.OK


def _complain_usage(error: click.ClickException) -> int:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"see '{context.command_path} --help'" if context is not None else ""
    message = blamed(error) if isinstance(error, click.BadParameter) else None
    _complain(_without_urls((message or error.format_message()).rstrip(".")), hint)
    return error.exit_code


def _without_urls(message: str) -> str:
    """Cut a message where a URL begins that click repeats: nobody knows where its password ends."""
    return re.sub(r"['\"(]?[A-Za-z][A-Za-z0-9+.-]*://(.|\n)*", "a URL, not repeated here", message)


def _complain(message: str, hint: str = "", error: BaseException | None = None) -> None:
    with contextlib.suppress(OSError):
        if error is not None and os.environ.get("SLOTFERRY_DEBUG") == "1":
            click.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)
        head = paint("slotferry:", "red", sys.stderr)
        click.echo(f"{head} {message}", err=True, color=has_colour(sys.stderr))
        if hint:
            click.echo(f"  hint: {hint}", err=True)


def _silence(stdout: TextIO) -> None:
    """Let the interpreter's own flush at exit go nowhere: it would change the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stdout.fileno())
    os.close(nowhere)
