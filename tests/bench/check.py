"""What `slotferry check` takes, and what of the source's CPU it costs meanwhile.

Invariant: the figures are wall time around the command and the source's own CPU (INFO cpu). Run as
`python tests/bench/check.py [--keys N]`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry.testing.demo import fill
from tests.bench.bed import Bed
from tests.command import run
from tests.servers.kinds import on_path_or_embedded

_WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("--sample", "0"),
    ("--full",),
    ("--full", "--scan-rate", "1e6"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    kind = on_path_or_embedded()
    with Bed(kind, kind) as bed:
        fill(bed.source, keys)
        print(f"{kind.name}, {keys:,} keys of every type")
        for options in _WAYS:
            before, begun = bed.server_cpu(), time.perf_counter()
            done = run("check", bed.source.url, bed.cluster.url, "--json", *options, timeout=3600)
            took, used = time.perf_counter() - begun, (bed.server_cpu() - before).source
            data = done.summary["data"]
            looked = data["sampled"] if data else 0
            print(
                f"check {' '.join(options):30} {looked:>9,} keys looked at  {took:6.1f} s  "
                f"{used / took:6.1%} of the source's CPU  exit {done.code}"
            )


if __name__ == "__main__":
    main()
