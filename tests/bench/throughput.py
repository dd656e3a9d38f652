"""The benchmark: slotferry, redis-cli, a redis-py script and the servers' own bound, in one run.

Invariant: all figures of a table come from the same machine, the same servers and the same keys; what is
measured on fewer keys says so in its column `keys`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import tools
from tests.bench.bed import Bed
from tests.servers.kinds import ServerKind, available, embedded, on_path_or_embedded

_TOOLS = ("slotferry", "snapshot", "redis-cli", "redis-py", "bound")
_COLUMNS = {
    "tool": "tool",
    "keys": "keys",
    "keys_per_second": "keys/s",
    "client_us_per_key": "client µs/key",
    "client_us_per_key_without_start": "…without start",
    "source_us_per_key": "source µs/key",
    "cluster_us_per_key": "cluster µs/key",
    "peak_memory_mb": "peak MB",
}


def main() -> None:
    options = _arguments()
    _warn_of_debug_build()
    report = _measure(options)
    if options.json:
        print(json.dumps(report))
    else:
        _print_report(report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-size", type=int, default=100, metavar="BYTES")
    parser.add_argument("--tools", default=",".join(_TOOLS), help="a list of " + ", ".join(_TOOLS))
    parser.add_argument(
        "--sample", type=int, default=100_000, metavar="KEYS", help="at most so many keys for redis-cli"
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, metavar="MS", help="delay each way, to both sides, by a proxy"
    )
    parser.add_argument("--server", choices=["redis", "valkey"], help="default: redis-server of the PATH")
    parser.add_argument("--source-version", metavar="KIND", help="another source, such as redis-6.2")
    parser.add_argument("--memory-limit", metavar="SIZE", help="passed on to slotferry")
    parser.add_argument("--parallel-scans", metavar="N", help="passed on to slotferry")
    parser.add_argument(
        "--rounds",
        type=int,
        default=3,
        metavar="N",
        help="slotferry and bound in turns, the median of N",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.tools = options.tools.split(",")
    unknown = set(options.tools) - set(_TOOLS)
    if unknown:
        parser.error(f"--tools knows {', '.join(_TOOLS)}, not {', '.join(sorted(unknown))}")
    if options.source_version and options.source_version not in available():
        parser.error(f"--source-version: this machine has {', '.join(available())}")
    return options


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    cluster_kind = embedded() if options.server == "valkey" else on_path_or_embedded()
    source_kind: ServerKind = available().get(options.source_version, cluster_kind)
    report: dict[str, Any] = {
        "source": source_kind.name,
        "cluster": cluster_kind.name,
        "keys": options.keys,
        "value_size": options.value_size,
        "latency_ms": options.latency,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rounds": options.rounds,
        "results": {},
    }
    with Bed(source_kind, cluster_kind, delay=options.latency / 1000) as bed:
        bed.fill(options.keys, value_size=options.value_size)
        if "redis-py" in options.tools:
            report["results"]["redis-py"] = tools.run_redis_py(bed, options.keys).to_dict()
        report["results"].update(_in_turns(bed, options, report["cores"]))
        if "redis-cli" in options.tools:  # last, for it may need a smaller keyspace
            keys = min(options.keys, options.sample)
            bed.fill(keys, value_size=options.value_size)
            report["results"]["redis-cli"] = tools.run_redis_cli(bed, keys).to_dict()
    report["ratios"] = _ratios(report["results"])
    return report


def _in_turns(bed: Bed, options: argparse.Namespace, cores: int) -> dict[str, dict[str, Any]]:
    """Measure slotferry and the bound again and again, so that both meet a busy moment; return medians."""
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "slotferry": lambda: tools.run_slotferry(bed, options.keys, _passed_on(options)).to_dict(),
        "snapshot": lambda: tools.run_snapshot(bed, options.keys, _memory(options)).to_dict(),
        "bound": lambda: _bound(tools.measure_bound(bed), cores),
    }
    asked = [tool for tool in measures if tool in options.tools]
    rounds = [{tool: measures[tool]() for tool in asked} for _ in range(options.rounds)]
    return {tool: _median([results[tool] for results in rounds]) for tool in asked}


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(results, key=lambda result: float(result["keys_per_second"]))[len(results) // 2]


def _passed_on(options: argparse.Namespace) -> list[str]:
    scans = options.parallel_scans
    return [*_memory(options), *(["--parallel-scans", scans] if scans else [])]


def _memory(options: argparse.Namespace) -> list[str]:
    return ["--memory-limit", options.memory_limit] if options.memory_limit else []


def _bound(cpu: dict[str, float], cores: int) -> dict[str, Any]:
    per_key = {name: cpu[name] / cpu["keys"] * 1e6 for name in ("scan", "dump_pttl", "restore")}
    return {
        "tool": "bound",
        "keys": int(cpu["keys"]),
        "keys_per_second": round(cores * 1e6 / sum(per_key.values())),
        "one_source_keys_per_second": round(1e6 / (per_key["scan"] + per_key["dump_pttl"])),
        "source_us_per_key": round(per_key["scan"] + per_key["dump_pttl"], 3),
        "cluster_us_per_key": round(per_key["restore"], 3),
        **{f"{name}_us_per_key": round(value, 3) for name, value in per_key.items()},
    }


def _ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    mine = results.get("slotferry")
    if mine is None:
        return {}
    client = mine["client_us_per_key_without_start"]
    servers = mine["source_us_per_key"] + mine["cluster_us_per_key"]
    ratios = {
        "engine_us_per_key": client,
        "engine_share_of_servers_cpu": round(client / servers, 4),
        "peak_memory_mb": mine["peak_memory_mb"],
    }
    for other, name in (
        ("bound", "of_bound"),
        ("snapshot", "to_snapshot"),
        ("redis-cli", "to_redis_cli"),
        ("redis-py", "to_redis_py"),
    ):
        if other in results:
            ratios[name] = round(mine["keys_per_second"] / results[other]["keys_per_second"], 3)
    return ratios


_GOALS: tuple[tuple[str, str, str, Callable[[float], bool]], ...] = (
    ("of_bound", "of the server bound", "≥ 0.8", lambda value: value >= 0.8),
    ("to_redis_cli", "times redis-cli --cluster import", "≥ 25", lambda value: value >= 25),
    ("to_redis_py", "times the redis-py script", "≥ 6", lambda value: value >= 6),
    (
        "engine_us_per_key",
        "µs of client CPU a key, start of the process apart",
        "≤ 0.5",
        lambda value: value <= 0.5,
    ),
    ("engine_share_of_servers_cpu", "of the servers' CPU", "≤ 0.1", lambda value: value <= 0.1),
    ("peak_memory_mb", "MB peak memory", "≤ 150", lambda value: value <= 150),
)


def _print_report(report: dict[str, Any]) -> None:
    print(
        f"{report['keys']:,} strings of {report['value_size']} bytes, {report['source']} → "
        f"three primaries of {report['cluster']}, {report['cores']} cores, "
        f"{report['latency_ms']:g} ms each way, median of {report['rounds']}\n"
    )
    rows = [[_shown(row.get(name)) for name in _COLUMNS] for row in report["results"].values()]
    widths = [max(len(row[i]) for row in [[*_COLUMNS.values()], *rows]) for i in range(len(_COLUMNS))]
    for row in [[*_COLUMNS.values()], *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    if bound := report["results"].get("bound"):
        print(
            f"\nbound: SCAN {bound['scan_us_per_key']}, DUMP + PTTL {bound['dump_pttl_us_per_key']}, RESTORE "
            f"{bound['restore_us_per_key']} µs a key; one source process alone ends at "
            f"{bound['one_source_keys_per_second']:,} keys/s"
        )
    print()
    for name, words, goal, reached in _GOALS:
        if name in report["ratios"]:
            value = report["ratios"][name]
            print(f"{value:>9g} {words} (goal {goal}: {'reached' if reached(value) else 'missed'})")


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:,}"


def _warn_of_debug_build() -> None:
    found = importlib.util.find_spec("slotferry._core")
    if found and found.origin and b".debug_line\0" in Path(found.origin).read_bytes():
        print("slotferry._core is a debug build: run `maturin develop --release` first", file=sys.stderr)


if __name__ == "__main__":
    main()
