"""A cluster of three primaries into one of five, and three standalone sources side by side.

Invariant: both are measured in turns on the same keys and the same target, from the start of the first
process to the end of the last one. Run as `python tests/bench/cluster_source.py [--keys N] [--runs N]`.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from slotferry.testing.servers.process import is_synchronised
from tests.command import Running
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind, available, on_path_or_embedded
from tests.servers.raw import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=600_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kind", default=on_path_or_embedded().name)
    chosen = parser.parse_args()
    with contextlib.ExitStack() as stack:
        measure(stack, available()[chosen.kind], chosen.keys, chosen.runs)


def measure(stack: contextlib.ExitStack, kind: ServerKind, keys: int, runs: int) -> None:
    """Fill both sides, copy in turns, and print the rates."""
    source = stack.enter_context(LocalCluster(kind.binary, primaries=3))
    alone = [stack.enter_context(LocalServer(kind.binary)) for _ in source.primaries]
    target = stack.enter_context(LocalCluster(kind.binary, primaries=5))
    with LocalServer(kind.binary) as first:
        with connect(first) as connection:
            fill_strings(connection, keys, value_size=100)
        _copy([f"redis://{first.address}"], source)
    for node, server in zip(source.primaries, alone, strict=True):
        with connect(server) as replica:
            replica.execute("REPLICAOF", node.host, node.port)
            wait_until(lambda server=server: is_synchronised(server), "the keys to be there", timeout=120)  # type: ignore[misc]
            replica.execute("REPLICAOF", "NO", "ONE")
    rates: dict[str, list[float]] = {"cluster": [], "standalone": []}
    for _ in range(runs):
        for name, urls in (
            ("cluster", [source.url]),
            ("standalone", [f"redis://{s.address}" for s in alone]),
        ):
            _empty(target)
            rates[name].append(keys / _copy(urls, target))
            there = sum(_keys(node) for node in target.primaries)
            assert there == keys, f"{there:,} of {keys:,} keys arrived"
    for name, found in rates.items():
        print(f"{name:10} {statistics.median(found):9,.0f} keys/s  ({', '.join(f'{r:,.0f}' for r in found)})")
    print(f"ratio      {statistics.median(rates['cluster']) / statistics.median(rates['standalone']):9.2f}")


def _copy(urls: Sequence[str], target: LocalCluster) -> float:
    """Copy from all of these at once, and return how many seconds that took."""
    quiet = ("--progress", "none", "--journal")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        begun = time.monotonic()
        running = [
            stack.enter_context(Running("migrate", url, target.url, *quiet, f"{folder}/{number}.db"))
            for number, url in enumerate(urls)
        ]
        for each in running:
            done = each.finish()
            assert done.code == 0, done.stderr
        return time.monotonic() - begun


def _keys(node: LocalServer) -> int:
    with connect(node) as connection:
        return int(connection.execute("DBSIZE"))


def _empty(cluster: LocalCluster) -> None:
    for node in cluster.primaries:
        with connect(node) as connection:
            connection.execute("FLUSHALL")


if __name__ == "__main__":
    main()
