"""`key_slot` against the server's own answer."""

from __future__ import annotations

import random

from slotferry import key_slot, key_slots
from slotferry.testing.servers import LocalCluster
from tests.servers.dataset import ODD_KEYS
from tests.servers.raw import connect, encode


def test_key_slot_says_what_cluster_keyslot_says(cluster: LocalCluster) -> None:
    rng = random.Random(7)
    keys = list(ODD_KEYS)
    for _ in range(3_000):
        key = bytearray(rng.randbytes(rng.randrange(40)))
        for brace in rng.choices(b"{}", k=rng.randrange(5)):
            key.insert(rng.randrange(len(key) + 1), brace)
        keys.append(bytes(key))
    with connect(cluster.primaries[0]) as connection:
        said = connection.pipeline_checked([encode("CLUSTER", "KEYSLOT", key) for key in keys])

    assert [key_slot(key) for key in keys] == said
    assert key_slots(keys) == said
