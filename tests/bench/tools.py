"""The tools that the benchmark compares, each run as a process of its own and judged by the same figures.

Invariant: a tool's result counts only when the cluster afterwards holds every key; CPU and peak memory are
the operating system's figures for the process (wait4), not the tool's own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.bed import Bed, ServerCpu
from tests.command import COMMAND

_HERE = Path(__file__).parent


class ToolFailedError(Exception):
    """A tool did not copy every key; the message says what it printed."""


@dataclass(frozen=True)
class Finished:
    """A process that ended well: what it printed, its wall-clock and CPU seconds, its peak in bytes."""

    stdout: str
    seconds: float
    cpu: float
    peak_memory: int


@dataclass(frozen=True)
class Result:
    """What a tool needed for `keys` keys; the rate is its own where it tells one. CPU is in seconds."""

    tool: str
    keys: int
    keys_per_second: float
    client_cpu: float
    start_up_cpu: float
    servers: ServerCpu
    peak_memory: int

    def to_dict(self) -> dict[str, float | int | str]:
        """Return the figures per key, in microseconds, as the table shows them."""
        return {
            "tool": self.tool,
            "keys": self.keys,
            "keys_per_second": round(self.keys_per_second),
            "client_us_per_key": round(self.per_key(self.client_cpu), 3),
            "client_us_per_key_without_start": round(self.per_key(self.client_cpu - self.start_up_cpu), 3),
            "source_us_per_key": round(self.per_key(self.servers.source), 3),
            "cluster_us_per_key": round(self.per_key(self.servers.cluster), 3),
            "peak_memory_mb": round(self.peak_memory / 1e6, 1),
        }

    def per_key(self, seconds: float) -> float:
        """Microseconds a key."""
        return seconds / self.keys * 1e6


def run_slotferry(bed: Bed, keys: int, options: Sequence[str]) -> Result:
    """Migrate with everything on: journal, counters, bar. An empty database shows the fixed cost."""
    with tempfile.TemporaryDirectory() as folder:

        def command(database: int) -> list[str]:
            urls = [f"redis://{bed.source_address}/{database}", f"redis+cluster://{bed.seed_address}"]
            journal = os.path.join(folder, "journal.db")
            return [COMMAND, "migrate", *urls, "--journal", journal, "--json", "--progress", "bar", *options]

        start_up = run_measured(command(1)).cpu
        return _measured(bed, "slotferry", keys, command(0), _slotferry_rate, start_up)


def run_snapshot(bed: Bed, keys: int, options: Sequence[str]) -> Result:
    """Migrate from a snapshot, for which the source waits no longer than it takes."""
    with bed.source.client() as client:
        client.config_set("repl-diskless-sync-delay", 0)
    result = run_slotferry(bed, keys, [*options, "--read", "snapshot"])
    return replace(result, tool="snapshot")


def run_redis_py(bed: Bed, keys: int) -> Result:
    """Copy with a script of the kind that everybody writes."""
    command = [sys.executable, str(_HERE / "redis_py_copy.py"), bed.source_address, bed.seed_address]
    start_up = run_measured([sys.executable, "-c", "import redis"]).cpu
    return _measured(bed, "redis-py", keys, command, lambda done: keys / float(done.stdout), start_up)


def run_redis_cli(bed: Bed, keys: int) -> Result:
    """Copy with `redis-cli --cluster import`."""
    tool = shutil.which("redis-cli") or shutil.which("valkey-cli")
    if tool is None:
        raise ToolFailedError("there is no redis-cli on the PATH: install it or leave it out of --tools")
    command = [tool, "--cluster", "import", bed.seed_address, "--cluster-from", bed.source_address]
    command += ["--cluster-copy", "--cluster-replace"]
    return _measured(bed, "redis-cli", keys, command, lambda done: keys / done.seconds, 0.0)


def measure_bound(bed: Bed) -> dict[str, float]:
    """Return the CPU seconds of the servers alone, by stream; see `server_bound.py`."""
    bed.empty_cluster()
    script = str(_HERE / "server_bound.py")
    done = run_measured([sys.executable, script, bed.source.address, bed.cluster.primaries[0].address])
    bound: dict[str, float] = json.loads(done.stdout)
    _check_all_there(bed, int(bound["keys"]), "the server bound's RESTORE stream", done.stdout)
    return bound


def _measured(
    bed: Bed,
    tool: str,
    keys: int,
    command: Sequence[str],
    rate: Callable[[Finished], float],
    start_up_cpu: float,
) -> Result:
    bed.empty_cluster()
    before = bed.server_cpu()
    done = run_measured(command)
    used = bed.server_cpu() - before
    _check_all_there(bed, keys, tool, done.stdout)
    return Result(tool, keys, rate(done), done.cpu, start_up_cpu, used, done.peak_memory)


def _slotferry_rate(done: Finished) -> float:
    summary = json.loads(done.stdout.splitlines()[-1])
    return float(summary["keys_per_second"])


def run_measured(command: Sequence[str]) -> Finished:
    """Run a command to its end; raises `ToolFailedError` where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "used.json"
        measured = [sys.executable, "-S", "-E", str(_HERE / "measured.py"), str(report), *command]
        done = subprocess.run(measured, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            last = " / ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
            raise ToolFailedError(f"{' '.join(command)} ended with {done.returncode}: {last}")
        used = json.loads(report.read_text())
    return Finished(done.stdout, used["seconds"], used["cpu"], used["peak_memory"])


def _check_all_there(bed: Bed, keys: int, what: str, printed: str) -> None:
    there = bed.keys_in_cluster()
    if there != keys:
        raise ToolFailedError(f"{what} left {there} of {keys} keys in the cluster: {printed[-500:]}")
