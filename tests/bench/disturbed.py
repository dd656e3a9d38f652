"""How soon keys flow after the cluster is ok again, and the rate of a run under a steady reshard.

Invariant: the instant of "ok" is the cluster's own (cluster_state of every node), that of "flow" is when the
run has acknowledged another key; with and without the reshard the same keys go the same way, in turn. Run as
`python tests/bench/disturbed.py [--keys N] [--rounds N]`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry import Migration, Options
from slotferry.model.events import Progress
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.servers.dataset import fill_strings
from tests.servers.kinds import on_path_or_embedded
from tests.servers.raw import connect

_TENTH = 1_638
_CONFIG = {"appendonly": "yes", "cluster-node-timeout": "1500"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    binary = on_path_or_embedded().binary
    with LocalServer(binary) as source, tempfile.TemporaryDirectory() as folder:
        with connect(source) as connection:
            fill_strings(connection, given.keys)
        journal = Path(folder) / "journal.db"
        with LocalCluster(binary, config=_CONFIG) as cluster:
            for killed in [1, 3] * given.rounds:
                took = recovery(source, cluster, journal, killed)
                print(f"{killed} of 3 primaries restarted: keys flow {took:.2f} s after ok", flush=True)
        rates: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(given.rounds):
            for resharded in (False, True):
                with LocalCluster(binary) as cluster:
                    rate, moved = throughput(source, cluster, journal, resharded=resharded)
                rates[resharded].append(rate)
                what = f"while {moved} slots moved" if resharded else "undisturbed"
                print(f"{rate:,.0f} keys/s {what}", flush=True)
        kept = statistics.median(rates[True]) / statistics.median(rates[False])
        print(f"under the reshard: {kept:.0%} of the undisturbed rate (medians)")


def recovery(source: LocalServer, cluster: LocalCluster, journal: Path, killed: int) -> float:
    """Kill primaries under a run, start them again, and return the seconds from ok to the next key."""
    _empty(cluster)
    seen: list[tuple[float, int]] = []
    options = Options(journal=journal, restart=True, max_keys_per_second=8_000)
    with Migration(source.url, cluster.url, options) as migration:
        events = migration.events()

        def follow() -> None:
            seen.extend((time.monotonic(), e.keys.migrated) for e in events if isinstance(e, Progress))

        threading.Thread(target=follow, daemon=True).start()
        wait_until(lambda: bool(seen) and seen[-1][1] > 10_000, "keys to flow")
        for node in cluster.primaries[:killed]:
            node.kill()
        wait_until(lambda: len(seen) > 50 and seen[-1][1] == seen[-30][1], "keys to flow no more", timeout=60)
        for node in cluster.primaries[:killed]:
            node.start()
        wait_until(
            lambda: all(_is_ok(node) for node in cluster.primaries), "the cluster to be ok", timeout=60
        )
        ok = time.monotonic()
        before = next(keys for at, keys in reversed(seen) if at <= ok)
        wait_until(lambda: seen[-1][1] > before, "keys to flow again", timeout=60)
        first = next(at for at, keys in seen if keys > before)
        migration.cancel(immediately=True)
    return max(0.0, first - ok)


def throughput(
    source: LocalServer, cluster: LocalCluster, journal: Path, *, resharded: bool
) -> tuple[float, int]:
    """Return the keys/s of a whole run, and how many slots redis-cli moved meanwhile."""
    moved = 0
    done = threading.Event()

    def reshard() -> None:
        nonlocal moved
        here, there = cluster.primaries[:2]
        while not done.is_set():
            step = 25
            command = ["redis-cli", "--cluster", "reshard", here.address, "--cluster-yes"]
            command += ["--cluster-from", _id(here), "--cluster-to", _id(there), "--cluster-slots", str(step)]
            subprocess.run(command, check=True, capture_output=True)
            moved += step
            if moved % _TENTH < step:
                here, there = there, here

    thread = threading.Thread(target=reshard)
    if resharded:
        thread.start()
    try:
        report = Migration(source.url, cluster.url, Options(journal=journal, restart=True)).run()
    finally:
        done.set()
        if resharded:
            thread.join()
    assert report.ok, report
    return report.keys_per_second, moved


def _empty(cluster: LocalCluster) -> None:
    for node in cluster.primaries:
        with node.client() as client:
            client.flushall()
    cluster.wait_until_healthy()


def _is_ok(node: LocalServer) -> bool:
    with node.client(socket_timeout=5) as client:
        text: bytes = client.execute_command("CLUSTER", "INFO")
    return b"cluster_state:ok" in text


def _id(node: LocalServer) -> str:
    with connect(node) as connection:
        return str(connection.execute("CLUSTER", "MYID").decode())


if __name__ == "__main__":
    main()
