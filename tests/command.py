"""Runs the command `slotferry` as a user does: a process of its own, judged by what it prints and returns.

Invariant: the installed command is run, not a function of it, so that entry point, signals and exit codes are
tested as they are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("slotferry"))
_TIMEOUT = 240


@dataclass(frozen=True)
class Outcome:
    """How a run ended; `lines` are the JSON lines of its stdout, none when it printed something else."""

    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines() if line.startswith("{")]

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of `migrate --json`."""
        last = self.lines[-1]
        assert last["type"] == "summary", last
        return last

    @property
    def keys(self) -> dict[str, int]:
        counts: dict[str, int] = self.summary["keys"]
        return counts


def run(*arguments: str, env: Mapping[str, str] | None = None, timeout: float = _TIMEOUT) -> Outcome:
    """Run `slotferry` with `arguments` to its end; `env` adds to the environment."""
    done = subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
    )
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """A `slotferry` under way; a context manager that kills it if it still runs at the end."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [COMMAND, *arguments],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._process.kill()
        self._process.communicate()

    def wait(self, timeout: float) -> None:
        """Wait for its end; raise `subprocess.TimeoutExpired` where it does not come within `timeout`."""
        self._process.wait(timeout)

    def finish(self, *, timeout: float = _TIMEOUT) -> Outcome:
        """Wait for its end."""
        stdout, stderr = self._process.communicate(timeout=timeout)
        return Outcome(self._process.returncode, stdout.decode(), stderr.decode())
