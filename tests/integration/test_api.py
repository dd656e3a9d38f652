"""The Python API: events, threads, cancelling, contexts and forks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from slotferry import Migration
from slotferry.errors import ExitCode, JobMismatchError, UsageError
from slotferry.model.events import CheckpointSaved, Notice, Progress, RunEnded, RunStarted
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys, migrate
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 200_000


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def test_events_tell_a_run_from_its_start_to_its_end(filled: LocalServer, cluster: LocalCluster) -> None:
    migration = Migration(filled.url, cluster.url)

    # What the preflight and the journal have to say comes before the run starts.
    events = [event for event in migration.events() if not isinstance(event, Notice)]

    assert isinstance(events[0], RunStarted)
    assert events[0].expected_keys == _KEYS
    assert isinstance(events[-1], RunEnded)
    assert events[-1].report == migration.result()
    scanned = [event.keys.scanned for event in events if isinstance(event, Progress)]
    assert scanned == sorted(scanned)
    assert any(isinstance(event, CheckpointSaved) for event in events)
    assert all(isinstance(event.to_dict(), dict) for event in events)


def test_a_cancelled_run_saves_and_the_next_one_goes_on(filled: LocalServer, cluster: LocalCluster) -> None:
    migration = Migration(filled.url, cluster.url)
    for event in migration.events():
        if isinstance(event, Progress) and event.keys.migrated:
            migration.cancel()
    first = migration.result()
    assert first.status == "interrupted"
    assert first.exit_code == ExitCode.INTERRUPTED
    # A run that drains has every key that it wrote in its checkpoint.
    assert first.keys.migrated == count_keys(cluster) < _KEYS

    second = migrate(filled, cluster)

    assert second.ok
    assert second.resumed
    assert second.runs == 2
    assert second.keys.migrated == count_keys(cluster) == _KEYS


def test_leaving_the_context_ends_the_run(filled: LocalServer, cluster: LocalCluster) -> None:
    with Migration(filled.url, cluster.url) as migration:
        migration.start()
        next(event for event in migration.events() if isinstance(event, RunStarted))

    assert migration.result().status == "interrupted"
    after = count_keys(cluster)
    assert count_keys(cluster) == after
    assert not any(thread.name == "slotferry-run" and thread.is_alive() for thread in threading.enumerate())


def test_two_migrations_at_once_in_two_threads(source: LocalServer, cluster: LocalCluster) -> None:
    for database in (0, 1):
        with source.client(db=database) as client:
            client.mset({f"db{database}:{i}": i for i in range(5_000)})

    migrations = [Migration(f"{source.url}/{database}", cluster.url) for database in (0, 1)]
    for migration in migrations:
        migration.start()

    assert [migration.result(60).keys.migrated for migration in migrations] == [5_000, 5_000]
    assert count_keys(cluster) == 10_000


def test_a_migration_runs_once(source: LocalServer, cluster: LocalCluster) -> None:
    migration = Migration(source.url, cluster.url)
    migration.run()

    with pytest.raises(UsageError, match="runs once"):
        migration.run()


def test_another_setup_under_the_same_name_is_refused(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as old, cluster.client() as new:
        old.set("key", "source")
        new.set("key", "target")
    migrate(source, cluster, job="nightly", journal=journal)

    with pytest.raises(JobMismatchError, match=r"match.*user:\*"):
        migrate(source, cluster, job="nightly", journal=journal, match="user:*")

    assert migrate(source, cluster, job="nightly", journal=journal, match="user:*", restart=True).ok


def test_a_job_in_a_forked_child_says_so(source: LocalServer, cluster: LocalCluster) -> None:
    from slotferry._core import Access, EngineError, Job

    with source.client() as client:
        run_id = client.info("server")["run_id"]
    node = cluster.primaries[0]
    job = Job(
        source=(source.host, source.port),
        source_access=Access(),
        source_run_id=run_id,
        source_has_pexpiretime=True,
        target_access=Access(),
        target_has_pexpiretime=True,
        topology=[(0, 16383, node.host, node.port)],
        partition_count=1,
        partitions=[(0, 0)],
    )
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            job.start()
        except EngineError as error:
            os.write(writing, error.args[0].value.encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, "rb") as pipe:
        assert pipe.read() == b"forked"


def test_a_migration_in_a_forked_child_works(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(1_000)})
    assert migrate(source, cluster, job="parent").ok

    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if migrate(source, cluster, job="child").keys.unchanged == 1_000 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_no_thread_is_left_after_a_run(source: LocalServer, cluster: LocalCluster) -> None:
    migrate(source, cluster)

    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("slotferry")] == []
