"""Keys that would share a name, filters of what a key is, and what else belongs to the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis

from slotferry import Migration, Options
from slotferry.errors import RefusedError, SourceNotReadyError, TargetNotReadyError
from slotferry.jobs.journal.journal import Journal
from slotferry.model.events import Notice
from slotferry.model.rules import AddPrefix, Rewrite, StripPrefix
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys, migrate
from tests.servers.kinds import ServerKind, available


def test_colliding_names_are_refused_before_anything_is_written(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as first, source.client(db=2) as second:
        first.mset({f"key:{i}": i for i in range(20_000)})
        first.mset({"old:key:7": "seven", "old:other": "other"})
        second.mset({f"key:{i}": -i for i in range(100)})
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rules": [StripPrefix("old:")]}, "2 keys of the source would share 1 names: .*become key:7"),
        ({"rules": [Rewrite("^.*$", "one")]}, "the rules give all 20,002 keys one name"),
        ({"db": "all", "map_db": ["2=0"]}, "200 keys of the source would share 100 names"),
        ({"db": (0, 2), "map_db": ["2=0"], "memory_limit": 1 << 20}, "key:0 of database 2"),
    ]
    for options, says in cases:
        with pytest.raises(RefusedError, match=says) as caught:
            migrate(source, cluster, **options)
        assert caught.value.exit_code == 4
        assert "--on-collision record" in caught.value.hint
    assert count_keys(cluster) == 0
    # Names that change and stay apart are no collisions.
    assert migrate(source, cluster, rules=[StripPrefix("old:key"), AddPrefix("x:")]).keys.migrated == 20_002


@pytest.mark.parametrize(
    ("on_conflict", "counts"),
    [("error", (101, 0, 1)), ("skip", (101, 1, 0)), ("replace", (102, 0, 0))],
)
def test_recorded_collisions_follow_the_conflict_policy(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path, on_conflict: str, counts: tuple[int, int, int]
) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as old:
        old.mset({f"key:{i}": i for i in range(100)})
        old.mset({"old:a": "1", "a": "2"})

    report = migrate(
        source,
        cluster,
        rules=[StripPrefix("old:")],
        on_collision="record",
        on_conflict=on_conflict,
        journal=journal,
        job="job",
    )

    assert (report.keys.migrated, report.keys.skipped, report.keys.failed) == counts
    assert report.collisions == 1
    with Journal.open(journal) as opened:
        (note,) = opened.notes("job", 10)
        assert note.kind == "collision"
        assert "become a" in note.message


def test_values_that_are_equal_collide_without_harm(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({"old:a": "1", "a": "1"})
    report = migrate(source, cluster, rules=[StripPrefix("old:")], on_collision="unchecked")
    assert report.ok
    assert (report.keys.migrated, report.keys.unchanged) == (1, 1)


def test_a_dry_run_tells_of_collisions(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({"old:a": "1", "a": "2", "b": "3"})
    options = Options(rules=[StripPrefix("old:")], dry_run=True)
    with Migration(source.url, cluster.url, options) as migration:
        notices = [event.message for event in migration.events() if isinstance(event, Notice)]
        assert migration.result().keys.scanned == 3
    assert any("2 keys of the source would share 1 names" in notice for notice in notices)


def test_keys_are_chosen_by_what_they_are(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        for i in range(2_000):
            old.set(f"string:{i}", "x", ex=10_000 if i % 4 else None)
        for i in range(300):
            old.hset(f"hash:{i}", "f", "v")
            old.rpush(f"list:{i}", "a")
            old.set(f"large:{i}", "x" * 2_000)
    cases: list[tuple[dict[str, Any], int]] = [
        ({"type": ["hash", "list"]}, 600),
        ({"exclude_type": ["string"]}, 600),
        ({"type": "string", "exclude_type": ["list"]}, 2_300),
        ({"min_size": 1_000}, 300),
        ({"max_size": 1_000}, 2_600),
        ({"without_ttl": True}, 1_400),
        ({"min_ttl": 20_000}, 1_400),
        ({"min_ttl": 60, "type": "string", "min_size": 1_000}, 300),
        ({"match": "hash:*", "without_ttl": True, "exclude": ["hash:1*"]}, 189),
    ]
    for options, expected in cases:
        report = migrate(source, cluster, dry_run=True, **options)
        assert report.keys.scanned == expected, options
    # So small a keyspace is scanned by one: with more, keys come twice.
    report = migrate(source, cluster, type=["hash", "list"], without_ttl=True, parallel_scans=8)
    assert report.keys.add_up
    assert report.keys.migrated == count_keys(cluster) == 600


def test_what_is_left_out_is_never_read(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({f"key:{i}": "x" for i in range(500)})
        old.rpush("list", "a")
        old.config_resetstat()
        assert migrate(source, cluster, exclude_type=["string"]).keys.migrated == 1
        # The preflight asks for one that is not there.
        assert old.info("commandstats")["cmdstat_dump"]["calls"] <= 2


def test_idle_times_are_carried_over(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("fresh", "no small integer: these are shared objects")
        payload = old.dump("fresh")
        assert payload is not None
        for i in range(200):
            old.restore(f"key:{i}", 0, payload, idletime=100_000 + i * 100)
        report = migrate(source, cluster, keep_eviction_metadata=True, rules=[AddPrefix("new:")])
        assert report.keys.migrated == 201
        for i in range(0, 200, 20):
            idle = new.object("idletime", f"new:key:{i}")
            # LRU clocks run in steps of some seconds.
            assert abs(int(idle) - (100_000 + i * 100)) < 120
        assert int(new.object("idletime", "new:fresh")) < 100


def test_frequencies_are_carried_over_and_mismatches_refused(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("key", "value")
        payload = old.dump("key")
        assert payload is not None
        old.config_set("maxmemory-policy", "allkeys-lfu")
        try:
            with pytest.raises(
                SourceNotReadyError, match=r"evicts by idle times, and the source .* allkeys-lfu"
            ):
                migrate(source, cluster, keep_eviction_metadata=True)
            for node in cluster.primaries:
                with node.client() as client:
                    client.config_set("maxmemory-policy", "volatile-lfu")
            old.restore("hot", 0, payload, frequency=200)
            assert migrate(source, cluster, keep_eviction_metadata=True).ok
            assert 195 <= int(new.object("freq", "hot")) <= 201
        finally:
            old.config_set("maxmemory-policy", "noeviction")
            for node in cluster.primaries:
                with node.client() as client:
                    client.config_set("maxmemory-policy", "noeviction")


LIBRARY = (
    "#!lua name=mylib\n"
    "redis.register_function{function_name='f', callback=function() return %d end, flags={'no-writes'}}"
)


def _functions(cluster: LocalCluster) -> list[int | None]:
    """What the function answers on each primary."""
    answers: list[int | None] = []
    for node in cluster.primaries:
        with node.client() as client:
            try:
                answers.append(int(client.fcall("f", 0)))
            except redis.ResponseError:
                answers.append(None)
    return answers


def test_functions_go_to_every_primary(source: LocalServer, cluster: LocalCluster, kind: ServerKind) -> None:
    with source.client() as old:
        if kind.product == "redis" and kind.version < (7, 0):
            pytest.skip("functions came with Redis 7.0")
        old.function_load(LIBRARY % 1)
        old.set("key", 1)
    try:
        assert migrate(source, cluster, functions=False).ok
        assert _functions(cluster) == [None, None, None]
        assert migrate(source, cluster).ok
        assert _functions(cluster) == [1, 1, 1]
        assert migrate(source, cluster).ok
        with source.client() as old:
            old.function_load(LIBRARY % 2, replace=True)
        with pytest.raises(TargetNotReadyError, match="another function library mylib"):
            migrate(source, cluster)
        assert migrate(source, cluster, on_conflict="skip", job="skip").ok
        assert _functions(cluster) == [1, 1, 1]
        assert migrate(source, cluster, on_conflict="replace", job="replace").ok
        assert _functions(cluster) == [2, 2, 2]
    finally:
        with source.client() as old:
            old.function_flush()
        for node in cluster.primaries:
            with node.client() as client:
                client.function_flush()


def test_functions_and_a_target_without(source: LocalServer, stack: Any) -> None:
    if "redis-6.2" not in available():
        pytest.skip("takes a Redis 6.2")
    cluster = stack.enter_context(LocalCluster(available()["redis-6.2"].binary))
    with source.client() as old:
        old.function_load(LIBRARY % 1)
        old.set("key", 1)
    try:
        with pytest.raises(TargetNotReadyError, match="has no functions"):
            migrate(source, cluster)
        assert migrate(source, cluster, functions=False).ok
    finally:
        with source.client() as old:
            old.function_flush()
