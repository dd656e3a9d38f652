"""What a second run copies after the first was ended by `kill -9` at half-way.

Invariant: the figures are the servers' own: DBSIZE for what the first run wrote, the calls of RESTORE in
INFO commandstats for what the second run sent. Run as `python tests/bench/resume.py [--keys N]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from slotferry.testing.servers import LocalServer
from tests.bench.bed import Bed
from tests.command import Running, run
from tests.servers.kinds import on_path_or_embedded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    keys = parser.parse_args().keys
    kind = on_path_or_embedded()
    with Bed(kind, kind) as bed, tempfile.TemporaryDirectory() as folder:
        bed.fill(keys, value_size=100)
        urls = [f"redis://{bed.source_address}", f"redis+cluster://{bed.seed_address}"]
        command = ["migrate", *urls, "--journal", str(Path(folder) / "journal.db"), "--json"]
        with Running(*command) as first:
            while bed.keys_in_cluster() < keys // 2 and not first.ended:
                pass
            first.kill()
        written = bed.keys_in_cluster()
        _reset_statistics(bed)
        summary = run(*command).summary
        sent = sum(_writes(node) for node in bed.cluster.primaries)
        there = bed.keys_in_cluster()
    print(f"{written:,} of {keys:,} keys were written when the first run was killed")
    print(f"{sent:,} keys were sent by the second run: {sent - (keys - written):,} more than were missing")
    print(
        f"{there:,} keys are in the cluster; the second run ended as {summary['status']}: {summary['keys']}"
    )


def _reset_statistics(bed: Bed) -> None:
    for node in bed.cluster.primaries:
        with node.client() as client:
            client.config_resetstat()


def _writes(node: LocalServer) -> int:
    with node.client() as client:
        statistics: Any = client.info("commandstats")
    return sum(int(statistics.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("restore", "set"))


if __name__ == "__main__":
    main()
