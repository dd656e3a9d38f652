"""Following a live source: does it keep up, how far behind is it, and what does it cost whom.

    .venv/bin/python tests/bench/follow.py [--keys N] [--seconds S] [--touched N] [--cutovers N]

Invariant: the lag is seen from outside: a key that is written at the source every so often, and when it
is at the target. CPU is the operating system's for each process; what a plain replica costs the source is
measured in the same run. Build with `maturin develop --release`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry.testing.servers import LocalServer, wait_until
from tests.bench.bed import Bed
from tests.command import Running, run
from tests.servers.kinds import available, on_path_or_embedded
from tests.servers.raw import connect, encode

_WRITER = Path(__file__).with_name("paced_writer.py")
_PROBE_SECONDS = 0.02
_CUTOVER_RATE = 5_000  # writes a second
_PROBE = "probe:lag"
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run what is asked for and print it."""
    options = _arguments()
    kinds = available()
    cluster_kind = on_path_or_embedded()
    source_kind = kinds.get(options.source_version, cluster_kind)
    report: dict[str, Any] = {"source": source_kind.name, "cluster": cluster_kind.name, "keys": options.keys}
    with Bed(source_kind, cluster_kind) as bed:
        for name, value in (("repl-backlog-size", 1 << 30), ("save", "")):
            with bed.source.client() as client:
                client.config_set(name, value)
        alone = _alone(bed, options.keys)
        report["alone_writes_per_second"] = round(alone)
        for distribution in ("uniform", "zipf") if options.seconds else ():
            rate = options.rate or alone * options.share
            report[distribution] = _keep_up(bed, options, rate, distribution)
        if options.cutovers:
            report["cutovers"] = _cut_over_again_and_again(bed, options)
        if options.touched:
            report["touched"] = _many_touched(bed, options.touched)
    print(json.dumps(report) if options.json else _shown(report))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000, help="that the writes are spread over")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement; 0: none")
    parser.add_argument("--share", type=float, default=0.5, help="of what redis-benchmark writes alone")
    parser.add_argument("--rate", type=float, default=0.0, help="writes a second, instead of --share")
    parser.add_argument(
        "--touched", type=int, default=0, metavar="KEYS", help="touch so many while it is paused"
    )
    parser.add_argument("--cutovers", type=int, default=0, metavar="N", help="so many, under 5,000 writes/s")
    parser.add_argument(
        "--large", type=int, default=0, metavar="MEMBERS", help="of large keys that never rest"
    )
    parser.add_argument("--source-version", metavar="KIND", help="another source, such as redis-6.2")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _alone(bed: Bed, keys: int) -> float:
    """Return the writes a second of `redis-benchmark -P 16`, nothing else being there."""
    tool = shutil.which("redis-benchmark") or shutil.which("valkey-benchmark")
    if tool is None:
        raise SystemExit("there is no redis-benchmark on the PATH")
    port = str(bed.source.port)
    command = [tool, "-h", bed.source.host, "-p", port, "-P", "16", "-t", "set", "-r", str(keys)]
    done = subprocess.run(
        [*command, "-n", "2000000", "-d", "100", "--csv"], capture_output=True, text=True, check=True
    )
    match = re.search(r'^"SET","([0-9.]+)"', done.stdout, re.MULTILINE)
    if match is None:
        raise SystemExit(f"redis-benchmark says {done.stdout[-300:]}")
    return float(match[1])


def _keep_up(bed: Bed, options: argparse.Namespace, rate: float, distribution: str) -> dict[str, Any]:
    load = (str(rate), str(options.seconds), "--keys", str(options.keys), "--distribution", distribution)
    bed.fill(options.keys, value_size=100)
    by_none, _ = _source_cpu(bed, lambda: _write(bed, *load))
    with _replica(bed):
        by_replica, _ = _source_cpu(bed, lambda: _write(bed, *load))
    bed.fill(options.keys, value_size=100)
    bed.empty_cluster()
    with _following(bed) as (running, journal), _lag(bed) as lags:
        follow = _live(journal)
        begun, copied = _process_cpu(running.pid), _calls(bed)
        by_us, done = _source_cpu(bed, lambda: _write(bed, *load))
        wait_until(lambda: _live(journal)["touched"] == 0, "it does not come to an end", timeout=120)
        used, copied = _process_cpu(running.pid) - begun, _calls(bed) - copied
        writes = _live(journal)["writes"] - follow["writes"]
        peak = _peak(running.pid)
    return {
        "writes_per_second": round(done["writes"] / done["seconds"]),
        "writes": writes,
        "copied": copied,
        "lag_p50": round(_percentile(lags, 50), 3),
        "lag_p99": round(_percentile(lags, 99), 3),
        "lag_worst": round(max(lags), 3),
        "engine_us_per_write": round(used / writes * 1e6, 3),
        "engine_us_per_copied_key": round(used / copied * 1e6, 3),
        "source_us_per_copied_key": round((by_us - by_none) / copied * 1e6, 3),
        "source_us_per_copied_key_over_a_replica": round((by_us - by_replica) / copied * 1e6, 3),
        "peak_memory_mb": round(peak / 1e6, 1),
    }


