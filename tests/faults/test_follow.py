"""`slotferry migrate --follow` as a user runs it: what is written meanwhile, ends, kills, gaps, refusals."""

from __future__ import annotations

import signal
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import run
from tests.faults.followed import SOURCES, FollowedJob, assert_soon_equal, keys_held
from tests.integration.following import Writer
from tests.servers.compare import assert_equal

_KEYS = 20_000


def fill(source: LocalServer) -> None:
    with source.client() as client, client.pipeline(transaction=False) as pipe:
        for number in range(_KEYS):
            pipe.set(f"key:{number}", number)
        pipe.execute()


@pytest.fixture
def job(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> FollowedJob:
    return FollowedJob(source.url, cluster.url, tmp_path / "journal.db")


def wait_equal_counter(source: LocalServer, cluster: LocalCluster, count: int) -> None:
    with source.client() as ours, cluster.client() as theirs:
        assert int(ours.get("counter")) == count
        wait_until(lambda: theirs.get("counter") == str(count).encode(), "the counter stays behind")


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_is_written_meanwhile_arrives_and_a_signal_ends_it_resumably(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with source.client() as client:

        def write(number: int) -> None:
            client.incr("counter")
            client.hset(f"hash:{number % 50}", mapping={str(number % 9): number})
            client.delete(f"key:{number}")

        with job.start() as running, Writer(write) as writer:
            job.wait_following(running)
            writer.wait_more(300)
            wait_until(lambda: job.live()["follow"]["writes"] > 0, "no write comes by the stream")
            follow = job.live()["follow"]
            (listed,) = job.jobs("list", "--json").lines
            assert (listed["status"], listed["state"]) == ("running", "following")
            assert listed["follow"]["connected"]
            assert " s behind" in job.jobs("list").stdout
            assert " touched key" in job.jobs("show").stdout
            assert {"lag_bytes", "lag_seconds", "touched", "resyncs", "comparisons"} <= follow.keys()
            running.send(signal.SIGTERM)
            first = running.finish()
            assert first.code == 143, first.stderr
            writer.wait_more(100)
        assert first.summary["status"] == "interrupted"
        assert first.summary["follow"]["resyncs"] == 0
        with job.start() as running:
            job.wait_following(running)
            wait_equal_counter(source, cluster, writer.count)
            assert_soon_equal(source, cluster)
            running.send(signal.SIGINT)
            second = running.finish()
    assert second.code == 130, second.stderr
    assert second.summary["resumed"]
    assert second.summary["follow"]["resyncs"] == 0
    keys = second.keys
    assert keys["scanned"] == keys["migrated"] + keys["vanished"] + keys["expired"]


def test_cancelled_from_another_terminal_it_goes_on_where_it_was(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with source.client() as client:
        with job.start() as running:
            job.wait_following(running)
            assert job.jobs("cancel").code == 0
            first = running.finish()
        assert (first.code, first.summary["status"]) == (130, "interrupted"), first.stderr
        client.incrby("counter", 7)
        with job.start() as running:
            wait_equal_counter(source, cluster, 7)
            running.send(signal.SIGTERM)
            second = running.finish()
    assert second.summary["follow"]["resyncs"] == 0


def wait_held(cluster: LocalCluster, keys: int) -> None:
    """Wait until the cluster holds so many keys."""
    wait_until(lambda: keys_held(cluster) >= keys, "nothing is copied", timeout=60)


def test_killed_again_and_again_it_doubles_and_loses_nothing(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with source.client() as client:
        with Writer(lambda _: client.incr("counter")) as writer:
            for _ in range(4):
                with job.start() as running:
                    job.wait_following(running)
                    writer.wait_more(100)
                    running.kill()
        with job.start() as running:
            job.wait_following(running)
            wait_equal_counter(source, cluster, writer.count)
            assert_soon_equal(source, cluster)
            running.send(signal.SIGINT)
            assert running.finish().summary["follow"]["resyncs"] == 0


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_killed_while_it_copies_it_goes_on_with_both(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    slowly = ("--max-keys-per-second", "4000")

    def write(number: int) -> None:
        client.incr("counter")
        client.set(f"key:{number * 7 % _KEYS}", f"again {number}")
        client.delete(f"key:{number * 11 % _KEYS}")

    with source.client() as client:
        with Writer(write) as writer:
            for number in range(1, 4):
                with job.start(*slowly) as running:
                    wait_held(cluster, number * 1500)
                    assert job.live().get("state") != "following"
                    writer.wait_more(50)
                    running.kill()
        with job.start() as running:
            job.wait_following(running)
            wait_equal_counter(source, cluster, writer.count)
            assert_soon_equal(source, cluster)
            running.send(signal.SIGINT)
            done = running.finish()
    assert done.summary["resumed"]
    assert done.summary["follow"]["resyncs"] == done.summary["follow"]["comparisons"] == 0


@pytest.mark.parametrize("source", ["redis-6.2", "redis-8.0", "valkey-9.1"], indirect=True)
def test_where_the_backlog_is_gone_both_sides_are_compared(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with job.start() as running:
        job.wait_following(running)
        running.kill()
    with source.client() as client:
        client.config_set("repl-backlog-size", 16_384)
        for number in range(2000):
            client.set(f"new:{number}", "x" * 100)
            client.delete(f"key:{number}")
    with job.start() as running:
        job.wait_following(running)
        job.wait_settled()
        assert_equal(source, cluster)
        running.send(signal.SIGINT)
        done = running.finish()
    assert done.summary["follow"]["resyncs"] == 1
    assert done.summary["follow"]["comparisons"] >= 1
    assert any(line["type"] == "resynced" for line in done.lines)


def test_an_emptied_source_ends_it_and_is_applied_when_that_is_asked_for(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with source.client() as client:
        with job.start() as running:
            job.wait_following(running)
            client.flushdb()
            ended = running.finish()
        assert ended.code == 4, ended.stderr
        assert ended.summary["error"]["kind"] == "source_flushed"
        assert keys_held(cluster) == _KEYS
        client.set("after", 1)
        with job.start("--on-flush", "apply") as running:
            job.wait_following(running)
            job.wait_settled()
            assert_soon_equal(source, cluster)
            assert keys_held(cluster) == 1


@pytest.mark.parametrize("source", ["redis-7.0", "valkey-9.1"], indirect=True)
def test_functions_that_change_are_loaded_again(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    with source.client() as client, job.start() as running:
        client.set("key", 1)
        job.wait_following(running)
        client.function_load("#!lua name=later\nredis.register_function('later', function() return 1 end)")

        def has_library(node: LocalServer) -> bool:
            with node.client() as asked:
                return bool(asked.function_list())

        wait_until(lambda: all(map(has_library, cluster.primaries)), "the library does not come")
        client.function_flush()


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_is_said_of_the_source_before_it_is_followed(source: LocalServer, job: FollowedJob) -> None:
    with source.client() as client:
        client.wait(0, 1)
    with job.start() as running:
        job.wait_following(running)
        running.send(signal.SIGINT)
        told = running.finish().stderr
    assert "warning (acknowledgements): WAIT was called" in told
    assert "ask for one replica more while it is followed" in told


def test_without_psync_it_is_refused_with_what_is_possible(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with source.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-psync")
        try:
            url = f"redis://reader:pw@{source.host}:{source.port}"
            refused = run(*replace(job, url=url).words())
        finally:
            client.execute_command("ACL", "DELUSER", "reader")
    assert refused.code == 4, refused.stderr
    assert "may not run PSYNC" in refused.summary["error"]["message"]
    assert "+psync" in refused.summary["error"]["hint"]
    assert "verify --repair" in refused.summary["error"]["hint"]
    assert keys_held(cluster) == 0


def test_a_target_that_holds_keys_is_refused(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    fill(source)
    with cluster.client() as target:
        target.set("theirs", 1)
    refused = run(*job.words())
    assert refused.code == 4
    assert "--skip-check existing-keys" in refused.summary["error"]["hint"]
    with cluster.client() as target:
        assert target.get("theirs") == b"1"


def test_a_job_that_copies_alone_is_not_gone_on_with(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    with source.client() as client:
        client.set("key", 1)
    copied = [word for word in job.words() if word != "--follow"]
    assert run(*copied).code == 0
    refused = run(*job.words())
    assert refused.summary["error"]["kind"] == "job_mismatch"
    with sqlite3.connect(job.journal) as opened:
        assert opened.execute("SELECT count(*) FROM follow").fetchone() == (0,)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--dry-run",), "--dry-run"),
        (("--verify",), "--verify"),
        (("--keys-from", "/dev/null"), "--keys-from"),
        (("--type", "hash"), "filters of type"),
        (("--min-size", "1"), "filters of type"),
        (("--min-ttl", "1s"), "filters of type"),
        (("--all-dbs",), "several databases"),
        (("--db", "0,1"), "several databases"),
        (("--rewrite", "^(a):.* => $1"), "a rule that has no way back"),
        (("--strip-prefix", "a:", "--on-collision", "record"), "--on-collision record"),
        (("--on-conflict", "error"), "--on-conflict error"),
        (("--on-conflict", "skip"), "--on-conflict skip"),
        (("--keep-eviction-metadata",), "--keep-eviction-metadata"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(options: tuple[str, ...], named: str) -> None:
    refused = run("migrate", "redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1", "--follow", *options)
    assert refused.code == 2, refused.stderr
    assert "--follow is given together with" in refused.stderr
    assert named in refused.stderr
