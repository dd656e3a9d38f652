"""`slotferry cutover`: ask a run that follows to cut over, and show how it goes.

Invariant: what decides is done by the run; this command asks, shows and abandons. Its exit code says whether
the application belongs to the target (0) or stays at the source (3).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.common.command import Command
from slotferry.cli.jobs.commands import journal_option, journal_path, json_option, opened_journal, settings
from slotferry.cli.options.cutover_options import cutover_options, take_cutover_options
from slotferry.cli.options.job_argument import job_argument
from slotferry.cli.options.passwords import take_password
from slotferry.cli.options.sides import network_options, tls_options
from slotferry.errors import RefusedError, UsageError
from slotferry.redaction import json_text

if TYPE_CHECKING:
    from slotferry.net.connector import Connector

_EPILOG = """\
\b
Examples:
  slotferry cutover nightly
  slotferry cutover nightly --run './switch-application cluster'
  slotferry cutover nightly --stop-writes refuse --within 5s --check sample
  slotferry cutover nightly --stop-writes none        # the writers are stopped already
  slotferry cutover nightly --undo                    # let a source that refuses writes take them again

\b
Exit codes:
  0  done: the target holds what the source held, and the application may speak to it
  1  a bug of ours
  2  usage
  3  abandoned: writes flow at the source, following goes on, it can be tried again
  4  refused: the message says what to change
  130, 143  Ctrl-C or SIGTERM a second time: this command ended, the run goes on with the cut-over
"""


@click.command(cls=Command, context_settings=settings, epilog=_EPILOG)
@job_argument
@cutover_options
@click.option(
    "--undo",
    is_flag=True,
    help="Cut nothing over: put back what --stop-writes refuse has changed at the source, and give up a "
    "cut-over that was killed.",
)
@click.option(
    "--source",
    metavar="URL",
    help="With --undo of a job that does not run: the source's URL, where it needs a user.  [default: as the "
    "journal has it]",
)
@journal_option
@json_option
@network_options
@tls_options("source")
def cutover(job: str, journal: Path | None, as_json: bool, undo: bool, **parameters: Any) -> int:
    """Cut a followed job over to its target: stop writes at the source, prove that all is there, switch.

    JOB is run by 'slotferry migrate --follow' in another terminal, on this machine. The lag is waited for,
    writes are stopped, all that was written is copied and compared, and --run switches the application. Then
    the run ends. Where any of it fails or takes longer than --within, or Ctrl-C is pressed here, writes flow
    again and the run goes on following.
    """
    path = journal_path(journal)
    options = take_cutover_options(parameters)
    with opened_journal(path, job):
        pass  # a job that is not there is told of before anything else
    if undo:
        return _undo(path, job, as_json, parameters)
    from slotferry.cli.common.cutover_client import CutoverClient

    return CutoverClient(path, job, as_json).cut_over(options)


def _undo(path: Path, job: str, as_json: bool, parameters: dict[str, Any]) -> int:
    from slotferry.jobs.control.control_socket import ask
    from slotferry.jobs.journal.cutovers import CutoverRecords
    from slotferry.jobs.lock import JobLock, is_running
    from slotferry.migrate.cutover.recovery import undo

    if is_running(path, job):
        done = ask(path, job, "cutover", action="undo")["messages"]
    else:
        with JobLock(path, job):
            done = undo(_source(path, job, parameters), CutoverRecords(path, job))
    if as_json:
        click.echo(json_text({"type": "cutover_undone", "job": job, "messages": done}))
    else:
        click.echo("\n".join(done) or f"nothing is to be undone for {job}")
    return 0


def _source(path: Path, job: str, parameters: dict[str, Any]) -> Connector:
    """Return how the job's source is reached. Raises `SlotferryError`."""
    from slotferry.jobs.journal.cutovers import CutoverRecords
    from slotferry.net.address_map import AddressMap
    from slotferry.net.connector import Connector
    from slotferry.net.endpoints import Endpoint, Tls, parse_endpoint

    with opened_journal(path, job) as opened:
        record = opened.job(job)
    if record is None or (record.setup.follow is None and not CutoverRecords(path, job).changed_settings()):
        raise RefusedError(
            f"the job {job} copies and does not follow its source", hint="there is nothing to undo"
        )
    given = parameters["source"]
    endpoint: Endpoint = parse_endpoint(given or record.setup.source, "source")
    if endpoint.identity != record.setup.source:
        raise UsageError(
            f"--source is {endpoint.identity}, and the source of the job {job} is {record.setup.source}",
            hint="give the URL that the job was started with",
        )
    tls = Tls(*(parameters[f"source_{name}"] for name in ("ca", "cert", "key", "sni", "insecure")))
    endpoint = endpoint.with_credentials(take_password("source", parameters), tls).with_sentinel_login(
        parameters["sentinel_username"], take_password("Sentinel", parameters)
    )
    endpoint.check_files()
    return Connector(endpoint, "source", AddressMap.parse(parameters["address_map"]))
