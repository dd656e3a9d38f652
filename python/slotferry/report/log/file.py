"""The file of `--log-file`: a line for each record, as text or as JSON.

Invariant: a line has its time in ISO 8601 with its zone, is one line whatever a server said, and holds no
secret. A file that can't be opened is told before anything begins; one that is full ends no run.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal

from slotferry.errors import OutputError, UsageError
from slotferry.redaction import json_text, redact_strong
from slotferry.report.log.records import NAME
from slotferry.text import iso_time, local_time


class LogFile(logging.FileHandler):
    """Appends to the file. Raises `UsageError` where it can't be opened."""

    def __init__(self, path: Path, style: Literal["text", "json"], level: int) -> None:
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UsageError(
                f"the log can't be written to {path}: {error.strerror}",
                hint="name another file with --log-file",
            ) from None
        self._path = path
        self.lost: OutputError | None = None
        """Why the log is not whole."""
        self.setFormatter(_Json() if style == "json" else _Text())
        self.setLevel(level)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's name
        """Remember what went wrong, in place of a traceback on stderr."""
        error = sys.exc_info()[1]
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self.lost = OutputError(f"the log is not whole in {self._path}: {why}", hint="see to its disk")

    def close(self) -> None:
        """Close the file."""
        try:
            super().close()
        except OSError as error:
            self.lost = self.lost or OutputError(f"the log is not whole in {self._path}: {error.strerror}")


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = " ".join(record.getMessage().splitlines())
        return redact_strong(f"{local_time(record.created)} {record.levelname} {message}")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = dict(getattr(record, NAME, {}))
        head = {"time": iso_time(record.created), "level": record.levelname.lower(), "logger": record.name}
        return json_text({**head, "text": record.getMessage(), **fields})
