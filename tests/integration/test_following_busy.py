"""Large keys that are written all the time: they never hold the others back, and are equal in the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from slotferry._core import Checkpoint
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")

LARGE = 100_000
"""Bytes from which on the tests copy a key in chunks."""


def fill_list(client: Any, name: str, count: int) -> None:
    """Append so many elements."""
    with client.pipeline(transaction=False) as pipe:
        for start in range(0, count, 1000):
            pipe.rpush(name, *(f"element {number}" for number in range(start, start + 1000)))
        pipe.execute()


def wait_mark(following: Following, offset: int) -> None:
    """Wait until the mark has come to an offset."""
    wait_until(lambda: following.progress.mark[1] >= offset, "the mark is held", timeout=60)


def is_held_apart(following: Following) -> bool:
    """Whether the key is owed: the mark goes on, and nothing behind it is clean."""
    progress = following.progress
    return progress.busy_keys == [b"busy"] and progress.clean < progress.mark[1]


def wait_owed(following: Following) -> Checkpoint:
    """Return the first checkpoint by which the next run owes the key."""
    found: list[Checkpoint] = []

    def is_owed() -> bool:
        found.append(following.job.checkpoint())
        return found[-1].big_positions == [(b"busy", "owed")]

    wait_until(is_owed, "it is not recorded as owed")
    return found[-1]


def in_the_middle(client: Any) -> Callable[[int], None]:
    """Return what writes in the middle of the list."""

    def write(number: int) -> None:
        client.lset("busy", number % 20_000, number)

    return write


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_large_key_that_never_rests_does_not_hold_the_mark(
    source: LocalServer, cluster: LocalCluster
) -> None:
    """No command that writes in the middle of a list can be followed but by copying it."""
    with source.client() as client, source.client() as other:
        fill_list(client, "busy", 20_000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(in_the_middle(client)) as writer:
                following.wait_event("follow_attached")
                following.wait_event("busy_key")
                wait_until(lambda: following.progress.busy_keys == [b"busy"], "it is not told of")
                for number in range(3):
                    other.set("rests", number)
                    offset = other.info("replication")["master_repl_offset"]
                    wait_mark(following, offset)
                    writer.wait_more(100)
                wait_until(lambda: is_held_apart(following), "the mark waits for it")
                assert wait_owed(following).follow is not None
            # It rests now.
            wait_until(lambda: not following.progress.busy_keys, "it is not copied when it rests", timeout=60)
            following.wait_clean()
            assert_equal(source, cluster)


def test_what_is_owed_is_copied_at_the_fence_and_by_the_next_run(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        fill_list(client, "busy", 20_000)
        with (
            Writer(in_the_middle(client)),
            Following(source, cluster, big_key_bytes=LARGE) as following,
        ):
            following.wait_event("busy_key")
            wait_mark(following, following.progress.received + 1)
            checkpoint = wait_owed(following)
        assert checkpoint.follow is not None
        # From where the writer has stopped on, nothing of the stream names the key.
        (replication_id, _, database), _ = checkpoint.follow
        again = Following(
            source,
            cluster,
            big_key_bytes=LARGE,
            position=(replication_id, client.info("replication")["master_repl_offset"], database),
            partitions=[(mark.index, mark.cursor) for mark in checkpoint.partitions if not mark.done],
            big_positions=checkpoint.big_positions,
        )
        again.job.pause()
        with again as following:
            following.wait_event("follow_attached")
            assert following.job.checkpoint().big_positions == checkpoint.big_positions
            following.job.resume()
            following.wait_clean()
            assert_equal(source, cluster)
            # It is owed no more; once it is copied, it may be followed by its ends.
            assert following.job.checkpoint().big_positions in ([], [(b"busy", "followed list")])


def test_who_gives_up_waiting_lets_a_busy_key_rest_again(source: LocalServer, cluster: LocalCluster) -> None:
    """At a fence it is read without a pause: a cut-over that was abandoned must not leave the source so."""
    with source.client() as client, source.client() as other:
        fill_list(client, "busy", 100_000)

        def tries() -> int:
            statistics: dict[str, dict[str, int]] = other.info("commandstats")
            return statistics["cmdstat_watch"]["calls"]

        def is_read_at_a_fence() -> bool:
            before = tries()
            offset = other.info("replication")["master_repl_offset"]
            following.job.wait_clean(offset, 0.2)  # it may be copied between two writes
            return tries() > before

        def is_left_alone() -> bool:
            before = tries()
            writer.wait_more(5000)
            return tries() == before

        with (
            Writer(in_the_middle(client)) as writer,
            Following(source, cluster, big_key_bytes=LARGE) as following,
        ):
            following.wait_event("busy_key")
            wait_until(is_read_at_a_fence, "it is not read without a pause", timeout=60)
            wait_until(is_left_alone, "it is read again and again", timeout=60)


def test_writes_that_stop_are_enough_for_a_fence(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill_list(client, "busy", 20_000)
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(in_the_middle(client)):
                following.wait_event("busy_key")
                offset = client.info("replication")["master_repl_offset"]
                following.job.wait_clean(offset, 0.2)  # it may be copied between two writes
            following.wait_clean()
            assert_equal(source, cluster)
            assert following.progress.busy_keys == []
