"""Runs in a coroutine: the loop goes on, a cancelled task ends its run in order, and no thread is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from slotferry import Migration, Options, Verification
from slotferry.errors import SourceLostError, UsageError
from slotferry.model.events import Progress, RunEnded
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 20_000
_SLOW = Options(max_keys_per_second=2_000)


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    # Those that the run has asked to end need a moment.
    wait_until(lambda: not set(threading.enumerate()) - before, "the threads of the run to end")


def test_a_run_is_awaited_while_the_loop_goes_on(filled: LocalServer, cluster: LocalCluster) -> None:
    async def both() -> int:
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turn())
        report = await Migration(filled.url, cluster.url).run_async()
        other.cancel()
        assert (report.ok, report.keys.migrated) == (True, _KEYS)
        return turns

    assert asyncio.run(both()) > 1
    report = asyncio.run(Verification(filled.url, cluster.url).run_async())
    assert (report.ok, report.keys.unchanged) == (True, _KEYS)


def test_events_are_followed(filled: LocalServer, cluster: LocalCluster) -> None:
    async def follow() -> None:
        migration = Migration(filled.url, cluster.url)
        events = [event async for event in migration.events_async()]
        assert isinstance(events[-1], RunEnded)
        assert [type(event) for event in events].count(RunEnded) == 1
        assert any(isinstance(event, Progress) for event in events)
        assert [event async for event in migration.events_async()] == [events[-1]]

    asyncio.run(follow())


def test_a_cancelled_task_ends_its_run_in_order(filled: LocalServer, cluster: LocalCluster) -> None:
    async def cancelled() -> None:
        migration = Migration(filled.url, cluster.url, _SLOW)
        task = asyncio.create_task(migration.run_async())
        while not count_keys(cluster):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert migration.report is not None
        assert migration.report.status == "interrupted"

    asyncio.run(cancelled())
    assert Migration(filled.url, cluster.url).run().keys.scanned >= _KEYS


def test_leaving_the_block_ends_the_run(filled: LocalServer, cluster: LocalCluster) -> None:
    async def leave() -> None:
        async with Migration(filled.url, cluster.url, _SLOW) as migration:
            async for event in migration.events_async():
                if isinstance(event, Progress) and event.keys.migrated:
                    break
        assert migration.report is not None
        assert migration.report.status == "interrupted"

    asyncio.run(leave())


def test_errors_come_out_as_of_run(cluster: LocalCluster) -> None:
    migration = Migration("redis://127.0.0.1:1", cluster.url)
    with pytest.raises(SourceLostError):
        asyncio.run(migration.run_async())
    with pytest.raises(UsageError, match="runs once"):
        asyncio.run(migration.run_async())
