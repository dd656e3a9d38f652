"""Large keys that never rest, compared while writes flow, so that little is left when writes are stopped."""

from __future__ import annotations

from typing import Any

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.integration.test_following_elements import SOURCES, wait_followed

LARGE = 50_000
"""Bytes from which on the tests copy a key in chunks."""

MEMBERS = 5_000
FOLLOWED = {b"set": "followed set", b"zset": "followed zset", b"hash": "followed hash"}


def fill(client: Any) -> None:
    """Write a set, a sorted set and a hash."""
    with client.pipeline(transaction=False) as pipe:
        for begin in range(0, MEMBERS, 1000):
            span = range(begin, begin + 1000)
            pipe.sadd("set", *(f"member {n}" for n in span))
            pipe.zadd("zset", {f"member {n}": n for n in span})
            pipe.hset("hash", mapping={f"field {n}": f"value {n}" for n in span})
        pipe.execute()


class Writes:
    """Writes all three, among what is there and beside it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __call__(self, number: int) -> None:
        n = number * 7919 % (2 * MEMBERS)
        with self._client.pipeline(transaction=False) as pipe:
            pipe.sadd("set", f"member {n}").srem("set", f"member {n // 2}")
            pipe.zincrby("zset", 1, f"member {n}")
            pipe.hset("hash", f"field {n}", f"new {number}").hdel("hash", f"field {n // 3}")
            pipe.execute()


def compared_at_fence(following: Following, writer: Writer | None = None) -> set[bytes]:
    """Compare ahead to the end; with writes stopped, return what is proven."""
    wait_until(lambda: following.job.compare_ahead() == 0, "large keys are not compared", timeout=60)
    if writer is not None:
        writer.wait_more(100)
        writer.__exit__(None, None, None)
    following.wait_clean()
    return set(following.job.compare_at_fence(30.0))


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_keys_that_are_written_all_the_time_are_proven_at_the_fence(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            writer = Writer(Writes(client))
            writer.__enter__()
            wait_followed(following, FOLLOWED)
            assert compared_at_fence(following, writer) == set(FOLLOWED)
            assert following.job.compare_at_fence(30.0) == []


def test_what_differs_anywhere_is_not_proven(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Writes(client)):
                wait_followed(following, FOLLOWED)
            following.wait_clean()
            target.srem("set", "member 4999")
            target.sadd("set", "no member")
            target.hset("hash", "field 4998", "another value")
            assert compared_at_fence(following) == {b"zset"}
            target.zadd("zset", {"extra": 1})
            assert compared_at_fence(following) == set()


def test_an_expiry_that_differs_is_not_proven(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Writes(client)):
                wait_followed(following, FOLLOWED)
            client.pexpire("set", 10_000_000)
            following.wait_clean()
            target.persist("zset")
            target.pexpire("zset", 10_000_000)
            assert compared_at_fence(following) == {b"set", b"hash"}


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_scores_that_servers_spell_differently_are_equal(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        client.zadd("zset", {f"member {n}": n + 0.1 for n in range(MEMBERS)})
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(lambda number: client.zincrby("zset", 0.1, f"member {number % 10}")):
                wait_followed(following, {b"zset": FOLLOWED[b"zset"]})
            following.wait_clean()
            assert compared_at_fence(following) == {b"zset"}
            target.zincrby("zset", 0.5, "member 4999")
            assert compared_at_fence(following) == set()
