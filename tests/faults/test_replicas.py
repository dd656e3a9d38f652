"""What a primary acknowledged and took with it: with `--wait-replicas` the journal does not call it done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.errors import JobMismatchError, TargetLostError, TargetNotReadyError
from slotferry.model.events import Event, Notice, Progress
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.paused import paused_migration
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal

KEYS = 100_000


def test_with_replicas_all_is_confirmed_and_recorded(filled: LocalServer, replicated: LocalCluster) -> None:
    report = migrate(filled, replicated, wait_replicas=1)
    assert report.ok
    assert report.keys.migrated == KEYS
    for replica in replicated.replicas:
        with replica.client() as client:
            assert client.dbsize() > 0
    assert_equal(filled, replicated, byte_equal=True)


def test_without_replicas_enough_the_checkpoint_stays_back(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    options = Options(skip_check=["replicas"], **_options(retry_for=1.0, job="nightly"))
    migration = Migration(filled.url, cluster.url, options)
    with pytest.raises(TargetLostError, match="checkpoint held back: 0 of 1 replicas of"):
        migration.run()
    assert migration.report is not None
    assert migration.report.keys.scanned == 0  # all of it was written, none of it is called done
    assert count_keys(cluster) == KEYS
    with pytest.raises(JobMismatchError, match="wait-replicas: the journal has 1, the command says 0"):
        migrate(filled, cluster, job="nightly")


def _options(**more: Any) -> dict[str, Any]:
    return {"wait_replicas": 1, "wait_timeout": 50, **more}


def test_more_replicas_than_there_are_is_refused_before_anything_is_written(
    filled: LocalServer, cluster: LocalCluster, replicated: LocalCluster
) -> None:
    bare = ", ".join(f"{node.address} has 0" for node in sorted(cluster.primaries, key=lambda n: n.port))
    refusal = f"--wait-replicas 1 asks for more replicas than there are: {bare}"
    with pytest.raises(TargetNotReadyError, match=re.escape(refusal)) as raised:
        migrate(filled, cluster, **_options())
    assert "leave out --wait-replicas" in raised.value.hint
    assert count_keys(cluster) == 0

    with pytest.raises(TargetNotReadyError, match=f"{replicated.primaries[0].address} has 1") as raised:
        migrate(filled, replicated, **_options(wait_replicas=2))
    assert "give --wait-replicas 1" in raised.value.hint


def test_a_user_who_may_not_wait_is_refused(filled: LocalServer, cluster: LocalCluster) -> None:
    for node in cluster.primaries:
        with node.client() as client:
            client.execute_command("ACL", "SETUSER", "ferry", "on", ">pass", "~*", "+@all", "-wait")
    target = cluster.url.replace("redis+cluster://", "redis+cluster://ferry:pass@")
    try:
        with pytest.raises(TargetNotReadyError, match="refuses the barrier before a checkpoint: NOPERM"):
            Migration(filled.url, target, Options(wait_replicas=1, skip_check=["replicas"])).run()
    finally:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "DELUSER", "ferry")


def test_what_a_dead_primary_had_acknowledged_alone_is_sent_again(
    filled: LocalServer, replicated: LocalCluster
) -> None:
    primary, replica = replicated.primaries[0], replicated.replicas[0]
    with paused_migration(filled, replicated, wait_replicas=1, wait_timeout=100) as paused:
        events = paused.migration.events()
        with primary.client() as client:
            wait_until(lambda: client.wait(1, 100) == 1, "the replica to have what came before")
            # From here on the replica gets nothing more: it can't log in again. Who is logged in stays so.
            client.config_set("requirepass", "only now")
            client.client_kill_filter(_type="replica")
            had = client.dbsize()
            paused.proxy.resume()
            wait_until(lambda: client.dbsize() > had + 1000, "keys that the replica has not")
            primary.kill()
        with replica.client() as client:
            client.execute_command("CLUSTER", "FAILOVER", "TAKEOVER")
        primary.start()  # as the replica that the new primary needs for its checkpoints
        report = paused.resume()
    assert report.ok
    notices = [event.message for event in events if isinstance(event, Notice)]
    assert any("is sent again" in notice and primary.address in notice for notice in notices), notices
    assert report.keys.migrated + report.keys.unchanged == report.keys.scanned
    replicated.wait_until_healthy()
    assert_equal(filled, replicated, byte_equal=True)


def test_a_replica_that_comes_back_releases_the_checkpoint(
    filled: LocalServer, replicated: LocalCluster
) -> None:
    replica = replicated.replicas[1]
    with paused_migration(filled, replicated, wait_replicas=1, wait_timeout=100) as paused:
        replica.kill()
        paused.proxy.resume()
        reason = _reason(paused.migration.events(), "checkpoint held back")
        assert f"0 of 1 replicas of {replicated.primaries[1].address}" in reason
        replica.start()
        report = paused.resume()
    assert report.ok
    assert_equal(filled, replicated, byte_equal=True)


def _reason(events: Iterator[Event], part: str) -> str:
    for event in events:
        if isinstance(event, Progress) and part in event.reason:
            return event.reason
    raise AssertionError(f"the run ended and never said {part!r}")
