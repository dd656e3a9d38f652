"""The benchmark of `slotferry verify`: its rate beside migrate's on the same keys, engine CPU a key, memory.

Invariant: both run against the same servers and the same keys, in turns, so that both meet a busy moment; and
a verification counts only if it found every key equal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench import tools
from tests.bench.bed import Bed
from tests.servers.dataset import fill
from tests.servers.kinds import available, on_path_or_embedded
from tests.servers.raw import connect

_COLUMNS = ("run", "keys/s", "engine µs/key", "client µs/key", "peak MB", "of migrate")


def main() -> None:
    options = _arguments()
    kinds = available()
    cluster = kinds[options.target_version] if options.target_version else on_path_or_embedded()
    source = kinds[options.source_version] if options.source_version else cluster
    with Bed(source, cluster) as bed:
        if options.types:
            with connect(bed.source) as connection:
                keys = fill(connection, options.keys)
        else:
            bed.fill(options.keys, value_size=options.value_size)
            keys = options.keys
        rounds = [_round(bed, keys) for _ in range(options.rounds)]
    results = {name: _median([one[name] for one in rounds]) for name in rounds[0]}
    for result in results.values():
        result["of_migrate"] = round(result["keys_per_second"] / results["migrate"]["keys_per_second"], 3)
    report = {"source": source.name, "cluster": cluster.name, "keys": keys, "results": results}
    print(json.dumps(report) if options.json else _table(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--value-size", type=int, default=100, metavar="BYTES")
    parser.add_argument("--types", action="store_true", help="keys of all types instead of strings")
    parser.add_argument("--source-version", choices=list(available()), help="default: the target's")
    parser.add_argument(
        "--target-version", choices=list(available()), help="default: redis-server of the PATH"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="the median of N")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _round(bed: Bed, keys: int) -> dict[str, dict[str, Any]]:
    bed.empty_cluster()
    results = {}
    for name in ("migrate", "verify", "verify --quick"):
        done, summary = _run(bed, name)
        same = summary["keys"].get("equal", keys)
        if summary["status"] != "completed" or same != keys:
            raise tools.ToolFailedError(f"{name} ended with {summary}")
        results[name] = {
            "keys_per_second": summary["keys_per_second"],
            "engine_us_per_key": round(summary["engine_cpu_seconds"] / keys * 1e6, 3),
            "client_us_per_key": round(done.cpu / keys * 1e6, 3),
            "peak_memory_mb": round(done.peak_memory / 1e6, 1),
        }
    return results


# A process of its own, so that its CPU time and peak memory are the run's alone.
_SCRIPT = """
import json, sys
from slotferry import Migration, Options, Verification, VerifyOptions
name, source, target, journal = sys.argv[1:]
if name == "migrate":
    report = Migration(source, target, Options(journal=journal)).run()
else:
    report = Verification(source, target, VerifyOptions(journal=journal, quick="quick" in name)).run()
print(json.dumps({**report.to_dict(), "engine_cpu_seconds": report.engine_cpu_seconds}))
"""


def _run(bed: Bed, name: str) -> tuple[tools.Finished, dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        urls = [f"redis://{bed.source_address}", f"redis+cluster://{bed.seed_address}"]
        journal = os.path.join(folder, "journal.db")
        done = tools.run_measured([sys.executable, "-c", _SCRIPT, name, *urls, journal])
    return done, json.loads(done.stdout)


def _median(results: list[dict[str, Any]]) -> dict[str, Any]:
    return sorted(results, key=lambda result: float(result["keys_per_second"]))[len(results) // 2]


def _table(report: dict[str, Any]) -> str:
    rows = [_COLUMNS]
    for name, one in report["results"].items():
        figures = (one["engine_us_per_key"], one["client_us_per_key"], one["peak_memory_mb"])
        rows.append((name, f"{one['keys_per_second']:,.0f}", *map(str, figures), f"{one['of_migrate']:.0%}"))
    head = f"{report['keys']:,} keys, {report['source']} to {report['cluster']}"
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
