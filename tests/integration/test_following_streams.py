"""Large streams that never rest: copied once, then followed by the IDs of entries and by their groups."""

from __future__ import annotations

from typing import Any

import pytest

from slotferry._core import Access
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal
from tests.servers.proxy import Proxy
from tests.servers.stream_load import GROUPS, Workload, assert_same, fill

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")

LARGE = 100_000
"""Bytes from which on the tests copy a key in chunks."""

FOLLOWED = (b"stream", "followed stream")


def wait_mark(following: Following, offset: int) -> None:
    """Wait until the mark has come to an offset."""
    wait_until(lambda: following.progress.mark[1] >= offset, "the mark is held", timeout=60)


def wait_followed(following: Following) -> None:
    """Wait until the stream is followed by its elements."""

    def is_followed() -> bool:
        return FOLLOWED in following.job.checkpoint().big_positions

    wait_until(is_followed, "it is not followed by its elements", timeout=120)


def acknowledge(client: Any) -> None:
    """Leave few messages pending, however many the workload has left: too many deleted ones are refused."""
    for group in GROUPS:
        while len(pending := client.xpending_range("stream", group, "-", "+", 1_000)) == 1_000:
            client.xack("stream", group, *(entry["message_id"] for entry in pending))


def calls(servers: list[LocalServer], command: str) -> int:
    """Return how often a command was called at the servers."""
    count = 0
    for server in servers:
        with server.client() as client:
            statistics: dict[str, dict[str, int]] = client.info("commandstats")
        count += statistics.get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return count


def kinds(following: Following) -> dict[str, str]:
    """Return the messages of all events that nobody has waited for, by kind."""
    following.events += following.job.drain_events()
    return {event.kind.value: event.message for event in following.events}


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_large_stream_that_never_rests_is_copied_once_and_followed_by_its_elements(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, source.client() as other:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)) as writer:
                following.wait_event("follow_attached")
                wait_followed(following)
                for _ in range(5):
                    wait_mark(following, other.info("replication")["master_repl_offset"])
                    writer.wait_more(100)
            following.wait_clean()
            told = kinds(following)
            assert not told.keys() & {"busy_key", "elements_given_up"}, told
            assert calls(list(cluster.primaries), "rename") == 1  # it was put in its place once
            assert_same(source, cluster)


def test_what_is_trimmed_is_pending_though_the_stream_tells_of_it_late(
    source: LocalServer, cluster: LocalCluster
) -> None:
    """A round sees the trimmed stream before it is told what was delivered of the entries that are gone."""
    with source.client() as client, Proxy(source.host, source.port, delay=0.5) as proxy:
        proxy.delayed_command = b"PSYNC"
        fill(client)

        def deliver_and_trim(number: int) -> None:
            entries = client.xreadgroup("slow", f"consumer {number % 3}", {"stream": ">"}, count=4)[0][1]
            client.xtrim("stream", minid=entries[-1][0], approximate=False)
            client.xadd("stream", {"fresh": number})

        with Following(source, cluster, via=(proxy.host, proxy.port), big_key_bytes=LARGE) as following:
            with Writer(deliver_and_trim) as writer:
                following.wait_event("follow_attached")
                wait_followed(following)
                for _ in range(5):
                    writer.wait_more(100)
                    wait_mark(following, client.info("replication")["master_repl_offset"])
            following.wait_clean()
            assert "elements_given_up" not in kinds(following)
            assert_same(source, cluster)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_the_next_run_goes_on_with_its_elements(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client)
        with Writer(Workload(client)) as writer:
            with Following(source, cluster, big_key_bytes=LARGE) as following:
                wait_followed(following)
                following.wait_copied()
                writer.wait_more(50)
                checkpoint = following.job.checkpoint()
            assert checkpoint.follow is not None
            writer.wait_more(50)
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
            writer.wait_more(100)
        try:
            following.wait_clean()
            assert following.progress.bytes < LARGE  # it was not copied again
            assert FOLLOWED in following.job.checkpoint().big_positions
            assert_same(source, cluster)
        finally:
            again.__exit__(None, None, None)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_is_more_than_its_elements_is_copied_whole(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)):
                wait_followed(following)
            client.xtrim("stream", maxlen=1000, approximate=False)
            # An ID is given once more.
            last = "99999999999998-5"
            client.xadd("stream", {"one": 1}, id=last)
            client.xtrim("stream", maxlen=0, approximate=False)
            client.execute_command("XSETID", "stream", "99999999999998-4")
            client.xadd("stream", {"another": 1}, id=last)
            following.wait_clean()
            assert_same(source, cluster)
            with client.pipeline() as pipe:
                pipe.xgroup_destroy("stream", "fast").xgroup_create("stream", "fast", "0")
                pipe.xtrim("stream", maxlen=0, approximate=False)
                pipe.execute()
            following.wait_clean()
            assert_same(source, cluster)
            with client.pipeline() as pipe:
                pipe.rename("stream", "other").rpush("stream", "none", "any more")
                pipe.execute()
            following.wait_clean()
            assert_equal(source, cluster)
            client.pexpire("other", 1)
            wait_until(lambda: not client.exists("other"), "it does not expire")
            following.wait_clean()
            assert not target.exists("other")


def test_a_stream_or_a_group_that_the_target_lost_is_copied_whole(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)):
                wait_followed(following)
            acknowledge(client)
            following.wait_clean()
            target.xgroup_destroy("stream", "fast")
            client.xreadgroup("fast", "one", {"stream": ">"}, count=1)
            assert "lost a consumer group" in following.wait_event("elements_given_up").message
            following.wait_clean()
            assert_same(source, cluster)
            target.xtrim("stream", maxlen=3, approximate=False)
            client.xadd("stream", {"one": "more"})
            assert "only a part" in following.wait_event("elements_given_up").message
            following.wait_clean()
            assert_same(source, cluster)
            target.delete("stream")
            client.xadd("stream", {"one": "more"})
            following.wait_clean()
            assert [failure.message for failure in following.job.checkpoint().failures] == []
            assert_same(source, cluster)


def test_a_stream_that_was_found_different_is_copied_whole(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Workload(client)):
                wait_followed(following)
            following.wait_clean()
            middle, _ = target.xrange("stream", count=20)[-1]
            target.xdel("stream", middle)
            following.job.touch([b"stream"])
            client.set("behind", "it")
            following.wait_clean()
            assert_same(source, cluster)


def test_without_the_permission_to_write_elements_it_is_copied_whole(
    source: LocalServer, cluster: LocalCluster
) -> None:
    for server in (source, *cluster.primaries):
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "mover", "on", ">secret", "~*", "&*", "+@all", "-xtrim")
    access = Access(username="mover", password="secret")
    with source.client() as client:
        fill(client)
        follows = Following(source, cluster, big_key_bytes=LARGE, target_access=access)
        with follows as following:
            with Writer(Workload(client)):
                assert "type stream" in following.wait_event("elements_refused").message
            following.wait_clean()
            assert following.job.checkpoint().failures == []
            assert_same(source, cluster)
