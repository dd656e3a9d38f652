"""Large keys beside small ones: how long they take, what the client holds, what the servers' slow logs say.

    .venv/bin/python tests/bench/big_keys.py [--fields 5000000] [--megabytes 400] [--keys 500000]

Runs three times: the small keys alone, with a hash, with a string. Build with `maturin develop --release`.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry import Migration, Options
from slotferry.model.events import Progress
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.dataset import fill_strings
from tests.servers.kinds import on_path_or_embedded
from tests.servers.raw import connect

_SLOW_US = 5_000


def main() -> None:
    """Run and print a line a round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=5_000_000)
    parser.add_argument("--megabytes", type=int, default=400)
    parser.add_argument("--keys", type=int, default=500_000)
    arguments = parser.parse_args()
    config = {"slowlog-log-slower-than": str(_SLOW_US), "slowlog-max-len": "1000"}
    binary = on_path_or_embedded().binary
    with LocalServer(binary, config=config) as source, LocalCluster(binary, config=config) as cluster:
        for what in ("small keys", "a hash", "a string"):
            _fill(source, what, arguments)
            for node in cluster.primaries:
                _clear(node)
            _round(source, cluster, what, arguments.keys)


def _fill(source: LocalServer, what: str, arguments: argparse.Namespace) -> None:
    _clear(source)
    with connect(source) as connection:
        if what == "a hash":
            for start in range(0, arguments.fields, 1000):
                pairs = [part for i in range(start, start + 1000) for part in (f"field:{i}", f"value {i}")]
                connection.execute("HSET", "large", *pairs)
        elif what == "a string":
            piece = random.Random(1).randbytes(1 << 20)
            connection.execute("SETRANGE", "large", (arguments.megabytes << 20) - 1, b"x")
            for at in range(arguments.megabytes):
                connection.execute("SETRANGE", "large", at << 20, piece)
        fill_strings(connection, arguments.keys)
        connection.execute("SLOWLOG", "RESET")


def _round(source: LocalServer, cluster: LocalCluster, what: str, keys: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        migration = Migration(source.url, cluster.url, Options(journal=Path(folder) / "journal.db"))
        begun = time.perf_counter()
        small_done = held = 0.0
        for event in migration.events():
            if isinstance(event, Progress):
                held = max(held, event.buffered_bytes / 1e6)
                if not small_done and event.keys.settled >= keys:
                    small_done = time.perf_counter() - begun
        report = migration.result()
    elapsed = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    slow = [entry for node in (source, *cluster.primaries) for entry in _slow(node)]
    print(
        f"{what}: {report.status} in {elapsed:.1f} s, small keys at {keys / (small_done or elapsed):,.0f}/s; "
        f"held {held:.1f} MB at most, process {peak / 1024:.0f} MB (before: {before / 1024:.0f} MB); "
        f"{len(slow)} commands over {_SLOW_US / 1000:.0f} ms, the slowest: "
        f"{', '.join(f'{name} {micros / 1000:.0f} ms' for micros, name in sorted(slow, reverse=True)[:3])}"
    )


def _slow(server: LocalServer) -> list[tuple[int, str]]:
    with server.client() as client:
        return [(e["duration"], e["command"].split()[0].decode()) for e in client.slowlog_get(1000)]


def _clear(server: LocalServer) -> None:
    with server.client() as client:
        client.flushall()
        client.slowlog_reset()


if __name__ == "__main__":
    main()