def _many_touched(bed: Bed, keys: int) -> dict[str, Any]:
    """Touch so many keys while nothing may be written to the target, then let it catch up."""
    bed.fill(1000, value_size=10)
    bed.empty_cluster()
    with _following(bed) as (running, journal):
        before = _memory(running.pid)
        _control(journal, "pause")
        _write(bed, "0", "0", "--keys", str(keys), "--value-size", "10")
        wait_until(lambda: _live(journal)["touched"] >= keys, "the writes do not come", timeout=600)
        most = _peak(running.pid)
        began = time.monotonic()
        _control(journal, "resume")
        wait_until(lambda: _live(journal)["touched"] == 0, "it does not catch up", timeout=1200)
        seconds = time.monotonic() - began
        peak = _peak(running.pid)
        if bed.keys_in_cluster() < keys:
            raise SystemExit(f"{bed.keys_in_cluster():,} of {keys:,} keys are at the target")
    return {
        "keys": keys,
        "memory_mb_before": round(before / 1e6, 1),
        "memory_mb_with_all": round(most / 1e6, 1),
        "peak_memory_mb": round(peak / 1e6, 1),
        "copied_per_second": round(keys / seconds),
    }


def _cut_over_again_and_again(bed: Bed, options: argparse.Namespace) -> dict[str, Any]:
    """Return for how long writes were stopped, with the touched keys compared."""
    stops, checked = [], []
    load = (str(_CUTOVER_RATE), "600", "--keys", str(options.keys))
    for _ in range(options.cutovers):
        bed.fill(options.keys, value_size=100)
        if options.large:
            _add_large_keys(bed, options.large)
        bed.empty_cluster()
        with _following(bed) as (running, journal), _busy_large_keys(bed, options.large):
            writer = subprocess.Popen([sys.executable, str(_WRITER), bed.source.address, *load])
            try:
                _wait_written(journal, _CUTOVER_RATE)
                job = ("bench", "--journal", str(journal), "--json", "--hold", "1s", "--within", "60s")
                done = run("cutover", *job)
            finally:
                writer.kill()
                writer.wait()
            report = done.lines[-1]
            if done.code or report["outcome"] != "cut_over" or running.finish().code:
                raise SystemExit(f"no cut-over: {done.stderr or report}")
            stops.append(report["write_stop_ms"])
            checked.append(report["checked"])
    return {
        "times": len(stops),
        "writes_stopped_ms_median": round(statistics.median(stops), 1),
        "writes_stopped_ms_worst": round(max(stops), 1),
        "keys_compared_median": round(statistics.median(checked)),
    }


def _wait_written(journal: Path, writes: int) -> None:
    wait_until(lambda: _live(journal)["writes"] > writes, "no writes", timeout=60)


def _add_large_keys(bed: Bed, members: int) -> None:
    with connect(bed.source) as connection:
        for at in range(0, members, 1000):
            span = range(at, min(members, at + 1000))
            connection.pipeline_checked(
                [
                    encode("ZADD", "large:zset", *(part for n in span for part in (n, f"member:{n}"))),
                    encode("HSET", "large:hash", *(part for n in span for part in (f"field:{n}", n))),
                    encode("RPUSH", "large:list", *span),
                    *(encode("XADD", "large:stream", f"{n + 1}-1", "n", n) for n in span),
                ]
            )
        for group in ("one", "two"):
            connection.execute("XGROUP", "CREATE", "large:stream", group, "0")


