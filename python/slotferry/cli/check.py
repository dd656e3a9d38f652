"""`slotferry check`: will this migration work, and what will break afterwards.

Invariant: it only reads. stdout is for the result (the table, or JSON lines of which the summary is the
last), stderr for what takes long and what it costs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.colour import Colour, has_colour, paint
from slotferry.cli.common.ending import signals
from slotferry.cli.migrate import load_config_file
from slotferry.cli.options.page_file import PageFile, html_option
from slotferry.cli.options.passwords import File
from slotferry.cli.options.selection import (
    OrderedCommand,
    database_options,
    database_settings,
    selection_options,
    selection_settings,
)
from slotferry.cli.options.sides import network_options, side_settings, tls_options
from slotferry.cli.options.types import check_names, duration
from slotferry.output_file import OutputFile
from slotferry.redaction import json_text

if TYPE_CHECKING:
    from slotferry.preflight.report import CheckReport
    from slotferry.report.page.content import Page


_EPILOG = """\
\b
Examples:
  slotferry check redis://old:6379 redis+cluster://new1:7000,new2:7000
  slotferry check redis://old:6379 redis://new1:7000 --full --scan-rate 20000
  slotferry check redis://old:6379 redis://new1:7000 --match 'user:*' --rules tags.toml
  slotferry check --config nightly.toml
  slotferry check redis://old:6379 redis://new1:7000 --follow
  slotferry check redis://old:6379 redis://new1:7000 --watch 60s --save-rules tags.toml
  slotferry check redis://old:6379 redis://new1:7000 --commands monitor.log
  slotferry check redis://old:6379 redis://new1:7000 --sample 5% --strict --json

\b
Exit codes:
  0  nothing stands against it     3  warnings, and --strict was given
  2  usage                         4  errors: 'slotferry migrate' would refuse
"""


@click.command(cls=OrderedCommand, context_settings={"auto_envvar_prefix": "SLOTFERRY"}, epilog=_EPILOG)
@click.argument("source", envvar="SLOTFERRY_SOURCE")
@click.argument("target", envvar="SLOTFERRY_TARGET")
@click.option(
    "--sample",
    metavar="KEYS|PERCENT",
    default="20000",
    show_default=True,
    help="About how many of the source's keys to look at; 0 for none.",
)
@click.option("--full", is_flag=True, help="Look at all of the source's keys.")
@selection_options
@database_options
@click.option(
    "--scan-rate",
    type=float,
    metavar="NUMBER",
    default=5000,
    show_default=True,
    help="Look at no more keys a second than this.",
)
@click.option("--follow", is_flag=True, help="Look also whether 'slotferry migrate --follow' will work.")
@click.option(
    "--read",
    type=click.Choice(["scan", "snapshot"]),
    default="scan",
    show_default=True,
    help="With snapshot, look also whether 'slotferry migrate --read snapshot' will work.",
)
@click.option(
    "--watch",
    type=duration,
    metavar="DURATION",
    help="Follow the source's MONITOR this long to see the application's commands; costs the source some.",
)
@click.option(
    "--commands", type=File, metavar="FILE", help="Read them from a recorded 'redis-cli monitor' instead."
)
@click.option(
    "--save-rules",
    type=File,
    metavar="FILE",
    help="Write the hash-tag advice as rewrite rules (TOML) for 'slotferry migrate'.",
)
@click.option("--strict", is_flag=True, help="Exit with 3 where there are warnings.")
@click.option(
    "--skip-check",
    metavar="NAME",
    multiple=True,
    shell_complete=check_names,
    help="Tell an error of this check as a warning; may be repeated.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar="SLOTFERRY_JSON",
    help="A JSON line a check on stdout; the last one is the summary.",
)
@html_option
@network_options
@tls_options("source")
@tls_options("target")
@click.option(
    "--config",
    type=File,
    is_eager=True,
    expose_value=False,
    callback=load_config_file,
    help="TOML file with a table [check] of these options; without it, what [migrate] says of them.",
)
def check(
    source: str, target: str, as_json: bool, save_rules: Path | None, html: Path | None, **parameters: Any
) -> int:
    """Look at both sides before a migration: will it work, and what will break afterwards.

    One table: each row is ok, a warning or an error, with what to do. Nothing is written to either side.
    SOURCE and TARGET are as for 'slotferry migrate', and so are passwords and TLS options.
    """
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.preflight.check import CheckOptions
    from slotferry.preflight.check import check as run_check
    from slotferry.report.check_progress import CheckProgress

    settings = side_settings(parameters) | selection_settings(parameters) | database_settings(parameters)
    options = CheckOptions(**settings, **parameters)
    rules = None if save_rules is None else OutputFile(save_rules, "rules", "--save-rules")
    page = PageFile(html)
    cancel = CancelRequest(saves=False)
    with signals(cancel), CheckProgress(sys.stderr) as progress:
        report = run_check(source, target, options, progress.notify, progress.report, cancel)
    if rules is not None:
        _save_rules(rules, report)
    page.write(lambda: _page(report))
    if as_json:
        for row in report.rows:
            click.echo(json_text(row.to_dict()))
        click.echo(json_text(report.to_dict()))
    else:
        from slotferry.report.check_tables import check_table

        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        click.echo(check_table(report, width, _paint), color=has_colour(sys.stdout))
    if page.lost is not None:
        raise page.lost
    return report.exit_code


def _paint(text: str, status: str) -> str:
    colours: dict[str, Colour] = {"ok": "green", "warning": "yellow", "error": "red"}
    return paint(text, colours[status], sys.stdout)


def _page(report: CheckReport) -> Page:
    from slotferry.report.page.checking import check_page

    return check_page(report)


def _save_rules(file: OutputFile, report: CheckReport) -> None:
    """Write the hash-tag advice. Raises `OutputError` where the file can't be written."""
    from slotferry.model.rules import rules_to_toml

    rules = () if report.application is None else report.application.rules()
    heading = (
        f"Hash tags that bring keys which are used together into one slot, by 'slotferry check' of\n"
        f"{report.source}. The application has to use the new names as well."
    )
    file.write([rules_to_toml(rules, heading)])
    click.echo(f"slotferry: {len(rules)} rewrite rules written to {file.path}", err=True)
