"""What has to be true after every fault: the common end check.

Invariant: it shares no code with the engine. The target equals the source for every key that the writer left
alone, byte for byte and with its TTL; each of the target's keys is where its slot is and nowhere else; no
slot is open; the counts add up.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from redis.crc import key_slot

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.compare import Comparison, compare
from tests.servers.raw import RawConnection, connect

_SLOTS = 16_384
_SHOWN = 10


def check_ending(
    source: LocalServer,
    cluster: LocalCluster,
    summary: dict[str, Any],
    touched: Collection[bytes] = (),
    *,
    byte_equal: bool = True,
) -> Comparison:
    """Fail with what is not as it has to be. `byte_equal`: no server has loaded its keys anew meanwhile."""
    keys = summary["keys"]
    outcomes = ("migrated", "unchanged", "skipped", "expired", "vanished", "pending", "failed")
    assert keys["scanned"] == sum(keys[outcome] for outcome in outcomes), keys
    assert (keys["pending"], keys["failed"], summary["status"]) == (0, 0, "completed"), summary
    cluster.wait_until_healthy()
    problems = _slots_and_places(cluster)
    comparison = compare(source, cluster, byte_equal=byte_equal, ignore=touched)
    problems += comparison.problems
    shown = "\n".join(problems[:_SHOWN])
    assert not problems, f"{len(problems)} problems, the first are:\n{shown}"
    return comparison


def _slots_and_places(cluster: LocalCluster) -> list[str]:
    problems: list[str] = []
    served = 0
    for node in cluster.nodes:
        if not node.running:
            continue
        with connect(node) as connection:
            mine, open_slots = _own_slots(connection)
            served += len(mine)
            problems += [f"{node.address} has the open slot {slot}" for slot in open_slots]
            if not mine and connection.execute("ROLE")[0] != b"master":
                continue
            problems += [
                f"{key!r:.80} of slot {key_slot(key)} is at {node.address}, which does not own it"
                for key in _keys(connection)
                if key_slot(key) not in mine
            ]
    if served != _SLOTS:
        problems.append(f"{served} slots are served")
    return problems


def _own_slots(connection: RawConnection) -> tuple[set[int], list[str]]:
    """Return the slots of the node that is asked, and those that it holds open."""
    text = connection.execute("CLUSTER", "NODES").decode()
    line = next(line for line in text.splitlines() if "myself" in line)
    slots: set[int] = set()
    for part in line.split()[8:]:
        if part.startswith("["):
            continue
        first, _, last = part.partition("-")
        slots.update(range(int(first), int(last or first) + 1))
    return slots, re.findall(r"\[[^\]]*\]", line)


def _keys(connection: RawConnection) -> set[bytes]:
    keys: set[bytes] = set()
    cursor = b"0"
    while True:
        cursor, page = connection.execute("SCAN", cursor, "COUNT", 1000)
        keys.update(page)
        if cursor == b"0":
            return keys
