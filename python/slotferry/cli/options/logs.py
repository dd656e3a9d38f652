"""`--log-file`, `--log-format`, `-v` and `-q`: what a command writes down of its run, and what it shows.

Invariant: a command that is not asked for a log opens none. Errors are shown, however quiet.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from slotferry.errors import OutputError
    from slotferry.model.notices import Event
    from slotferry.report.log.file import LogFile
    from slotferry.report.log.records import EventLog

quiet_option = click.option(
    "-q", "--quiet", is_flag=True, help="Nothing on stderr but errors; the result is printed."
)


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that a log has."""
    options = [
        click.option(
            "--log-file",
            type=click.Path(dir_okay=False, path_type=Path),
            help="Append what happens to this file, each line with its time.",
        ),
        click.option(
            "--log-format",
            type=click.Choice(["text", "json"]),
            default="text",
            show_default=True,
            help="Lines of text, or JSON objects with all fields.",
        ),
        click.option(
            "-v", "--verbose", is_flag=True, help="Log checkpoints, and progress every second, as well."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


class Logs:
    """Takes the options out of a command's `parameters`; a context manager while the run goes on."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self._path: Path | None = parameters.pop("log_file")
        self._style = parameters.pop("log_format")
        self._verbose = parameters.pop("verbose")
        self._file: LogFile | None = None
        self._events: EventLog | None = None
        self._level_before = 0

    def __enter__(self) -> Logs:
        """Begin to log, where that was asked for. Raises `UsageError`."""
        if self._path is None:
            return self
        import logging

        from slotferry.report.log.file import LogFile
        from slotferry.report.log.records import NAME, EventLog

        level = logging.DEBUG if self._verbose else logging.INFO
        self._file, self._events = LogFile(self._path, self._style, level), EventLog()
        logger = logging.getLogger(NAME)
        self._level_before = logger.level
        logger.setLevel(level)
        logger.addHandler(self._file)
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        import logging

        from slotferry.report.log.records import NAME

        logger = logging.getLogger(NAME)
        logger.removeHandler(self._file)
        logger.setLevel(self._level_before)
        self._file.close()

    def handle(self, event: Event) -> None:
        """Log an event of a run that logs nothing by itself."""
        if self._events is not None:
            self._events.handle(event)

    @property
    def lost(self) -> OutputError | None:
        """Why the log is not whole."""
        return None if self._file is None else self._file.lost
