"""The public API where no server is needed: refusals, misuse, and errors with their report."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import slotferry
from slotferry import Migration, Options
from slotferry.api.event_queue import EventQueue
from slotferry.errors import SourceLostError, UsageError
from slotferry.model.counts import Keys, Totals
from slotferry.model.events import CheckpointSaved, Event, Notice, Progress, RunEnded
from slotferry.model.report import Report


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """A port that nobody listens on, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def options(tmp_path: Path) -> Options:
    return Options(journal=tmp_path / "journal.db")


def test_a_source_that_is_not_there(tmp_path: Path, refusing_port: int) -> None:
    migration = Migration(
        f"redis://u:hunter2@127.0.0.1:{refusing_port}", "redis://127.0.0.1:1", options(tmp_path)
    )
    with pytest.raises(SourceLostError, match=f"127.0.0.1:{refusing_port}: Connection refused") as caught:
        migration.run()
    report = migration.report
    assert report is not None
    assert (report.status, report.exit_code, report.ok, report.runs) == ("failed", 5, False, 0)
    assert report.job == migration.job
    assert "hunter2" not in f"{caught.value} {report} {report.to_dict()}"


def test_followers_get_the_end_whenever_they_come(tmp_path: Path, refusing_port: int) -> None:
    migration = Migration(f"redis://127.0.0.1:{refusing_port}", "redis://127.0.0.1:1", options(tmp_path))
    early = list(migration.events())
    late = list(migration.events())
    assert early == late
    (end,) = late
    assert isinstance(end, RunEnded)
    assert end.report.status == "failed"
    with pytest.raises(SourceLostError):
        migration.result()


def test_a_cluster_as_source_is_not_followed(tmp_path: Path) -> None:
    follows = replace(options(tmp_path), follow=True, on_conflict="replace")
    with pytest.raises(UsageError, match="a cluster as the source can't be followed"):
        Migration("redis+cluster://127.0.0.1:1", "redis://127.0.0.1:1", follows).run()


def test_a_migration_runs_once(tmp_path: Path, refusing_port: int) -> None:
    migration = Migration(f"redis://127.0.0.1:{refusing_port}", "redis://127.0.0.1:1", options(tmp_path))
    with pytest.raises(UsageError, match="not started"):
        migration.result()
    with pytest.raises(SourceLostError):
        migration.run()
    with pytest.raises(UsageError, match="runs once"):
        migration.run()


def test_a_unix_socket_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="target is a Unix socket"):
        Migration("redis://h", "unix:///run/r.sock", options(tmp_path))


def test_leaving_the_context_ends_the_run(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says a word
        port = silent.getsockname()[1]
        with Migration(f"redis://127.0.0.1:{port}", "redis://127.0.0.1:1", options(tmp_path)) as migration:
            migration.start()
            accepted, _ = silent.accept()
        with accepted:
            assert migration.result().status == "interrupted"
    assert not [
        thread for thread in threading.enumerate() if thread.name == "slotferry-run" and thread.is_alive()
    ]


def test_a_result_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with Migration(f"redis://127.0.0.1:{port}", "redis://127.0.0.1:1", options(tmp_path)) as migration:
            migration.start()
            accepted, _ = silent.accept()
            with accepted, pytest.raises(TimeoutError):
                migration.result(timeout=0.01)


def test_unread_progress_does_not_pile_up() -> None:
    queue = EventQueue()
    report = Report("job", "completed", Totals(), 1.0, 1.0, 1, False)
    for scanned in range(1000):
        queue.put(Progress("running", "", Keys(scanned), None, 0, None, 0.0, 0, 0, 0, 0, 0))
        if scanned % 10 == 0:
            queue.put(CheckpointSaved(Keys(scanned), 0, 4))
        if scanned == 500:
            queue.put(Notice("half-way"))
    queue.put(RunEnded(report))
    events = list[Event](queue)
    assert [event.type for event in events] == [
        "progress",
        "checkpoint",
        "notice",
        "checkpoint",
        "progress",
        "summary",
    ]
    assert [event.keys.scanned for event in events if isinstance(event, Progress | CheckpointSaved)] == [
        500,
        500,
        990,
        999,
    ]


def test_the_package_exports_what_it_says() -> None:
    for name in slotferry.__all__:
        assert getattr(slotferry, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        slotferry.nonsense  # noqa: B018
