"""Following by elements where something stands in its way: it ends, keeps within bounds, loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slotferry._core import Access
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal
from tests.servers.proxy import Proxy

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")

LARGE = 100_000
"""Bytes from which on the tests copy a key in chunks."""


def fill(client: Any, name: str, fields: int, value: str = "value") -> dict[str, str]:
    """Write a hash; return its fields."""
    content = {f"field {number}": f"{value} {number}" for number in range(fields)}
    client.hset(name, mapping=content)
    return content


def follow(following: Following, client: Any, *names: str, kind: str = "hash") -> None:
    """Write hashes until each of them is followed by its elements."""

    def write(number: int) -> None:
        for name in names:
            client.hset(name, "field 0", number)

    with Writer(write):
        following.wait_event("follow_attached")
        wait_followed(following, *names, kind=kind)
    following.wait_clean()


def wait_followed(following: Following, *names: str, kind: str = "hash") -> None:
    """Wait until these keys are followed by their elements."""
    wanted = {(name.encode(), f"followed {kind}") for name in names}
    wait_until(
        lambda: wanted <= set(following.job.checkpoint().big_positions),
        "they are not followed by their elements",
        timeout=60,
    )


def test_elements_that_are_written_faster_than_they_are_read_are_owed(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, Proxy(source.host, source.port, delay=0.01) as proxy:
        content = fill(client, "busy", 2000, "x" * 50)

        def write(number: int) -> None:
            client.hset("busy", mapping=content)

        slow = Following(source, cluster, via=(proxy.host, proxy.port), big_key_bytes=LARGE)
        with slow as following:
            with Writer(write):
                assert "busy" in following.wait_event("busy_key").message
            following.wait_clean()
            assert_equal(source, cluster)


def test_a_round_is_as_large_as_a_chunk(source: LocalServer, cluster: LocalCluster) -> None:
    """However many elements were touched: the source ends a connection for which 4 MB of replies wait."""
    with source.client() as client:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            with client.pipeline() as pipe:
                for number in range(200):
                    pipe.hset("hash", f"field {number}", "x" * 100_000)
                pipe.execute()
            client.config_set("client-output-buffer-limit", "normal 4000000 0 0")
            with client.pipeline() as pipe:
                for number in range(200):
                    pipe.hset("hash", f"field {number}", "y" * 100_000)
                pipe.execute()
            following.wait_clean()
            wait_followed(following, "hash")
            assert "elements_given_up" not in kinds(following)
            client.config_set("client-output-buffer-limit", "normal 0 0 0")
            assert_equal(source, cluster)


def kinds(following: Following) -> list[str]:
    """Return the kinds of all events that nobody has waited for."""
    following.events += following.job.drain_events()
    return [event.kind.value for event in following.events]


def test_an_element_that_can_not_be_read_is_a_failure_of_its_key(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        fill(client, "hash", 3000)
        fill(client, "other", 3000)
        with Following(source, cluster, big_key_bytes=LARGE, retry_for=2.0) as following:
            follow(following, client, "hash", "other")
            client.config_set("client-output-buffer-limit", "normal 4000000 0 0")
            client.hset("hash", "field 7", b"x" * 8_000_000)
            client.hset("other", "field 7", "new")
            assert "hash is copied whole again" in following.wait_event("elements_given_up").message
            following.wait_clean()
            failures = following.job.checkpoint().failures
            assert [(failure.key, failure.kind) for failure in failures] == [(b"hash", "error")]
            client.config_set("client-output-buffer-limit", "normal 0 0 0")
            client.hset("hash", "field 7", "short")
            following.wait_clean()
            assert_equal(source, cluster)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_key_that_expires_while_writes_are_paused_goes(source: LocalServer, cluster: LocalCluster) -> None:
    """Its deletion is not in the stream before they are let go."""
    with source.client() as client, cluster.client() as target:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            with client.pipeline(transaction=False) as pipe:
                pipe.pexpire("hash", 20).execute_command("CLIENT", "PAUSE", 600_000, "WRITE")
                pipe.execute()
            try:
                wait_until(lambda: not client.exists("hash"), "it does not expire")
                following.wait_clean()
                assert not target.exists("hash")
            finally:
                client.execute_command("CLIENT", "UNPAUSE")
            following.wait_clean()
            assert_equal(source, cluster)


def test_no_round_is_begun_while_the_job_is_paused(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            following.wait_copied()
            following.job.pause()
            wait_until(lambda: following.progress.at_rest, "it does not come to rest")
            client.hset("hash", "field 1", "new")
            offset = client.info("replication")["master_repl_offset"]
            wait_until(lambda: following.progress.received >= offset, "it is not received")
            assert not following.job.wait_clean(offset, 1.0)
            assert following.progress.at_rest
            following.job.resume()
            following.wait_clean()
            assert_equal(source, cluster)


def test_the_expiry_of_a_key_that_the_target_lost_comes_back(
    source: LocalServer, cluster: LocalCluster
) -> None:
    """Though what is left of it is all in one round."""
    with source.client() as client, cluster.client() as target:
        content = fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            client.expire("hash", 10_000)
            client.hdel("hash", *list(content)[1:])
            following.wait_clean()
            target.delete("hash")
            client.hset("hash", "field 0", "new")
            following.wait_clean()
            assert 0 < target.ttl("hash") <= 10_000
            assert_equal(source, cluster)


def test_a_key_of_which_a_killed_run_has_left_a_part_is_copied_whole(
    source: LocalServer, cluster: LocalCluster
) -> None:
    """The target had lost it, and the run heard nothing of its last write."""
    with source.client() as client, cluster.client() as target:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            following.wait_copied()
            checkpoint = following.job.checkpoint()
        target.delete("hash")
        target.hset("hash", "field 1", "new")
        client.hset("hash", "field 1", "new")
        assert checkpoint.follow is not None
        again = Following(
            source,
            cluster,
            big_key_bytes=LARGE,
            copies=False,
            position=checkpoint.follow[0],
            big_positions=checkpoint.big_positions,
        )
        with again as following:
            following.wait_event("follow_attached")
            following.wait_clean()
            assert_equal(source, cluster)


def test_the_expiry_that_the_target_lost_comes_back(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            follow(following, client, "hash")
            client.expire("hash", 10_000)
            following.wait_clean()
            target.persist("hash")
            client.hset("hash", "field 0", "new")
            following.wait_clean()
            assert_equal(source, cluster)


def test_a_key_that_is_given_up_again_and_again_is_not_followed_any_more(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client, "hash", 3000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            for time in (1, 2, 3):
                if time == 1:
                    follow(following, client, "hash")
                wait_followed(following, "hash")
                target.delete("hash")
                client.hset("hash", "field 0", time)
                message = following.wait_event("elements_given_up").message
                assert ("any more" in message) == (time == 3)
                following.wait_clean()
                assert_equal(source, cluster)
            client.hset("hash", "field 0", "again")
            following.wait_clean()
            assert following.job.checkpoint().big_positions == []
            assert_equal(source, cluster)


def writer_of_all(client: Any) -> Callable[[int], None]:
    """Return what writes elements of three keys."""

    def write(number: int) -> None:
        with client.pipeline() as pipe:
            pipe.hset("hash", f"field {number % 100}", number)
            pipe.zadd("zset", {f"member {number % 100}": number})
            pipe.sadd("set", f"new {number}").srem("set", f"new {number - 100}")
            pipe.execute()

    return write


@pytest.mark.parametrize("source", SOURCES, indirect=True)
@pytest.mark.parametrize("late", [False, True], ids=["from-the-start", "later"])
def test_without_the_permission_to_read_elements_keys_are_copied_as_others(
    source: LocalServer, cluster: LocalCluster, *, late: bool
) -> None:
    denied = ("-hmget", "-zmscore", "-smismember", "-zscan")
    names = {"hash", "zset", "set"}
    with source.client() as client:
        fill(client, "hash", 3000)
        client.zadd("zset", {f"member {number}": number for number in range(3000)})
        client.sadd("set", *(f"member {number}" for number in range(3000)))
        permissions = () if late else denied
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "&*", "+@all", *permissions)
        access = Access(username="reader", password="secret")
        with Following(source, cluster, big_key_bytes=LARGE, source_access=access) as following:
            with Writer(writer_of_all(client)) as writer:
                following.wait_event("follow_attached")
                if late:
                    for name in names:
                        wait_followed(following, name, kind=name)
                    client.execute_command("ACL", "SETUSER", "reader", *denied)
                told = {following.wait_event("elements_refused").message.split()[4] for _ in names}
                assert told == names
                writer.wait_more(100)
            following.wait_clean()
            assert following.job.checkpoint().failures == []
            assert_equal(source, cluster)
