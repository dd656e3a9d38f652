"""Libraries of functions that come, change and go at a source that is followed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.followed import FollowedJob

SOURCES = ("redis-7.0", "redis-8.6", "valkey-9.1")


def _code(library: str, result: int = 1) -> str:
    return f"#!lua name={library}\nredis.register_function('{library}_f', function() return {result} end)"


class _Sides:
    """The libraries of source and target by name, as each server lists them."""

    def __init__(self, source: Redis, primaries: list[Redis]) -> None:
        self.source, self.primaries = source, primaries

    def wait_for(self, *names: str) -> None:
        """Wait until every primary has just these, and those of the source as they are there."""
        wait_until(lambda: self._holds(set(names)), f"not {names}: {[_listed(p) for p in self.primaries]}")

    def _holds(self, names: set[str]) -> bool:
        ours = _listed(self.source)
        return all(
            found.keys() == names and ours.items() <= found.items() for found in map(_listed, self.primaries)
        )


def _listed(client: Redis) -> dict[str, str]:
    return {entry[1].decode(): entry[-1].decode() for entry in client.function_list(withcode=True)}


@pytest.fixture
def sides(source: LocalServer, cluster: LocalCluster) -> Iterator[_Sides]:
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in (source, *cluster.primaries)]
        yield _Sides(clients[0], clients[1:])
        for client in clients:
            client.function_flush()


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_the_source_deletes_is_deleted_and_what_is_not_its_own_stays(
    source: LocalServer, cluster: LocalCluster, sides: _Sides, tmp_path: Path
) -> None:
    job = FollowedJob(source.url, cluster.url, tmp_path / "journal.db")
    for name in ("kept", "early", "away", "changed"):
        sides.source.function_load(_code(name))
    for primary in sides.primaries:
        primary.function_load(_code("own"))
    with job.start() as running:
        job.wait_following(running)
        sides.wait_for("kept", "early", "away", "changed", "own")
        sides.source.function_load(_code("late"))
        sides.wait_for("kept", "early", "away", "changed", "late", "own")
        sides.source.function_delete("early")
        sides.source.function_load(_code("kept", 2), replace=True)
        sides.wait_for("kept", "away", "changed", "late", "own")
        running.send(signal.SIGKILL)
        running.finish()
    sides.source.function_delete("away")
    sides.source.function_delete("changed")
    for primary in sides.primaries:
        primary.function_load(_code("changed", 3), replace=True)
    with job.start() as running:
        job.wait_following(running)
        sides.wait_for("kept", "changed", "late", "own")
        assert _listed(sides.primaries[0])["changed"] == _code("changed", 3)
        sides.source.function_flush()
        sides.wait_for("changed", "own")
