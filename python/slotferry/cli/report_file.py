"""The file of `--report`.

Invariant: the file is whole or absent: written beside its place, then renamed. That it can be written is
known before the run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from slotferry.errors import RefusedError, UsageError

if TYPE_CHECKING:
    from slotferry.report import Report


class ReportFile:
    """A file that will hold the summary. Raises `UsageError` where it can't be written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            self._draft.touch()
            self._draft.unlink()
        except OSError as error:
            raise UsageError(
                f"the report {path} can't be written: {error.strerror}",
                hint="name another file with --report",
            ) from None

    def write(self, report: Report) -> None:
        """Write the summary. Raises `RefusedError`."""
        try:
            self._draft.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
            self._draft.replace(self.path)
        except OSError as error:
            raise RefusedError(
                f"the report {self.path} can't be written: {error.strerror}",
                hint=f"the run itself ended as {report.status}; see 'slotferry jobs show {report.job}'",
            ) from None
