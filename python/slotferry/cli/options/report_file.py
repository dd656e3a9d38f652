"""The file of `--report`, and how a command ends that was asked for one.

Invariant: the run's own exit code goes first; that an output is lost shows where the run itself succeeded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from slotferry.errors import ExitCode, OutputError
from slotferry.output_file import OutputFile
from slotferry.redaction import json_text

if TYPE_CHECKING:
    from slotferry.errors import SlotferryError


class Reported(Protocol):
    """What the reports of migrations, verifications and reshards have in common."""

    @property
    def error(self) -> SlotferryError | None:
        """Why the run ended early."""

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with."""

    def to_dict(self) -> dict[str, object]:
        """Return the summary."""


class ReportFile:
    """What becomes of a report at the end. Raises `UsageError` for a file that can't be written."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else OutputFile(path, "report", "--report")

    def end(self, report: Reported, lost: OutputError | None = None) -> int:
        """Write the summary, where it was asked for, and return the exit code.

        `lost` is why another output could not be written.

        Raises what ended the run, or else `OutputError`.
        """
        ended = report.error
        if isinstance(ended, OutputError):
            lost, ended = ended, None
        try:
            if self._file is not None:
                self._file.write([json_text(report.to_dict(), indent=2), "\n"])
        except OutputError as error:
            lost = lost or error
        if lost is not None and ended is None and report.exit_code in (ExitCode.OK, ExitCode.OUTPUT_LOST):
            raise lost
        if lost is not None:
            click.echo(f"slotferry: {lost.message}", err=True)
        if ended is not None:
            raise ended
        return report.exit_code
