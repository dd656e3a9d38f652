"""The resharding benchmark: slotferry beside `redis-cli --cluster reshard`, with a client at work.

Invariant: every tool moves as many slots with as many keys, from one primary to two others of a new cluster;
its result counts only when every key is on the node that owns it and no slot is open. The client reads and
writes keys of the very slots that move.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry import plan_reshard
from slotferry.testing.servers import LocalCluster
from tests.command import COMMAND
from tests.reshard.client import LoadClient, fill_keys, keys_in, open_slots, slots_owned
from tests.servers.kinds import available, on_path_or_embedded
from tests.servers.raw import connect


class ToolFailedError(Exception):
    """A tool did not do its work; the message says what it printed."""


@dataclass
class Bed:
    cluster: LocalCluster
    slots: int
    folder: Path

    @property
    def ids(self) -> list[str]:
        found = []
        for node in self.cluster.primaries:
            with connect(node) as connection:
                found.append(connection.execute("CLUSTER", "MYID").decode())
        return found


def slotferry(bed: Bed, *options: str) -> float:
    """Plan, then time the apply."""
    first, second, third = bed.cluster.primaries
    counts = [5461 - bed.slots, 5461 + bed.slots // 2, 5462 + bed.slots // 2]
    weights = {node.address: n for node, n in zip((first, second, third), counts, strict=True)}
    plan = plan_reshard(bed.cluster.url, weights=weights, threshold=0.0002, samples=1)
    if abs(plan.slots - bed.slots) > 2:
        raise ToolFailedError(f"the plan moves {plan.slots} slots")
    file = bed.folder / "plan.json"
    file.write_text(plan.to_json())
    report = bed.folder / "report.json"
    begun = time.monotonic()
    _run(
        [COMMAND, "reshard", "apply", str(file), bed.cluster.url, "--journal", str(bed.folder / "journal.db"),
         "--report", str(report), *options]
    )  # fmt: skip
    return time.monotonic() - begun


def redis_cli(bed: Bed, *options: str) -> float:
    tool = shutil.which("redis-cli")
    if tool is None:
        raise ToolFailedError("there is no redis-cli on the PATH")
    begun = time.monotonic()
    for target in bed.ids[1:]:
        _run(
            [tool, "--cluster", "reshard", bed.cluster.primaries[0].address, "--cluster-from", bed.ids[0],
             "--cluster-to", target, "--cluster-slots", str(bed.slots // 2), "--cluster-yes", *options]
        )  # fmt: skip
        bed.cluster.wait_until_healthy()
    return time.monotonic() - begun


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise ToolFailedError(
            f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout)[-800:]}"
        )


_TOOLS: dict[str, tuple[str, bool, Callable[[Bed], float]]] = {
    # name: the servers, whether the slots that move are the last of the source, how
    "redis-cli": ("path", False, redis_cli),
    "redis-cli --cluster-pipeline 100": (
        "path",
        False,
        lambda bed: redis_cli(bed, "--cluster-pipeline", "100"),
    ),
    "slotferry": ("path", True, slotferry),
    "slotferry, paused above 5 ms": (
        "path",
        True,
        lambda bed: slotferry(bed, "--pause-above-latency", "5ms"),
    ),
    "slotferry, atomic moves": ("valkey-9.1", True, slotferry),
}


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    servers, last, tool = _TOOLS[name]
    kind = on_path_or_embedded() if servers == "path" else available()[servers]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = stack.enter_context(LocalCluster(kind.binary))
        slots = list(range(5461 - options.slots, 5461) if last else range(options.slots))
        keys = keys_in(slots, options.keys // options.slots)
        fill_keys(cluster.primaries[0], keys, size=options.value_size)
        client = None
        if not options.without_client:
            client = stack.enter_context(
                LoadClient(
                    cluster.primaries[0].address,
                    keys[:: max(1, len(keys) // 20_000)],
                    folder,
                    rate=options.rate,
                )
            )
            time.sleep(1)
        before = _cpu(cluster)
        seconds = tool(Bed(cluster, options.slots, folder))
        used = _cpu(cluster) - before
        seen = client.result() if client is not None else {}
        cluster.wait_until_healthy()
        _check(cluster, slots, len(keys))
    return {
        "tool": name,
        "servers": kind.name,
        "seconds": round(seconds, 2),
        "keys_per_second": round(len(keys) / seconds),
        "servers_us_per_key": round(used / len(keys) * 1e6, 1),
        **{name: seen.get(name) for name in ("operations", "p50_ms", "p99_ms", "max_ms", "error_count")},
        "errors": seen.get("errors"),
    }


def _cpu(cluster: LocalCluster) -> float:
    """Return the CPU seconds that the servers have used."""
    total = 0.0
    for node in cluster.primaries:
        with node.client() as client:
            cpu: Any = client.info("cpu")
        total += float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"])
    return total


def _check(cluster: LocalCluster, slots: list[int], keys: int) -> None:
    owned = slots_owned(cluster)
    moved = {owned[slot] for slot in slots} - {cluster.primaries[0]}
    held = 0
    for node in cluster.primaries:
        with connect(node) as connection:
            held += connection.execute("DBSIZE")
    if (
        open_slots(cluster)
        or held != keys
        or len(moved) != 2
        or any(owned[s] is cluster.primaries[0] for s in slots)
    ):
        raise ToolFailedError(f"{held} of {keys} keys, open: {open_slots(cluster)[:5]}, owners: {len(moved)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--slots", type=int, default=3_000)
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--value-size", type=int, default=100, metavar="BYTES")
    parser.add_argument("--rate", type=float, default=200, help="operations a second of the client")
    parser.add_argument("--without-client", action="store_true")
    parser.add_argument("--tools", default="", help="parts of names, with commas: " + "; ".join(_TOOLS))
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="the median of N rounds")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    asked = [
        name for name in _TOOLS if not options.tools or any(name == part for part in options.tools.split(";"))
    ]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    for _ in range(options.rounds):
        for name in asked:
            results[name].append(measure(name, options))
    medians = {
        name: sorted(rows, key=lambda row: row["keys_per_second"])[len(rows) // 2]
        for name, rows in results.items()
    }
    if options.json:
        print(json.dumps(medians))
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{options.slots:,} slots, {options.keys:,} keys of {options.value_size} bytes, {cores} cores\n")
    columns = (
        "tool",
        "servers",
        "seconds",
        "keys_per_second",
        "servers_us_per_key",
        "p50_ms",
        "p99_ms",
        "max_ms",
        "error_count",
    )
    rows = [[str(row[column]) for column in columns] for row in medians.values()]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in [list(columns), *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    print()
    for text, reached in _goals(medians):
        print(f"{text}: {'reached' if reached else 'missed'}")


def _goals(rows: dict[str, dict[str, Any]]) -> list[tuple[str, bool]]:
    goals = []
    default = rows.get("redis-cli")
    pipelined = rows.get("redis-cli --cluster-pipeline 100")

    def times(name: str, base: dict[str, Any] | None, goal: float, words: str) -> None:
        if name in rows and base is not None:
            factor = rows[name]["keys_per_second"] / base["keys_per_second"]
            goals.append((f"{name}: {factor:.1f} times {words} (goal {goal:g})", factor >= goal))

    times("slotferry", default, 8, "redis-cli's default")
    times("slotferry", pipelined, 4, "redis-cli's pipeline of 100")
    times("slotferry, atomic moves", default, 8, "redis-cli's default")
    if default is not None and default["p99_ms"] and "slotferry" in rows:
        mine, bound = rows["slotferry"]["p99_ms"], 2 * default["p99_ms"]
        goals.append((f"p99 of the client {mine} ms (goal {bound:.3f})", mine <= bound))
    if "slotferry, paused above 5 ms" in rows and rows["slotferry, paused above 5 ms"]["p99_ms"]:
        mine = rows["slotferry, paused above 5 ms"]["p99_ms"]
        goals.append((f"p99 of the client with --pause-above-latency 5ms: {mine} ms", mine <= 5))
    return goals


if __name__ == "__main__":
    main()
