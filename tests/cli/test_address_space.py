"""A process whose address space is limited is refused at the start, or does its work: never an abort."""

from __future__ import annotations

import random
import re
import subprocess

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND, Outcome
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.raw import connect

_LIMITED = 'ulimit -v "$1"; shift; exec "$@"'


def _run(kilobytes: int, *arguments: str) -> Outcome:
    command = ["sh", "-c", _LIMITED, "sh", str(kilobytes), COMMAND, *arguments]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=120, check=False)
    return Outcome(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_too_little_address_space_is_refused_at_the_start(
    source: LocalServer, cluster: LocalCluster, command: str
) -> None:
    with source.client() as client:
        client.set("key", "value")

    done = _run(200_000, command, source.url, cluster.url)

    assert done.code == 4, done.stderr
    assert "the address space is limited to 204 MB (ulimit -v)" in done.stderr
    assert "Traceback" not in done.stderr
    assert count_keys(cluster) == 0


def test_what_is_said_to_be_enough_is(source: LocalServer, cluster: LocalCluster) -> None:
    rng = random.Random(1)
    with connect(source) as connection:
        for i in range(100):
            connection.execute("SET", f"key:{i}", rng.randbytes(1_000_000))
    refused = _run(200_000, "migrate", source.url, cluster.url)
    needed = re.search(r"may need (\d+) MB", refused.stderr)
    assert needed, refused.stderr

    done = _run(int(needed[1]) * 1000 + 1000, "migrate", source.url, cluster.url)

    assert done.code == 0, done.stderr
    assert_equal(source, cluster)
