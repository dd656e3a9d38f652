"""Queues that never rest: copied once, then followed by the positions of their entries."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis.exceptions import RedisError

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.integration.test_following_elements import SOURCES, calls, wait_followed, wait_mark
from tests.servers.compare import assert_equal
from tests.servers.proxy import Proxy

LARGE = 100_000
"""Bytes from which on the tests copy a key in chunks."""

ENTRIES = 50_000
SCRIPT = "redis.call('RPUSH', KEYS[1], ARGV[1], ARGV[2]); redis.call('LPOP', KEYS[1])"
FOLLOWED = {b"queue": "followed list", b"other": "followed list"}


def fill(client: Any, *names: str, entries: int = ENTRIES) -> None:
    """Write lists, whose entries are all different."""
    with client.pipeline(transaction=False) as pipe:
        for name in names:
            for start in range(0, entries, 1000):
                pipe.rpush(name, *(f"{name} {number}" for number in range(start, start + 1000)))
        pipe.execute()


class Queues:
    """Writes both ends of two lists with everything that writes there; each entry is there once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._random = random.Random(17)

    def __call__(self, number: int) -> None:
        name, other = self._random.sample(["queue", "other"], 2)
        fresh = [f"new {number}.{part}" for part in range(3)]
        with self._client.pipeline(transaction=number % 3 == 0) as pipe:
            pipe.rpush(name, *fresh)
            pipe.lpush(other, *(f"{entry} front" for entry in fresh))
            pipe.lpop(name)
            pipe.rpop(other, 2)
            match number % 8:
                case 0:
                    pipe.lmove(name, other, "LEFT", "RIGHT")
                case 1:
                    pipe.rpoplpush(other, name)
                case 2:
                    pipe.lmove(name, name, "RIGHT", "LEFT")
                case 3:
                    pipe.ltrim(name, 2, -2)
                case 4:
                    pipe.eval(SCRIPT, 1, name, f"script {number}", f"script {number} too")
                case 5:
                    pipe.lpushx(name, f"x {number}").rpushx("nothing", "x")
                case 6:
                    pipe.blpop([other, name], 1).brpoplpush(name, other, 1)
                case _:
                    pipe.pexpire(name, 10_000_000 + number) if number % 16 == 7 else pipe.persist(name)
            pipe.execute()


def assert_copied_once(source: LocalServer, cluster: LocalCluster, following: Following) -> None:
    """Each list was put in its place once, and never waited for its writers."""
    assert_equal(source, cluster)
    assert calls(cluster.primaries, "rename") == len(FOLLOWED)
    told = {event.kind.value for event in following.events + following.job.drain_events()}
    assert not told & {"busy_key", "elements_given_up", "elements_refused"}


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_lists_that_never_rest_are_copied_once_and_followed_by_positions(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, source.client() as other:
        fill(client, "queue", "other")
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Queues(client)) as writer:
                following.wait_event("follow_attached")
                wait_followed(following, FOLLOWED)
                for _ in range(5):
                    wait_mark(following, other.info("replication")["master_repl_offset"])
                    writer.wait_more(100)
            following.wait_clean()
            held = sum(len(entry) for name in FOLLOWED for entry in client.lrange(name, 0, -1))
            assert following.progress.bytes < 3 * held  # 16 bytes count for an entry beside its own
            assert_copied_once(source, cluster, following)


class Waiting:
    """A client that takes entries of a list as they come, from entry to exit."""

    def __init__(self, source: LocalServer, name: str) -> None:
        self.taken: list[bytes] = []
        self._client = source.client()
        self._name = name
        self._over = threading.Event()
        self._failed: RedisError | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Waiting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                popped: Any = self._client.blpop([self._name], 1)
                if popped:
                    self.taken.append(popped[1])
        except RedisError as error:
            self._failed = error


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_blocked_clients_take_what_others_move(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client, "queue", "other")
        with Following(source, cluster, big_key_bytes=LARGE) as following:

            def write(number: int) -> None:
                client.rpush("queue", f"new {number}", f"newer {number}")
                client.lmove("queue", "empty", "LEFT", "LEFT")
                client.lpush("other", f"new {number}")
                client.blmove("other", "queue", 1, "RIGHT", "LEFT")

            with Waiting(source, "empty") as waiting, Writer(write) as writer:
                wait_followed(following, FOLLOWED)
                writer.wait_more(200)
                wait_until(lambda: len(waiting.taken) > 100, "nothing was taken")
            following.wait_clean()
            assert_copied_once(source, cluster, following)


