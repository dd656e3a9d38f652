"""The byte budget: large values, long names, and many scans through a small one.

Invariant: what a process took at most is what the kernel says of it when it ends.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.kinds import available
from tests.servers.raw import connect, encode

_LIMIT = "16MB"
_MOST = 116 << 20
"""What the issue allows: the budget, and 100 MB for everything else."""


# A process is charged with what the one was that it came from: so a small one stands in between.
_WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10, file=sys.stderr)
"""


def _peak(*arguments: str) -> tuple[int, int, str]:
    """Run `slotferry`; return its exit code, the bytes of memory it took at most, and its stdout."""
    command = [sys.executable, "-S", "-c", _WRAPPER, COMMAND, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    code, peak = map(int, done.stderr.split())
    return code, peak, done.stdout


@pytest.mark.timeout(60)
def test_values_larger_than_the_budget_pass_one_by_one(source: LocalServer, cluster: LocalCluster) -> None:
    rng = random.Random(3)
    with connect(source) as connection:
        for i in range(6):
            connection.execute("SET", f"huge:{i}", rng.randbytes(5_000_000))
        connection.pipeline_checked([encode("SET", f"small:{i}", i) for i in range(2_000)])

    report = migrate(source, cluster, memory_limit=1 << 20)

    assert report.ok
    assert report.keys.migrated == 2_006
    assert_equal(source, cluster, byte_equal=True)


@pytest.mark.timeout(120)
def test_long_names_count_as_values_do(source: LocalServer, cluster: LocalCluster) -> None:
    names = 150
    with connect(source) as connection:
        for i in range(names):
            connection.execute("SET", f"{i}:" + "x" * 1_000_000, i)

    code, copying, shown = _peak("migrate", source.url, cluster.url, "--memory-limit", _LIMIT)
    assert code == 0, shown
    code, comparing, shown = _peak("verify", source.url, cluster.url, "--memory-limit", _LIMIT)
    assert code == 0, shown

    # All names at once took 330 and 382 MB; batches with names twice, and commands without bound, 120 to 170.
    assert comparing < _MOST, comparing
    assert copying < _MOST, copying
    assert_equal(source, cluster)


@pytest.mark.timeout(120)
def test_a_large_value_of_a_file_is_never_held(cluster: LocalCluster, tmp_path: Path) -> None:
    fields, rng = 90_000, random.Random(5)
    file = tmp_path / "dump.rdb"
    with file.open("wb") as out:
        out.write(b"REDIS0009\xfe\x00\x04\x05large\x80" + fields.to_bytes(4, "big"))
        for i in range(fields):
            out.write(b"\x0cfield:%06d\x43\xe8" % i + rng.randbytes(1_000))
        out.write(b"\xff" + bytes(8))

    code, copying, shown = _peak("migrate", str(file), cluster.url, "--memory-limit", "8MB")
    assert code == 0, shown
    code, comparing, shown = _peak("verify", str(file), cluster.url, "--memory-limit", "8MB")
    assert code == 0, shown

    assert copying < 70 << 20, copying
    assert comparing < 70 << 20, comparing
    with cluster.client() as client:
        assert client.hlen("large") == fields


@pytest.mark.parametrize("cluster", [name for name in ("redis-6.2",) if name in available()], indirect=True)
@pytest.mark.timeout(180)
def test_a_compact_value_is_not_unfolded_to_be_translated(source: LocalServer, cluster: LocalCluster) -> None:
    """Two bytes of a small integer become some ninety of a decoded list."""
    with connect(source) as connection:
        for i in range(15):
            connection.execute("RPUSH", "list", *(j % 100 for j in range(100_000)))
            connection.execute("SADD", "set", *range(i * 100_000, (i + 1) * 100_000))
        connection.pipeline_checked([encode("SET", f"key:{i}", i) for i in range(100)])

    code, peak, shown = _peak(
        "migrate", source.url, cluster.url, "--memory-limit", _LIMIT, "--big-key-bytes", "0"
    )

    assert code == 0, shown
    assert peak < _MOST, peak  # 205 to 344 MB when it was
    assert_equal(source, cluster)


@pytest.mark.timeout(180)
def test_a_compact_value_is_not_unfolded_to_be_compared(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        for _ in range(10):
            connection.execute("RPUSH", "list", *(j % 100 for j in range(100_000)))
    assert migrate(source, cluster, big_key_bytes=0).ok
    with cluster.client() as client:
        client.lset("list", 500_000, "another")

    code, peak, shown = _peak(
        "migrate", source.url, cluster.url, "--memory-limit", _LIMIT, "--big-key-bytes", "0", "--restart"
    )

    assert code == 3, shown
    assert "conflict" in shown
    assert peak < _MOST, peak


@pytest.mark.timeout(120)
def test_more_scans_take_no_more_memory(source: LocalServer, cluster: LocalCluster) -> None:
    keys = 150_000
    with connect(source) as connection:
        connection.pipeline_checked([encode("SET", f"key:{i}", i) for i in range(keys)])

    code, peak, shown = _peak(
        "migrate", source.url, cluster.url, "--memory-limit", _LIMIT, "--parallel-scans", "1024", "--json"
    )

    assert code == 0, shown
    assert peak < _MOST, shown
