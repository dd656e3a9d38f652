"""`--metrics` and `--metrics-file`, and what a command does with them.

Invariant: a command that is not asked for metrics loads nothing of them; where they can't be had, it ends
before it begins. A run that ends has an end there, however it came; a job that is another process's has none,
and that one's file is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.errors import ExitCode, JobLockedError, SlotferryError

if TYPE_CHECKING:
    from typing_extensions import Self

    from slotferry.errors import OutputError
    from slotferry.model.notices import Event
    from slotferry.report.metrics.families import Source
    from slotferry.report.metrics.outputs import MetricsOutput
    from slotferry.report.metrics.resharding import JobsFigures


def host_and_port(value: str | tuple[str, int]) -> tuple[str, int]:
    """Return what `127.0.0.1:9464`, `[::1]:9464` or `:9464` (all addresses) means."""
    if isinstance(value, tuple):
        return value
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:/@\s]*)):([0-9]{1,5})", value)
    if found is None or not 0 < int(found[3]) < 65536:
        raise click.BadParameter(f"{value!r} is not HOST:PORT, such as 127.0.0.1:9464")
    return found[1] or found[2] or "0.0.0.0", int(found[3])  # noqa: S104 - as it was asked for


def metrics_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that metrics have."""
    command = click.option(
        "--metrics-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write them to this file, now and then and at the end, for node_exporter's textfile collector.",
    )(command)
    return click.option(
        "--metrics",
        type=host_and_port,
        metavar="HOST:PORT",
        help="Serve metrics for Prometheus there while the run goes on.",
    )(command)


class Metrics:
    """Takes the options out of a command's `parameters`; a context manager while the run goes on."""

    def __init__(self, parameters: dict[str, Any], *, reshards: bool = False) -> None:
        self._address, self._path = parameters.pop("metrics"), parameters.pop("metrics_file")
        self._reshards = reshards
        self._figures: Source | None = None
        self._output: MetricsOutput | None = None

    def __enter__(self) -> Self:
        """Begin to serve, where that was asked for. Raises `UsageError`."""
        if self._address is None and self._path is None:
            return self
        from slotferry.report.metrics.outputs import MetricsOutput

        self._figures = self._make()
        self._output = MetricsOutput(self._figures, self._address, self._path)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self.end_job(error)
        if self._output is not None:
            self._output.close()

    def end_job(self, error: BaseException) -> None:
        """Take what ended a job, or kept it from its begin, where no event tells it."""
        if self._figures is None:
            return
        if _is_left(error, self._figures):
            self._figures.leave_job()
        else:
            code = error.exit_code if isinstance(error, SlotferryError) else ExitCode.BUG
            self._figures.end_job(int(code))

    def handle(self, event: Event) -> None:
        """Take the next event of the run."""
        if self._figures is None or self._output is None:
            return
        report = getattr(event, "report", None)
        if _is_left(getattr(report, "error", None), self._figures):
            self._figures.leave_job()
        else:
            self._output.handle(event)

    @property
    def lost(self) -> OutputError | None:
        """Why the file could not be written at the end."""
        return None if self._output is None else self._output.lost

    def _make(self) -> Source:
        if self._reshards:
            from slotferry.report.metrics.resharding import ReshardFigures

            return ReshardFigures()
        from slotferry.report.metrics.migration import MigrationFigures

        return MigrationFigures()


def _is_left(error: BaseException | None, figures: Source) -> bool:
    """Whether a job was left to another process; one whose lock was lost later on ended here."""
    return isinstance(error, JobLockedError) and not figures.has_begun


class JobsMetrics(Metrics):
    """The same for a command that runs several jobs, one after the other."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        super().__init__(parameters, reshards=True)
        self._jobs: JobsFigures | None = None

    def begin_job(self, name: str) -> None:
        """Begin with the next job."""
        if self._jobs is not None:
            self._jobs.begin_job(name)

    def end(self, code: int) -> None:
        """Take what the command exits with."""
        if self._jobs is not None:
            self._jobs.end(code)

    def _make(self) -> Source:
        from slotferry.report.metrics.resharding import JobsFigures

        self._jobs = JobsFigures()
        return self._jobs
