"""`slotferry migrate --follow` with rules and maps that rename keys: everything that holds without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slotferry._core import KeyMap
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.faults.followed import FollowedJob, keys_held
from tests.integration.following import Writer
from tests.integration.test_following import Workload

TAGS = r"^(\d+):(\d+)$ => t{$1}:$2"
PREFIX = ("--add-prefix", "new:")
REWRITE = ("--rewrite", TAGS, "--strip-prefix", "old:")


@pytest.fixture
def job(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> FollowedJob:
    return FollowedJob(source.url, cluster.url, tmp_path / "journal.db")


def assert_equal_as_named(job: FollowedJob, source: LocalServer, cluster: LocalCluster, *rules: str) -> None:
    """Wait until both sides hold as many keys, then compare them under the rules."""
    with source.client() as client:
        wait_until(lambda: keys_held(cluster) == client.dbsize(), "the counts differ", timeout=60)
    verified = run("verify", job.url, job.target, "--journal", str(job.journal), "--job", "compared", *rules)
    assert verified.code == 0, verified.stdout + verified.stderr


@contextmanager
def followed(job: FollowedJob, *more: str) -> Iterator[Running]:
    """A run that follows; killed on exit, where it goes on still."""
    with job.start(*more) as running:
        job.wait_following(running)
        yield running


def wait_value(cluster: LocalCluster, key: str, value: Any) -> None:
    with cluster.client() as client:
        wait_until(lambda: client.get(key) == value, f"{key} is not {value}", timeout=60)


@pytest.mark.parametrize("rules", [PREFIX, REWRITE], ids=["prefix", "rewrite"])
@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_what_is_written_arrives_under_its_names_whatever_is_killed(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob, rules: tuple[str, ...]
) -> None:
    with source.client() as client:
        client.mset({f"old:still:{number}": number for number in range(5000)})
        workload = Workload(client)

        def write(number: int) -> None:
            workload(number)
            client.delete(f"old:still:{number}")

        with Writer(write) as writer:
            for _ in range(3):
                with followed(job, *rules) as running:
                    writer.wait_more(200)
                    running.kill()
            with followed(job, *rules) as running:
                writer.wait_more(200)
        with followed(job, *rules) as running:
            assert_equal_as_named(job, source, cluster, *rules)
            done = job.cut_over("--check", "full", "--hold", "0s")
            assert done.code == 0, done.stdout + done.stderr
            assert done.lines[-1]["differences"] == 0
            # Some expire between the two looks, or just then and are looked at once more.
            assert done.lines[-1]["checked"] >= client.dbsize()
            assert running.finish().summary["status"] == "cut_over"


@pytest.mark.parametrize("rules", [PREFIX, REWRITE], ids=["prefix", "rewrite"])
def test_after_a_gap_both_directions_are_compared_under_the_rules(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob, rules: tuple[str, ...]
) -> None:
    with source.client() as client:
        client.mset({f"1:{number}": number for number in range(500)})
        client.mset({f"old:{number}": number for number in range(500)})
        client.config_set("repl-backlog-size", 16384)
        with followed(job, *rules) as running:
            running.kill()
        client.delete(*(f"1:{number}" for number in range(0, 500, 2)))
        client.delete(*(f"old:{number}" for number in range(0, 500, 3)))
        client.mset({f"1:{number}": "again" for number in range(1, 500, 2)})
        client.rpush("old:list", 1, 2)
        client.publish("filler", b"x" * 100_000)
        with followed(job, *rules):
            job.wait_settled()
            assert job.live()["follow"]["resyncs"] == 1
            assert_equal_as_named(job, source, cluster, *rules)


@pytest.mark.parametrize("rules", [PREFIX, REWRITE], ids=["prefix", "rewrite"])
def test_an_emptied_source_empties_the_target_where_it_may(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob, rules: tuple[str, ...]
) -> None:
    with source.client() as client:
        client.mset({f"old:{number}": number for number in range(300)})
        client.mset({f"1:{number}": number for number in range(300)})
        with followed(job, *rules, "--on-flush", "apply"):
            assert keys_held(cluster) == 600
            with cluster.client() as target:
                target.set("!", "not a name that a prefix gives")
            client.flushdb()
            client.set("1:1", "new")
            kept = 2 if rules == PREFIX else 1
            wait_until(lambda: keys_held(cluster) == kept, "the target is not emptied", timeout=60)


def shared(job: FollowedJob) -> dict[str, str]:
    """Return what the job has recorded of each key that shares its name."""
    failures = [line for line in job.show() if line["type"] == "failure"]
    return {line["key"]: line["message"] for line in failures if line["kind"] == "collision"}


def test_a_second_key_of_one_name_is_recorded_and_neither_overwrites_the_other(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    with source.client() as client:
        client.set("1:1", "first")
        with followed(job, *REWRITE) as running:
            client.set("t{1}:1", "second")
            wait_until(lambda: "t{1}:1" in shared(job), "no collision is recorded", timeout=60)
            assert "the source has 1:1 too" in shared(job)["t{1}:1"]
            wait_value(cluster, "t{1}:1", b"first")
            refused = job.cut_over()
            assert refused.code == 3, refused.stderr
            assert "t{1}:1" in refused.lines[-1]["reason"]
            running.kill()
        with followed(job, *REWRITE):
            client.set("other", 1)
            wait_value(cluster, "other", b"1")
            assert "t{1}:1" in shared(job)
            wait_value(cluster, "t{1}:1", b"first")
            client.delete("1:1")
            wait_value(cluster, "t{1}:1", b"second")
            wait_until(lambda: not shared(job), "the collision stays", timeout=60)
            done = job.cut_over("--hold", "0s")
            assert done.code == 0, done.stderr


def test_a_key_that_is_renamed_to_the_name_that_it_has_at_the_target_stays_there(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    with source.client() as client, followed(job, *REWRITE):

        def write(number: int) -> None:
            key = f"1:{number % 50}"
            with client.pipeline(transaction=number % 2 == 0) as pipe:
                pipe.set(key, number).rename(key, f"t{{1}}:{number % 50}")
                if number % 3 == 0:
                    pipe.rename(f"t{{1}}:{number % 50}", key)
                if number % 7 == 0:
                    pipe.delete(key)
                pipe.execute()

        with Writer(write) as writer:
            writer.wait_more(1000)
        # Each pair of names held one key at a time, but for those that were set anew.
        for number in range(50):
            client.delete(f"1:{number}")
            client.set(f"t{{1}}:{number}", number)
        for number in range(50):
            wait_value(cluster, f"t{{1}}:{number}", str(number).encode())
        wait_until(lambda: not shared(job), "collisions stay", timeout=60)
        done = job.cut_over("--check", "full", "--hold", "0s")
        assert done.code == 0, done.stdout + done.stderr


def test_one_database_is_followed_into_a_prefix_and_the_others_are_not(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    route = ("--db", "2", "--map-db", "2=prefix:db2:", "--skip-check", "databases")
    with source.client(db=2) as client, source.client() as zero:
        client.mset({f"k:{number}": number for number in range(1000)})
        zero.mset({f"k:{number}": "zero" for number in range(10)})
        with followed(job, *route) as running:
            for number in range(200):
                zero.set(f"k:{number}", "zero again")
                client.incr("counter")
                if number % 10 == 0:
                    client.move(f"k:{number}", 5)
                    zero.set(f"moved:{number}", number)
                    zero.move(f"moved:{number}", 2)
            wait_value(cluster, "db2:counter", b"200")
            wait_value(cluster, "db2:moved:190", b"190")
            wait_until(lambda: keys_held(cluster) == client.dbsize(), "the counts differ", timeout=60)
            done = job.cut_over("--check", "full", "--hold", "0s")
            assert done.code == 0, done.stdout + done.stderr
            # Some expire between the two looks, or just then and are looked at once more.
            assert done.lines[-1]["checked"] >= client.dbsize()
            assert running.finish().summary["status"] == "cut_over"
        with cluster.client() as target:
            assert target.exists("k:1", "db2:k:10") == 0


def test_what_is_written_to_the_followed_database_after_the_fence_is_seen(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    route = ("--db", "2", "--map-db", "2=0")
    with source.client(db=2) as client:
        client.set("counter", 0)
        with followed(job, *route):
            with Writer(lambda _: client.incr("counter")) as writer:
                writer.wait_more(10)
                refused = job.cut_over("--stop-writes", "none", "--check", "none", "--hold", "0s")
            assert refused.code == 3, refused.stdout
            assert "since the fence: counter" in refused.lines[-1]["reason"]
            done = job.cut_over("--hold", "0s")
            assert done.code == 0, done.stdout


def test_keys_that_a_filter_leaves_out_are_no_differences(
    source: LocalServer, cluster: LocalCluster, job: FollowedJob
) -> None:
    with source.client() as client, followed(job, "--match", "a:*"):
        client.mset({"a:1": 1, "b:1": 1})
        wait_value(cluster, "a:1", b"1")
        done = job.cut_over("--check", "sample", "--hold", "0s")
        assert done.code == 0, done.stdout


def test_names_of_the_target_lead_back_to_the_source() -> None:
    key_map = KeyMap(rules=[("rewrite", r"^(\d+):(.*)$", b"{$1}:$2", False)])
    assert not key_map.is_one_to_one
    assert key_map.without_way_back is None
    assert key_map.sources(b"{1}:a") == [b"1:a", b"{1}:a"]
