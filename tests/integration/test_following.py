"""Following a live source: what is written during and after the copy reaches the target, on real servers."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from slotferry._core import EngineError, ErrorKind, FollowSettings, key_slot
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal
from tests.servers.proxy import Proxy

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")


class Workload:
    """Writes of every type over some names: transactions, scripts, renames, copies, expiry, deletion."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._random = random.Random(13)
        self.counter = 0

    def __call__(self, number: int) -> None:
        pick, client = self._random.randrange(17), self._client
        name = f"{pick}:{self._random.randrange(60)}"
        other = f"{pick}:{self._random.randrange(60, 120)}"
        with client.pipeline(transaction=number % 3 == 0) as pipe:
            pipe.incr("counter")
            self.counter += 1
            self._write(pipe, pick, name, other, number)
            pipe.execute()

    def _write(self, pipe: Any, pick: int, name: str, other: str, number: int) -> None:
        if pick == 0:
            pipe.set(name, number)
        elif pick == 1:
            pipe.set(name, number, px=1 + number % 50)
        elif pick == 2:
            pipe.hset(name, f"f{number % 20}", number)
        elif pick == 3:
            pipe.rpush(name, number).ltrim(name, -50, -1)
        elif pick == 4:
            pipe.sadd(name, number % 30).srem(name, number % 7)
        elif pick == 5:
            pipe.zadd(name, {f"m{number % 40}": number})
        elif pick == 6:
            pipe.xadd(name, {"n": number}, maxlen=30, approximate=False)
        elif pick == 7:
            pipe.delete(name)
            pipe.set(other, number)
        elif pick == 8:
            pipe.set(name, number).rename(name, other)
        elif pick == 9:
            pipe.incrbyfloat(name, 0.5)
        elif pick == 10:
            pipe.sadd(name, number % 9).sunionstore(other, [name, other])
        elif pick == 11:
            pipe.set(name, number).copy(name, other, replace=True)
        elif pick == 12:
            pipe.eval(
                "redis.call('SET', KEYS[1], ARGV[1]) redis.call('PEXPIRE', KEYS[1], 60000)", 1, name, number
            )
        elif pick == 13:
            pipe.mset({name: number, other: number})
        elif pick == 14:
            pipe.rpush(name, number).lmove(name, other, "LEFT", "RIGHT")
        elif pick == 15:
            pipe.set(name, number, px=5).expire(name, 1000)
        else:
            pipe.setrange(name, number % 100, b"x").unlink(other)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_is_written_meanwhile_and_afterwards_reaches_the_target(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        with client.pipeline(transaction=False) as pipe:
            for number in range(20_000):
                pipe.set(f"still:{number}", number)
            pipe.execute()
        workload = Workload(client)
        with Following(source, cluster) as following:
            with Writer(workload) as writer:
                following.wait_event("follow_attached")
                following.wait_copied()
                writer.wait_more(1500)
            following.wait_clean()
            assert client.get("counter") == str(workload.counter).encode()
            assert_equal(source, cluster)
            # Keys that expire by themselves are touched still.
            wait_until(lambda: following.progress.touched == 0, "keys stay touched")
            progress = following.progress
            assert progress.writes >= writer.count
            assert progress.resyncs == 0
            assert not progress.in_doubt
            counts = following.job.snapshot().counts
            assert counts.failed == counts.pending == 0
            assert counts.scanned == counts.migrated + counts.vanished + counts.expired
            with source.client() as other:
                other.select(1)
                other.set("elsewhere", 1)
            client.delete("still:7")
            following.wait_clean()
            with cluster.client() as target:
                assert target.exists("still:7", "elsewhere") == 0
                assert target.get("counter") == str(workload.counter).encode()


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_a_stream_that_is_cut_off_goes_on_where_it_was(source: LocalServer, cluster: LocalCluster) -> None:
    with Proxy(source.host, source.port) as proxy, source.client() as client:
        workload = Workload(client)
        with Following(source, cluster, via=(proxy.host, proxy.port)) as following:
            with Writer(workload) as writer:
                following.wait_event("follow_attached")
                for _ in range(5):
                    writer.wait_more(200)
                    proxy.cut()
                    following.wait_event("follow_lost")
                    following.wait_event("follow_attached")
            following.wait_clean()
            assert following.progress.resyncs == 0
            assert_equal(source, cluster)


def test_another_run_goes_on_from_the_mark(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        workload = Workload(client)
        with Following(source, cluster) as following, Writer(workload) as writer:
            following.wait_event("follow_attached")
            following.wait_copied()
            writer.wait_more(300)
            checkpoint = following.job.checkpoint()
        assert checkpoint.follow is not None
        position, in_doubt = checkpoint.follow
        assert not in_doubt
        for number in range(200):
            workload(number)
        with Following(source, cluster, position=position, copies=False) as following:
            following.wait_event("follow_attached")
            following.wait_clean()
            assert following.progress.resyncs == 0
            assert_equal(source, cluster)


def test_a_backlog_that_is_gone_is_a_doubt_that_a_comparison_settles(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        client.set("changed", 1)
        client.set("gone", 1)
        with Following(source, cluster) as following:
            following.wait_event("follow_attached")
            following.wait_copied()
            following.wait_clean()
            checkpoint = following.job.checkpoint()
        assert checkpoint.follow is not None
        position, _ = checkpoint.follow
        client.set("changed", 2)
        client.delete("gone")
        client.set("new", 3)
        client.config_set("repl-backlog-size", 16384)
        for _ in range(50):
            client.publish("filler", b"x" * 1000)
        with Following(source, cluster, position=position, copies=False) as following:
            following.wait_event("follow_resynced")
            following.wait_event("comparison_wanted")
            client.set("later", 4)
            wait_until(lambda: following.progress.copied > 0, "nothing is followed meanwhile")
            progress = following.progress
            assert progress.in_doubt
            assert progress.resyncs == 1
            assert progress.lag_bytes > 0
            offset = client.info("replication")["master_repl_offset"]
            assert not following.job.wait_clean(offset, 0.2)
            assert following.job.begin_comparison() == (True, [])
            following.job.end_comparison([b"changed", b"gone", b"new"])
            following.wait_clean()
            assert_equal(source, cluster)


def test_an_emptied_source_stops_the_job_and_the_next_run_too(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        client.set("a", 1)
        with Following(source, cluster) as following:
            following.wait_event("follow_attached")
            following.wait_copied()
            client.flushdb()
            wait_until(lambda: following.job.wait(0.1), "the job goes on")
            checkpoint = following.job.checkpoint()
            with pytest.raises(EngineError, match="emptied") as error:
                following.job.result()
            assert error.value.args[0] == ErrorKind.SOURCE_FLUSHED
        assert checkpoint.follow is not None
        with Following(source, cluster, position=checkpoint.follow[0], copies=False) as following:
            wait_until(lambda: following.job.wait(0.1), "the job goes on")
            with pytest.raises(EngineError, match="emptied"):
                following.job.result()
        with cluster.client() as target:
            assert target.get("a") == b"1"
        again = Following(source, cluster, position=checkpoint.follow[0], copies=False, on_flush="compare")
        with again as following:
            following.wait_event("comparison_wanted")
            assert following.job.begin_comparison() == (True, [])
            following.job.end_comparison([b"a"])
            following.wait_clean()
            assert_equal(source, cluster)


def test_rules_and_filters_of_names_hold_for_what_is_followed(
    source: LocalServer, cluster: LocalCluster
) -> None:
    from slotferry._core import KeyMap

    rules = KeyMap(globs=[b"a:*"], rules=[("add_prefix", "", b"new:", False)])
    with source.client() as client, Following(source, cluster, key_map=rules) as following:
        following.wait_event("follow_attached")
        client.mset({"a:1": 1, "b:1": 1, "a:2": 2})
        client.delete("a:2")
        following.wait_clean()
        with cluster.client() as target:
            found = {key for node in cluster.primaries for key in keys_of(node)}
            assert found == {b"new:a:1"}
            assert target.get("new:a:1") == b"1"


def test_following_ends_well_when_it_is_asked_to(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, Following(source, cluster) as following:
        following.wait_event("follow_attached")
        client.set("last", 1)
        following.job.finish_following(client.info("replication")["master_repl_offset"])
        wait_until(lambda: following.job.wait(0.1), "the job goes on")
        following.job.result()
        assert_equal(source, cluster)


def test_a_key_that_is_written_all_the_time_is_copied_now_and_then(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, Following(source, cluster) as following:
        following.wait_event("follow_attached")
        for _ in range(50):
            with client.pipeline(transaction=False) as pipe:
                for _ in range(100):
                    pipe.incr("hot")
                pipe.execute()
        following.wait_clean()
        progress = following.progress
        assert progress.writes == 5000
        assert progress.copied < 500
        with cluster.client() as target:
            assert target.get("hot") == b"5000"


def test_large_keys_are_followed_in_chunks(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        client.rpush("list", *range(20_000))
        client.hset("hash", mapping={str(number): "x" * 20 for number in range(20_000)})
        with Following(source, cluster, big_key_bytes=50_000) as following:
            following.wait_event("follow_attached")
            following.wait_copied()
            for number in range(5):
                client.rpush("list", f"more {number}")
                client.hset("hash", "more", number)
                client.set("small", number)
                following.wait_clean()
            assert_equal(source, cluster)
            client.delete("hash")
            client.ltrim("list", 0, 10)
            following.wait_clean()
            assert_equal(source, cluster)


def test_more_touched_keys_than_fit_become_slots_for_a_comparison(
    source: LocalServer, cluster: LocalCluster
) -> None:
    names = [f"{number}:{'x' * 1000}" for number in range(3000)]
    tight = FollowSettings(memory=1 << 20)
    with (
        source.client() as client,
        cluster.client() as target,
        Following(source, cluster, follow=tight) as following,
    ):
        following.wait_event("follow_attached")
        following.wait_copied()
        client.mset(dict.fromkeys(names, "1"))
        following.wait_event("comparison_wanted")
        progress = following.progress
        assert progress.doubtful_slots > 0
        assert progress.touched_bytes <= 1 << 20
        rounds = 0
        while following.progress.in_doubt:
            everything, slots = following.job.begin_comparison()
            assert not everything
            doubtful = [name for name in names if key_slot(name) in set(slots)]
            lacking = [name.encode() for name in doubtful if not target.exists(name)]
            following.job.end_comparison(lacking)
            wait_until(lambda: not following.progress.comparing, "the comparison does not end")
            wait_until(lambda: following.progress.touched == 0, "keys stay touched")
            rounds += 1
        assert 0 < rounds < 50
        following.wait_clean()
        assert_equal(source, cluster)


def test_keys_of_an_earlier_run_are_settled_by_being_followed(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        client.mset({"pending": 1, "other": 2})
        with Following(source, cluster, copies=False, keys=[b"pending", b"gone"]) as following:
            following.wait_event("follow_attached")
            resolved: set[bytes] = set()

            def are_resolved() -> bool:
                resolved.update(following.job.checkpoint().resolved)
                return resolved == {b"pending", b"gone"}

            wait_until(are_resolved, "the keys are not copied")
            with cluster.client() as target:
                assert target.get("pending") == b"1"
                assert target.exists("gone", "other") == 0


def test_what_following_cannot_do_is_refused(source: LocalServer, cluster: LocalCluster) -> None:
    for settings in ({"delete_extra": True}, {"match": b"a*"}, {"scan_only": True}, {"type": "hash"}):
        with pytest.raises(EngineError, match="following needs on_conflict replace"):
            Following(source, cluster, **settings)


def keys_of(node: LocalServer) -> list[bytes]:
    with contextlib.closing(node.client()) as client:
        return list(client.scan_iter())