def test_a_list_that_is_written_elsewhere_too_is_copied_whole(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        fill(client, "queue", "other")
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Queues(client)):
                wait_followed(following, FOLLOWED)
            changes: list[Callable[[], Any]] = [
                lambda: client.lset("queue", 100, "set"),
                lambda: client.linsert("queue", "BEFORE", "set", "inserted"),
                lambda: client.lrem("queue", 1, "set"),
                lambda: client.rename("queue", "renamed"),
                lambda: client.rename("renamed", "queue"),
            ]
            for change in changes:
                change()
                client.rpush("queue", "behind it")
                following.wait_clean()
                assert_equal(source, cluster)
                with Writer(lambda number: client.rpush("queue", number)):
                    wait_followed(following, FOLLOWED)


def test_a_list_that_is_emptied_goes_and_comes_back(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        fill(client, "queue", "other")
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Queues(client)):
                wait_followed(following, FOLLOWED)
            # All of it is replaced between two rounds, and its expiry with it.
            client.pexpire("queue", 10_000_000)
            following.wait_clean()
            with client.pipeline() as pipe:
                pipe.lpop("queue", 2 * ENTRIES).rpush("queue", "a", "b").rpop("queue").lpush(
                    "queue", "c"
                ).execute()
            following.wait_clean()
            assert_equal(source, cluster)
            client.lpop("queue", 2 * ENTRIES)
            client.ltrim("other", 1, 0)
            following.wait_clean()
            assert_equal(source, cluster)
            fill(client, "queue", "other")
            with Writer(Queues(client)):
                wait_followed(following, FOLLOWED)
            following.wait_clean()
            assert_equal(source, cluster)


def test_what_someone_else_did_to_the_target_is_found(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, cluster.client() as target:
        fill(client, "queue", "other")
        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(Queues(client)) as writer:
                wait_followed(following, FOLLOWED)
                spoils: list[Callable[[], Any]] = [
                    lambda: target.rpush("queue", "foreign"),
                    lambda: target.delete("other"),
                ]
                for spoil in spoils:
                    spoil()
                    following.wait_event("elements_given_up")
                    wait_followed(following, FOLLOWED)
                    writer.wait_more(100)
            following.wait_clean()
            assert_equal(source, cluster)


def test_entries_of_any_size(source: LocalServer, cluster: LocalCluster) -> None:
    sizes = random.Random(5)
    with source.client() as client:
        with client.pipeline() as pipe:
            for number in range(300):
                pipe.rpush("queue", f"{number} ".encode() + bytes(sizes.randrange(60_000)))
            pipe.execute()

        def write(number: int) -> None:
            client.rpush("queue", f"new {number} ".encode() + bytes(sizes.randrange(300_000)))
            client.lpush("queue", f"front {number}", "")
            client.lpop("queue", 2)
            client.rpop("queue")

        with Following(source, cluster, big_key_bytes=LARGE) as following:
            with Writer(write) as writer:
                wait_followed(following, {b"queue": "followed list"})
                writer.wait_more(50)
            following.wait_clean()
            assert_equal(source, cluster)
            told = {event.kind.value for event in following.events + following.job.drain_events()}
            assert not told & {"busy_key", "elements_given_up"}


def go_on(source: LocalServer, cluster: LocalCluster, before: Following) -> Following:
    """Return a run that goes on where one has ended."""
    checkpoint = before.job.checkpoint()
    assert checkpoint.follow is not None
    return Following(
        source,
        cluster,
        big_key_bytes=LARGE,
        copies=False,
        position=checkpoint.follow[0],
        big_positions=checkpoint.big_positions,
    )


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_the_next_run_copies_a_list_whole_once_it_is_touched(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        fill(client, "queue", "other")
        with Writer(Queues(client)) as writer:
            with Following(source, cluster, big_key_bytes=LARGE) as following:
                wait_followed(following, FOLLOWED)
                following.wait_copied()
                writer.wait_more(100)
            writer.wait_more(100)
            with go_on(source, cluster, following) as following:
                following.wait_event("follow_attached")
                wait_followed(following, FOLLOWED)
                writer.wait_more(100)
                wait_mark(following, client.info("replication")["master_repl_offset"])
        with go_on(source, cluster, following) as following:
            following.wait_clean()
            assert_equal(source, cluster)


def test_a_stream_that_is_late_is_waited_for_and_no_lost_source(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, Proxy(source.host, source.port, delay=2.5) as proxy:
        proxy.delayed_command = b"PSYNC"
        fill(client, "queue", entries=1500)
        front = (proxy.host, proxy.port)
        with Following(source, cluster, via=front, big_key_bytes=1000, retry_for=4.0) as following:
            following.wait_event("follow_attached")
            client.rpush("queue", "new")
            wait_followed(following, {b"queue": "followed list"})
            client.lpop("queue")
            following.wait_clean()
            assert_equal(source, cluster)
