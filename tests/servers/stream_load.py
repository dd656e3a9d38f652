"""A large stream with groups, what writes it in all ways that name what they touch, and a look at it."""

from __future__ import annotations

import random
from typing import Any

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.compare import assert_equal

ENTRIES = 20_000
GROUPS = ("fast", "slow")


def fill(client: Any, count: int = ENTRIES) -> None:
    """Write the stream and its groups; some messages are pending, some of those are deleted."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(1, count + 1):
            pipe.xadd("stream", {"number": number, "text": "x" * 20}, id=f"{number}-1")
        pipe.execute()
    for group in GROUPS:
        client.xgroup_create("stream", group, "0")
        client.xreadgroup(group, "first", {"stream": ">"}, count=700)
    client.xdel("stream", "3-1", "300-1", f"{count}-1")


class Workload:
    """Writes the stream in all ways that name what they touch."""

    def __init__(self, client: Any, *, seed: int = 13) -> None:
        self._client = client
        self._random = random.Random(seed)
        self._autoclaims = True

    def __call__(self, number: int) -> None:
        client, any_of = self._client, self._random
        with client.pipeline(transaction=number % 3 == 0) as pipe:
            for _ in range(3):
                pipe.xadd("stream", {"fresh": number})
            pipe.xdel("stream", f"{any_of.randrange(ENTRIES)}-1")
            if number % 10 == 5:
                pipe.xadd("stream", {"fresh": number}, maxlen=ENTRIES, approximate=number % 20 == 5)
            if number % 50 == 7:
                pipe.xtrim("stream", minid=f"{number // 10}-1", approximate=False)
            pipe.execute()
        group = GROUPS[number % 2]
        consumer = f"consumer {any_of.randrange(5)}"
        found = client.xreadgroup(group, consumer, {"stream": ">"}, count=4, noack=number % 30 == 11)
        ids = [entry for _, entries in found for entry, _ in entries]
        self._end(number, group, ids)
        if number % 20 == 3:
            self._claim(group, f"consumer {any_of.randrange(5)}")
        if number % 100 == 9:
            self._change_groups(number, group)

    def _end(self, number: int, group: str, ids: list[Any]) -> None:
        """Acknowledge some, before or after they are deleted."""
        if not ids:
            return
        if number % 5 == 0:
            self._client.xdel("stream", ids[0])
        if number % 4 != 1:
            self._client.xack("stream", group, *ids[:3])
        if number % 7 == 0:
            self._client.xdel("stream", ids[-1])

    def _claim(self, group: str, consumer: str) -> None:
        client = self._client
        # Redis 6.2 lets deleted messages change hands, which no other server does.
        pending = client.xpending_range("stream", group, "-", "+", 20)
        ids = [entry["message_id"] for entry in pending]
        there = [entry for entry in ids if client.xrange("stream", entry, entry)]
        if there:
            client.xclaim("stream", group, consumer, 0, there[:2], justid=len(there) % 2 == 0)
            client.xclaim("stream", group, consumer, 0, there[-1:], retrycount=7)
            client.xautoclaim("stream", group, consumer, 0, start_id=there[-1], count=1)

    def _change_groups(self, number: int, group: str) -> None:
        client = self._client
        client.xgroup_delconsumer("stream", group, f"consumer {number % 5}")
        client.xgroup_createconsumer("stream", group, f"idle {number % 3}")
        client.xgroup_destroy("stream", f"new {number % 200}")
        client.xgroup_create("stream", f"new {number % 200}", "0", mkstream=True)
        client.xreadgroup(f"new {number % 200}", "reader", {"stream": ">"}, count=10)
        client.xgroup_setid("stream", "slow", "$")
        client.xgroup_destroy("stream", f"new {number % 200}")
        if number % 200 == 9:
            client.xgroup_create("stream", f"new {number % 200}", "$")
            client.expire("stream", 10_000 + number)
        else:
            client.persist("stream")


def shape(client: Any) -> Any:
    """Return what a stream holds besides its entries, as its own server tells it."""
    described = client.xinfo_stream("stream")
    keys = ("length", "last-generated-id", "entries-added", "max-deleted-entry-id")
    groups = {}
    for group in client.xinfo_groups("stream"):
        name = group["name"]
        consumers = sorted(consumer["name"] for consumer in client.xinfo_consumers("stream", name))
        pending = [
            (entry["message_id"], entry["consumer"], entry["times_delivered"])
            for entry in client.xpending_range("stream", name, "-", "+", 100_000)
        ]
        groups[name] = (group["last-delivered-id"], group.get("entries-read"), consumers, pending)
    return {key: described.get(key) for key in keys}, groups


def assert_same(source: LocalServer, cluster: LocalCluster) -> None:
    """Fail unless both sides hold the same, and the same beyond what a comparison of payloads looks at."""
    assert_equal(source, cluster)
    with source.client() as client, cluster.client() as target:
        (ours, our_groups), (theirs, their_groups) = shape(client), shape(target)
        assert our_groups.keys() == their_groups.keys()
        old = ours["entries-added"] is None
        for key, told in ours.items():
            assert told is None or theirs[key] == told, key
        for name, group in our_groups.items():
            assert [told for told in group if not old or told is not None] == [
                told for at, told in enumerate(their_groups[name]) if not old or at != 1
            ], name
