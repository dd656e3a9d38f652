"""A large stream that never rests, followed through kills and a failover of the target, and cut over."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry.jobs.journal.journal import Journal
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running
from tests.faults.followed import JOB, FollowedJob
from tests.integration.following import Writer
from tests.servers.kinds import ServerKind
from tests.servers.stream_load import Workload, assert_same, fill

LARGE = ("--big-key-bytes", "100000")


def is_begun(cluster: LocalCluster) -> bool:
    """Whether the cluster holds a part of the stream under another name."""
    with cluster.client() as target:
        return any(target.scan_iter("slotferry:part:*"))


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1"], indirect=True)
def test_killed_in_its_copy_and_later_it_is_equal_when_it_is_cut_over(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    with ExitStack() as stack:
        client = stack.enter_context(source.client())
        fill(client)
        writer = stack.enter_context(Writer(Workload(client)))
        for _ in range(2):
            with job.start(*LARGE, "--max-bytes-per-second", "500000") as running:
                wait_until(lambda: is_begun(cluster), "its copy does not begin", timeout=60)
                running.kill()
        for _ in range(2):
            with job.start(*LARGE) as running:
                job.wait_following(running)
                writer.wait_more(50)
                running.kill()
        cut_over(stack, job, source, cluster)


def is_primary(server: LocalServer) -> bool:
    """Whether a node has become a primary."""
    with server.client() as client:
        return bool(client.info("replication")["role"] == "master")


def cut_over(stack: ExitStack, job: FollowedJob, source: LocalServer, cluster: LocalCluster) -> None:
    """Run the job to its cut-over, and look at both sides while writes are stopped."""
    running = stack.enter_context(job.start(*LARGE))
    job.wait_following(running)
    with Running(*job.cutover_words("--check", "full", "--hold", "600s")) as asked:
        wait_until(
            lambda: str(job.live().get("reason", "")).startswith("writes at the source are"),
            "it is not cut over",
            timeout=60,
        )
        assert_same(source, cluster)
        running.send(signal.SIGINT)  # the hold is over
        done = running.finish()
        asked.finish()
    assert (done.code, done.summary["status"]) == (0, "cut_over"), done
    assert done.summary["cutover"]["differences"] == 0
    assert done.summary["follow"]["busy_keys"] == 0


def test_a_failover_of_the_target_loses_nothing_of_it(
    kind: ServerKind, source: LocalServer, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1))
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    with ExitStack() as inner:
        client = inner.enter_context(source.client())
        fill(client)
        writer = inner.enter_context(Writer(Workload(client)))
        with job.start(*LARGE) as running:
            job.wait_following(running)
            writer.wait_more(50)
            for replica in cluster.replicas:
                with replica.client() as node:
                    node.execute_command("CLUSTER", "FAILOVER")
            wait_until(lambda: all(is_primary(replica) for replica in cluster.replicas), "no failover")
            writer.wait_more(50)
            running.send(signal.SIGINT)
            running.finish()
        cut_over(inner, job, source, cluster)


def test_a_stream_that_lacks_an_entry_at_the_target_is_copied_whole_in_the_cut_over(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    with source.client() as client, cluster.client() as target, job.start(*LARGE) as running:
        fill(client)
        with Writer(Workload(client)) as writer:
            job.wait_following(running)
            writer.wait_more(50)
            wait_until(lambda: followed(job) == 1, "the stream is not followed by its elements")
        wait_until(lambda: job.live()["follow"]["touched"] == 0, "it is not brought up to date")
        (entry,) = target.xrevrange("stream", count=1)
        target.xdel("stream", entry[0])
        told = job.cut_over("--check", "full", "--hold", "0s")
        done = running.finish()
        assert (told.code, done.code) == (0, 0), (told, done)
        assert_same(source, cluster)


def followed(job: FollowedJob) -> int:
    """Return how many large keys are followed by their elements."""
    with Journal.open(job.journal) as journal:
        return sum(text.startswith("followed ") for _, text in journal.big_positions(JOB, 0))
