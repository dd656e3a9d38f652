"""Following through what servers do: a target that loses what it had, and a source that fails over."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.migrate.following import comparison
from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer, wait_until
from slotferry.topology.discovery import TargetFacts, discover_target
from tests.faults.followed import JOB, FollowedJob, assert_soon_equal
from tests.faults.test_follow import fill
from tests.faults.test_sentinel import Story
from tests.servers.kinds import ServerKind


def test_what_the_target_loses_is_copied_again(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    fill(source)
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    with source.client() as client, job.start() as running:
        job.wait_following(running)
        with cluster.primaries[0].client() as node:
            node.flushall()
        wait_until(lambda: job.live()["follow"]["touched"] == 0, "keys stay touched")
        assert_soon_equal(source, cluster)
        client.set("more", 1)
        assert_soon_equal(source, cluster)


def test_a_node_that_dies_while_both_sides_are_compared_may_come_back(
    kind: ServerKind,
    source: LocalServer,
    stack: ExitStack,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(source)
    cluster = stack.enter_context(LocalCluster(kind.binary))
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    emptied, killed, _ = cluster.primaries

    def look(*sides: Any) -> TargetFacts:
        monkeypatch.setattr(comparison, "discover_target", discover_target)
        killed.kill()
        return discover_target(*sides)

    monkeypatch.setattr(comparison, "discover_target", look)
    with Migration(source.url, cluster.url, Options(follow=True, journal=job.journal, job=JOB)) as migration:
        history = Story(migration)
        migration.start()
        wait_until(lambda: job.live().get("state") == "following", "it does not follow", timeout=60)
        with emptied.client() as node:
            node.flushall()
        wait_until(lambda: history.tells(killed.address, "is looked at again"), "it does not fail")
        killed.start()
        cluster.wait_until_healthy()
        wait_until(lambda: history.tells("both sides are compared:"), "they are not compared", timeout=60)
        assert_soon_equal(source, cluster)


def test_a_source_that_fails_over_is_followed_on(
    kind: ServerKind, stack: ExitStack, cluster: LocalCluster, tmp_path: Path
) -> None:
    service = stack.enter_context(LocalSentinelService(kind.binary))
    fill(service.primary)
    job = FollowedJob(service.url, cluster.url, tmp_path / "journal.db")
    with job.start() as running:
        job.wait_following(running)
        with service.primary.client() as client:
            client.set("before", 1)
        with cluster.client() as target:
            wait_until(lambda: target.exists("before") == 1, "it is not followed")
            service.fail_over()
            with service.primary.client() as client:
                client.set("after", 1)
            wait_until(lambda: target.exists("after") == 1, "it is not followed on", timeout=60)