@contextlib.contextmanager
def _busy_large_keys(bed: Bed, members: int) -> Iterator[None]:
    """Write to each of them two hundred times a second."""
    stop = threading.Event()

    def write() -> None:
        chosen = random.Random(1)
        with connect(bed.source) as connection:
            while not stop.wait(0.005):
                n = chosen.randrange(members)
                connection.pipeline_checked(
                    [
                        encode("ZINCRBY", "large:zset", 1, f"member:{n}"),
                        encode("HINCRBY", "large:hash", f"field:{n}", 1),
                        encode("LMOVE", "large:list", "large:list", "LEFT", "RIGHT"),
                        encode("XADD", "large:stream", "*", "n", n),
                        encode("XREADGROUP", "GROUP", "one", "c", "COUNT", 1, "STREAMS", "large:stream", ">"),
                    ]
                )

    thread = threading.Thread(target=write)
    if members:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if members:
            thread.join()


@contextlib.contextmanager
def _following(bed: Bed) -> Iterator[tuple[Running, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.db"
        urls = (f"redis://{bed.source_address}", f"redis+cluster://{bed.seed_address}")
        options = ("--follow", "--progress", "none", "--journal", str(journal), "--job", "bench")
        with Running("migrate", *urls, *options) as running:

            def follows() -> bool:
                if running.ended:
                    raise SystemExit(running.finish().stderr)
                return bool(_show(journal).get("state") == "following")

            wait_until(follows, "it does not come to follow", timeout=300)
            yield running, journal


def _show(journal: Path) -> dict[str, Any]:
    lines = run("jobs", "show", "bench", "--journal", str(journal), "--json").lines
    return next((line for line in lines if line["type"] == "live"), {})


def _live(journal: Path) -> dict[str, Any]:
    follow: dict[str, Any] = _show(journal)["follow"]
    return follow


def _control(journal: Path, what: str) -> None:
    done = run("jobs", what, "bench", "--journal", str(journal))
    if done.code:
        raise SystemExit(done.stderr)


def _write(bed: Bed, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(_WRITER), bed.source.address, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


@dataclass
class _Probe:
    """Writes a number at the source and waits until it is at the target, again and again."""

    bed: Bed
    stop: threading.Event
    lags: list[float]

    def run(self) -> None:
        with self.bed.source.client() as source, self.bed.cluster.client() as target:
            number = 0
            while not self.stop.is_set():
                number += 1
                began = time.perf_counter()
                source.set(_PROBE, number)
                while not self.stop.is_set() and int(target.get(_PROBE) or 0) < number:
                    time.sleep(0.002)
                self.lags.append(time.perf_counter() - began)
                self.stop.wait(_PROBE_SECONDS)


@contextlib.contextmanager
def _lag(bed: Bed) -> Iterator[list[float]]:
    probe = _Probe(bed, threading.Event(), [])
    thread = threading.Thread(target=probe.run)
    thread.start()
    try:
        yield probe.lags
    finally:
        probe.stop.set()
        thread.join()


@contextlib.contextmanager
def _replica(bed: Bed) -> Iterator[LocalServer]:
    """Attach a plain replica, and wait until it has what the source has."""
    server = LocalServer(on_path_or_embedded().binary, config={"save": "''"})
    with server as replica, replica.client() as client:
        client.replicaof(bed.source.host, bed.source.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", "it copies", timeout=120)
        yield replica


def _source_cpu(bed: Bed, work: Callable[[], dict[str, Any]]) -> tuple[float, dict[str, Any]]:
    before = bed.server_cpu().source
    done = work()
    return bed.server_cpu().source - before, done


def _process_cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _status(pid: int, name: str) -> int:
    match = re.search(rf"^{name}:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    if match is None:
        raise SystemExit(f"the system does not tell {name}")
    return int(match[1]) * 1024


def _peak(pid: int) -> int:
    return _status(pid, "VmHWM")


def _memory(pid: int) -> int:
    return _status(pid, "VmRSS")


def _calls(bed: Bed) -> int:
    """Return how many keys were written to the cluster."""
    total = 0
    for node in bed.cluster.primaries:
        with connect(node) as connection:
            told = connection.execute("INFO", "commandstats").decode()
        total += sum(
            int(calls) for calls in re.findall(r"^cmdstat_(?:restore|set):calls=([0-9]+)", told, re.MULTILINE)
        )
    return total


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _shown(report: dict[str, Any]) -> str:
    lines = []
    for name, value in report.items():
        if isinstance(value, dict):
            lines += ["", name, *(f"{key:>42}  {figure:,}" for key, figure in value.items())]
        else:
            lines.append(f"{name:>42}  {value:,}" if isinstance(value, int) else f"{name:>42}  {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
