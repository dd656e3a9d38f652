"""Runs `load.py` beside a test, and fills clusters for it.

Invariant: the client runs in a process and a session of its own, so that its latencies are not the test's.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.raw import chunked, connect, encode

_LOAD = Path(__file__).with_name("load.py")


class LoadClient:
    """A reading and writing client; a context manager. `result` ends it and says what it saw."""

    def __init__(self, seed: str, keys: list[str], folder: Path, *, rate: float = 200) -> None:
        file = folder / "load-keys.txt"
        file.write_text("\n".join(keys))
        self._process = subprocess.Popen(
            [sys.executable, str(_LOAD), seed, str(file), str(rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Linux shares processors out by session: it must not wait for the test's
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def __enter__(self) -> LoadClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def result(self) -> dict[str, Any]:
        out, _ = self._process.communicate(timeout=120)
        report: dict[str, Any] = json.loads(out.splitlines()[-1])
        return report


@functools.cache
def tags() -> dict[int, str]:
    """Return for each slot a hash tag that lies in it."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < 16384:
        found.setdefault(key_slot(b"%d" % number), str(number))
        number += 1
    return found


def keys_in(slots: list[int], per_slot: int) -> list[str]:
    """Return names of keys, so many in each of the slots."""
    known = tags()
    return [f"{{{known[slot]}}}:{i}" for slot in slots for i in range(per_slot)]


def fill_keys(node: LocalServer, keys: list[str], *, size: int = 100) -> None:
    """Set the keys on the node that owns them; each is a string of `size` digits' worth of bytes."""
    with connect(node) as connection:
        value = "0" * size
        for chunk in chunked(encode("SET", key, value) for key in keys):
            assert all(reply == b"OK" or reply == "OK" for reply in connection.pipeline(chunk)), "refused"


def slots_owned(cluster: LocalCluster) -> dict[int, LocalServer]:
    """Return who owns each slot, as the owners say it themselves."""
    owned: dict[int, LocalServer] = {}
    for node in cluster.nodes:
        if not node.running:
            continue
        with connect(node) as connection:
            text = connection.execute("CLUSTER", "NODES").decode()
        for line in text.splitlines():
            (
                _,
                _,
                flags,
                *_,
            ) = line.split()
            if "myself" not in flags or "master" not in flags:
                continue
            for part in line.split()[8:]:
                if not part.startswith("["):
                    first, _, last = part.partition("-")
                    owned.update((slot, node) for slot in range(int(first), int(last or first) + 1))
    return owned


def open_slots(cluster: LocalCluster) -> list[str]:
    """Return what is open, on whichever node."""
    found = []
    for node in cluster.nodes:
        if node.running:
            with connect(node) as connection:
                text = connection.execute("CLUSTER", "NODES").decode()
            found += [part for line in text.splitlines() for part in line.split()[8:] if part.startswith("[")]
    return found
