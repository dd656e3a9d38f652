"""`slotferry jobs show --watch`: how a run is, again and again, until it ends.

Invariant: it asks the run's control socket and shows what that says; Ctrl-C ends the watching, not the run.
Lines fit the terminal, however narrow; one that can't be drawn on gets lines below each other.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import click

from slotferry.errors import JobNotRunningError, SlotferryError
from slotferry.report.columns import align, cut
from slotferry.report.live import live_rows
from slotferry.text import format_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from slotferry.jobs.lock import Kind

_SECONDS = 1.0
_LINE_SECONDS = 5.0  # where the screen can't be drawn anew
_REMEMBERED = 60
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=+*%#"


class Screen:
    """Draws lines over those that it drew before, where the terminal can do that."""

    def __init__(self) -> None:
        self._draws = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.seconds = _SECONDS if self._draws else _LINE_SECONDS
        self._height = 0

    def show(self, lines: list[str]) -> None:
        """Show these lines."""
        if self._draws:
            size = shutil.get_terminal_size()
            lines = [cut(line, max(10, size.columns - 1)) for line in lines[: max(1, size.lines - 1)]]
        up = f"\x1b[{self._height}A\r\x1b[J" if self._height else ""
        click.echo(up + "\n".join(lines), color=True)
        self._height = len(lines) if self._draws else 0


def watch_job(path: Path, job: str, kind: Kind) -> None:
    """Show how the run of a job is until it ends, or until Ctrl-C; at once where none goes on."""
    from slotferry.jobs.control.control_socket import ask

    screen, rates = Screen(), deque[float](maxlen=_REMEMBERED)
    pause = threading.Event()
    try:
        while True:
            try:
                live = ask(path, job, "status", kind)
            except JobNotRunningError:
                return
            except SlotferryError as error:
                screen.show([f"job {job}: {error.message}"])
            else:
                rates.append(live.get("keys_per_second") or 0.0)
                screen.show(live_lines(job, live, rates))
            pause.wait(screen.seconds)
    except KeyboardInterrupt:
        return


def live_lines(job: str, live: dict[str, Any], rates: deque[float]) -> list[str]:
    """Return what is shown of a run now; `rates` are the last ones."""
    rows = [("job", f"{job}, run {live['run']}"), *live_rows(live)]
    if (keys := live.get("keys")) is not None and isinstance(keys, dict):
        expected = f" of about {live['expected_keys']:,}" if live.get("expected_keys") else ""
        rows.append(("keys", f"{live['done_keys']:,}{expected}, {format_bytes(live['bytes'])}"))
        unsettled = [f"{keys[name]:,} {name}" for name in ("pending", "failed") if keys[name]]
        if unsettled:
            rows.append(("not settled", ", ".join(unsettled)))
    elif "slots_done" in live:
        rows.append(("slots", f"{live['slots_done']:,} of {live['slots']:,}"))
        rows.append(
            ("keys", f"{live['keys_moved']:,} of {live['keys']:,}, {format_bytes(live['bytes_moved'])}")
        )
    if any(rates):
        rows.append(("keys/s", sparkline(rates)))
    rows += [(f"  {primary}", f"{count:,} keys") for primary, count in live.get("keys_by_primary") or ()]
    return [f"{time.strftime('%H:%M:%S')}", *align(rows)]


def sparkline(values: deque[float]) -> str:
    """Return the values as a line of bars, in characters that stdout has."""
    bars = _BARS
    try:
        _BARS.encode(sys.stdout.encoding or "ascii")
    except UnicodeError:
        bars = _PLAIN_BARS
    most = max(values) or 1.0
    return "".join(bars[min(len(bars) - 1, int(value / most * len(bars)))] for value in values)
