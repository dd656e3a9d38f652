"""Large sets, sorted sets and hashes that never rest: copied once, then followed by their elements."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from slotferry._core import EventKind
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")
WITH_FIELD_TTLS = ("redis-8.0", "valkey-9.1")

LARGE = 100_000
"""Bytes from which on the tests copy a key in chunks."""

ELEMENTS = 30_000
WHOLE = ("zscan", "hscan", "sscan")
"""What reads a large key whole; elements are read by their names."""

KEYS = {b"zset": "followed zset", b"hash": "followed hash", b"set": "followed set"}


def fill(client: Any, count: int = ELEMENTS) -> None:
    """Write the three keys."""
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, count, 1000):
            numbers = range(start, start + 1000)
            pipe.zadd("zset", {f"member {number}": number for number in numbers})
            pipe.hset("hash", mapping={f"field {number}": f"value {number}" for number in numbers})
            pipe.sadd("set", *(f"member {number}" for number in numbers))
        pipe.execute()


class Workload:
    """Writes elements of the three keys; with `ttls`, expiries of fields as well."""

    def __init__(self, client: Any, *, ttls: bool = False) -> None:
        self._client = client
        self._ttls = ttls
        self._random = random.Random(13)

    def __call__(self, number: int) -> None:
        any_of, fresh = self._random.randrange(ELEMENTS), f"fresh {number}"
        with self._client.pipeline(transaction=number % 3 == 0) as pipe:
            self._sorted_set(pipe, number, any_of, fresh)
            self._hash(pipe, number, any_of, fresh)
            self._set(pipe, number, any_of, fresh)
            if number % 50 == 0:
                pipe.pexpire("zset", 10_000_000 + number)
            elif number % 50 == 25:
                pipe.persist("zset")
            pipe.execute()

    def _sorted_set(self, pipe: Any, number: int, any_of: int, fresh: str) -> None:
        if number % 4 == 0:
            pipe.zadd("zset", {fresh: number, f"member {any_of}": -number})
        elif number % 4 == 1:
            pipe.zincrby("zset", 1.5, f"member {any_of}")
        elif number % 4 == 2:
            pipe.zrem("zset", f"member {any_of}", "nobody")
        else:
            pipe.geoadd("zset", (13.4, 52.5, f"member {any_of}"))

    def _hash(self, pipe: Any, number: int, any_of: int, fresh: str) -> None:
        field = f"field {any_of}"
        if number % 4 == 0:
            pipe.hset("hash", mapping={fresh: number, field: number})
        elif number % 4 == 1:
            pipe.hincrby("hash", "counter", 1).hincrbyfloat("hash", "float", 0.5)
        elif number % 4 == 2:
            pipe.hdel("hash", field)
        else:
            pipe.hsetnx("hash", field, number)
        if self._ttls:
            pipe.execute_command(
                "HPEXPIRE", "hash", 1 + number % 40 * 20, "FIELDS", 1, f"field {any_of // 2}"
            )
            pipe.execute_command("HPERSIST", "hash", "FIELDS", 1, f"field {any_of // 3}")

    def _set(self, pipe: Any, number: int, any_of: int, fresh: str) -> None:
        if number % 4 == 0:
            pipe.sadd("set", fresh, f"member {any_of}")
        elif number % 4 == 1:
            pipe.srem("set", f"member {any_of}")
        elif number % 4 == 2:
            pipe.spop("set", 2)
        else:
            pipe.smove("set", "small", f"member {any_of}").spop("small")


def wait_mark(following: Following, offset: int) -> None:
    """Wait until the mark has come to an offset."""
    wait_until(lambda: following.progress.mark[1] >= offset, "the mark is held", timeout=60)


def wait_followed(following: Following, keys: dict[bytes, str]) -> None:
    """Wait until these keys are copied, and followed by their elements."""

    def are_followed() -> bool:
        return keys.items() <= dict(following.job.checkpoint().big_positions).items()

    wait_until(are_followed, "they are not followed by their elements", timeout=120)


def calls(servers: Sequence[LocalServer], *commands: str) -> int:
    """Return how often these commands were called at the servers."""
    count = 0
    for server in servers:
        with server.client() as client:
            statistics: dict[str, dict[str, int]] = client.info("commandstats")
        count += sum(statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"] for command in commands)
    return count


def expiring(client: Any) -> list[bytes]:
    """Return the fields that expire soon."""
    fields = client.hkeys("hash")
    left = client.execute_command("HPTTL", "hash", "FIELDS", len(fields), *fields)
    return [field for field, ms in zip(fields, left, strict=True) if 0 <= ms < 10_000 or ms == -2]


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_large_keys_that_never_rest_are_copied_once_and_followed_by_their_elements(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, source.client() as other:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)) as writer:
                following.wait_event("follow_attached")
                wait_followed(following, KEYS)
                read_whole = calls([source], *WHOLE)
                assert read_whole > 0
                for _ in range(5):
                    wait_mark(following, other.info("replication")["master_repl_offset"])
                    writer.wait_more(100)
            following.wait_clean()
            assert calls([source], *WHOLE) == read_whole
            assert calls(cluster.primaries, "rename") == len(KEYS)  # each was put in its place once
            assert_equal(source, cluster)
            again = following.events + following.job.drain_events()
            assert not [event for event in again if event.kind == EventKind.BUSY_KEY]


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_the_next_run_goes_on_with_their_elements(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client)
        with Writer(Workload(client)) as writer:
            with Following(source, cluster, big_key_bytes=LARGE) as following:
                wait_followed(following, KEYS)
                following.wait_copied()
                writer.wait_more(100)
                checkpoint = following.job.checkpoint()
            assert checkpoint.follow is not None
            writer.wait_more(100)
            again = Following(
                source,
                cluster,
                big_key_bytes=LARGE,
                copies=False,
                position=checkpoint.follow[0],
                big_positions=checkpoint.big_positions,
            )
            following = again.__enter__()
            following.wait_event("follow_attached")
            writer.wait_more(300)
        try:
            following.wait_clean()
            assert following.progress.bytes < LARGE  # none of them was copied again
            assert KEYS.items() <= dict(following.job.checkpoint().big_positions).items()
            assert_equal(source, cluster)
        finally:
            again.__exit__(None, None, None)


@pytest.mark.parametrize("cluster", ["valkey-9.1"], indirect=True)
@pytest.mark.parametrize("source", WITH_FIELD_TTLS, indirect=True)
def test_expiries_of_fields_are_followed(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client, ttls=True)) as writer:
                wait_followed(following, KEYS)
                writer.wait_more(500)
            following.wait_clean()
            client.execute_command("HPEXPIRE", "hash", 10_000_000, "FIELDS", 1, "counter")
            client.execute_command("HPERSIST", "hash", "FIELDS", 1, "float")
            # Between a field's expiry and its deletion, servers tell different things of it.
            wait_until(lambda: not expiring(client), "fields do not expire")
            following.wait_clean()
            assert_equal(source, cluster)


def test_what_is_more_than_elements_is_copied_whole(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)):
                wait_followed(following, KEYS)
            with client.pipeline() as pipe:
                pipe.rename("zset", "other").zadd("zset", {"new": 1})
                pipe.delete("set").rpush("set", "no set")
                pipe.zremrangebyrank("other", 0, 99)
                pipe.sunionstore("union", ["set2", "set3"])
                pipe.execute()
            following.wait_clean()
            assert_equal(source, cluster)
            # Emptied by its elements, and there again: without the expiry that it had.
            client.expire("hash", 10_000)
            following.wait_clean()
            fields = client.hkeys("hash")
            client.hdel("hash", *fields)
            following.wait_clean()
            assert_equal(source, cluster)
            client.hset("hash", "f", 1)
            following.wait_clean()
            assert_equal(source, cluster)
            client.expire("hash", 10_000)
            following.wait_clean()
            with client.pipeline() as pipe:
                pipe.hdel("hash", "f").hset("hash", "f", 2)
                pipe.execute()
            following.wait_clean()
            assert_equal(source, cluster)


def test_a_key_that_the_target_lost_is_copied_whole(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)):
                wait_followed(following, KEYS)
            following.wait_clean()
            target.delete("set", "small")
            client.sadd("set", "one more")
            client.sadd("small", "one more")
            following.wait_clean()
            assert_equal(source, cluster)
