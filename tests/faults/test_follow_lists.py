"""A queue that never rests, through kills, cuts and a failover, up to the cut-over: not an entry is lost."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import key_slot
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running
from tests.faults.bed import QUICK
from tests.faults.followed import SOURCES, FollowedJob, keys_held
from tests.integration.following import Writer
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy

ENTRIES = 60_000
LARGE = ("--big-key-bytes", "100000")


class Queue:
    """A list of numbers that grow from its head to its tail, written at both ends; each is there once."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._first, self._next = 0, ENTRIES
        for start in range(0, ENTRIES, 10_000):
            client.rpush("queue", *range(start, start + 10_000))

    def __call__(self, number: int) -> None:
        with self._client.pipeline(transaction=number % 2 == 0) as pipe:
            pipe.rpush("queue", *range(self._next, self._next + 3))
            pipe.lpush("queue", self._first - 1, self._first - 2)
            pipe.lpop("queue", 4)
            pipe.rpop("queue")
            self._next, self._first = self._next + 3, self._first - 2
            pipe.execute()


def cut_over(job: FollowedJob, running: Running, cluster: LocalCluster) -> str:
    """Cut over under load, with all compared while writes are stopped; return the events of the run."""
    told = job.cut_over("--check", "full", "--hold", "1s")
    done = running.finish()
    assert (told.code, done.code) == (0, 0), (told, done)
    cutover = done.summary["cutover"]
    assert cutover["differences"] == 0 < cutover["checked"], cutover
    with cluster.client() as target:
        numbers = [int(entry) for entry in target.lrange("queue", 0, -1)]
    assert len(numbers) > ENTRIES - 10
    assert all(one < other for one, other in itertools.pairwise(numbers))
    assert done.summary["follow"]["busy_keys"] == 0
    assert "is written all the time" not in done.stdout
    return done.stdout


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_queue_is_copied_once_and_cut_over(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    with source.client() as client, Writer(Queue(client)) as writer, job.start(*LARGE) as running:
        job.wait_following(running)
        writer.wait_more(300)
        told = cut_over(job, running, cluster)
    assert "copied whole again" not in told


def test_killed_in_the_copy_and_behind_it(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    with Proxy(source.host, source.port, delay=0.01) as proxy, source.client() as client:
        job = FollowedJob(f"redis://{proxy.address}", cluster.url, tmp_path / "journal.db")
        with Writer(Queue(client)) as writer:
            with job.start(*LARGE) as running:
                wait_until(lambda: keys_held(cluster) > 0, "nothing is copied", timeout=60)
                running.kill()
            for _ in range(3):
                with job.start(*LARGE) as running:
                    job.wait_following(running)
                    writer.wait_more(100)
                    running.kill()
            with job.start(*LARGE) as running:
                job.wait_following(running)
                writer.wait_more(100)
                cut_over(job, running, cluster)


def test_connections_that_are_cut_anywhere(
    kind: ServerKind, source: LocalServer, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    fronts = [stack.enter_context(Proxy(node.host, node.port)) for node in cluster.primaries]
    origin = stack.enter_context(Proxy(source.host, source.port))
    pairs = zip(cluster.primaries, fronts, strict=True)
    maps = [word for node, front in pairs for word in ("--address-map", f"{node.address}={front.address}")]
    job = FollowedJob(
        f"redis://{origin.address}", f"redis+cluster://{fronts[0].address}", tmp_path / "journal.db"
    )
    client = stack.enter_context(source.client())
    with Writer(Queue(client)) as writer, job.start(*LARGE, *maps) as running:
        job.wait_following(running)
        for size in (101, 1009, 10_007):
            for front in fronts:
                front.cut_after(replies=size, times=5)
            writer.wait_more(100)
            for front in fronts:
                front.cut_after(commands=size, times=5)
            origin.cut_after(replies=10 * size, times=3)
            writer.wait_more(100)
        cut_over(job, running, cluster)


def test_a_target_that_fails_over(
    kind: ServerKind, source: LocalServer, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1, config=QUICK))
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    client = stack.enter_context(source.client())
    shard = key_slot("queue") * 3 // 16384
    primary, replica = cluster.primaries[shard], cluster.replicas[shard]
    with Writer(Queue(client)) as writer, job.start(*LARGE) as running:
        job.wait_following(running)
        writer.wait_more(100)
        primary.kill()
        with replica.client() as node:
            wait_until(lambda: node.info("replication")["role"] == "master", "it stays a replica", timeout=60)
        primary.start()
        cluster.wait_until_healthy()
        writer.wait_more(100)
        cut_over(job, running, cluster)
