"""The socket beside the journal: who gets in, what is answered, and what is left of runs that died."""

from __future__ import annotations

import errno
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from slotferry.errors import JobNotRunningError, UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.control_socket import ControlSocket, ask, live_status
from slotferry.jobs.control.controls import Controls, Rates
from slotferry.jobs.lock import JobLock, Kind
from tests.command import run


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@contextmanager
def listening(
    journal: Path, job: str = "nightly", kind: Kind = "migrate"
) -> Iterator[tuple[Controls, ControlSocket]]:
    controls = Controls(CancelRequest(), Rates(max_keys_per_second=9))

    def status() -> dict[str, Any]:
        return {"state": "running", "reason": ""}

    with JobLock(journal, job, kind), ControlSocket(journal, job, controls, status, kind) as opened:
        assert opened.complaint == ""
        yield controls, opened


def test_it_is_for_its_owner_alone(journal: Path) -> None:
    with listening(journal) as (_, opened):
        assert stat.S_IMODE(opened.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(opened.path.parent.stat().st_mode) == 0o700
        assert opened.path.parent.parent == journal.parent
    assert not opened.path.exists()


def test_what_can_be_asked(journal: Path) -> None:
    with listening(journal) as (controls, _):
        answer = ask(journal, "nightly", "pause")
        assert (answer["state"], answer["paused"], answer["max_keys_per_second"]) == ("running", True, 9)
        assert controls.paused
        assert not ask(journal, "nightly", "resume")["paused"]
        ask(journal, "nightly", "rate", max_bytes_per_second=1000)
        assert controls.rates == Rates(9, 1000)
        ask(journal, "nightly", "rate", max_keys_per_second=None)
        assert controls.rates == Rates(None, 1000)
        ask(journal, "nightly", "cancel")
        assert controls.cancel.level == 1
        ask(journal, "nightly", "cancel", immediately=True)
        assert controls.cancel.level == 2


def test_what_makes_no_sense_is_refused_and_changes_nothing(journal: Path) -> None:
    with listening(journal) as (controls, opened):
        with pytest.raises(UsageError, match="max_keys_per_second is 0"):
            ask(journal, "nightly", "rate", max_keys_per_second=0)
        with pytest.raises(UsageError, match="dance"):
            ask(journal, "nightly", "dance")
        for line in (b"no json\n", b"[]\n", b'{"command": "rate", "max_keys_per_second": "x"}\n', b"\n", b""):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(opened.path))
                client.sendall(line)
                client.shutdown(socket.SHUT_WR)
                assert b'"ok": true' not in client.recv(10_000)
        assert controls.rates == Rates(9)
        assert live_status(journal, "nightly") is not None


def test_a_run_ends_whoever_is_connected(journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.jobs.control.control_socket._PATIENCE", 600.0)
    with socket.socket(socket.AF_UNIX) as silent, ExitStack() as run:
        _, opened = run.enter_context(listening(journal))
        silent.connect(str(opened.path))
        assert ask(journal, "nightly", "status")["state"] == "running"  # who says nothing keeps nobody off
        run.close()
        silent.setblocking(False)
        with pytest.raises(BlockingIOError):
            silent.recv(1)  # it is waited for still, but not by the run
    assert "slotferry-control" not in [thread.name for thread in threading.enumerate()]


def test_a_client_that_could_not_be_taken_in_does_not_end_the_listening(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepts = [OSError(errno.EMFILE, "Too many open files")]
    accept = socket.socket.accept

    def fail_once(listener: socket.socket) -> Any:
        if accepts:
            raise accepts.pop()
        return accept(listener)

    monkeypatch.setattr(socket.socket, "accept", fail_once)
    with listening(journal):
        assert ask(journal, "nightly", "status")["state"] == "running"
    assert not accepts


def test_namesakes_are_told_apart(journal: Path) -> None:
    options = ("--journal", str(journal))
    with listening(journal) as (migration, _), listening(journal, kind="reshard") as (reshard, _):
        unclear = run("jobs", "pause", "nightly", *options)
        assert (unclear.code, "--kind" in unclear.stderr) == (2, True)
        assert run("jobs", "pause", "nightly", "--kind", "reshard", *options).code == 0
        assert (migration.paused, reshard.paused) == (False, True)
        ask(journal, "nightly", "cancel")
        assert (migration.cancel.level, reshard.cancel.level) == (1, 0)
    with listening(journal, kind="reshard") as (reshard, _):
        assert run("jobs", "pause", "nightly", *options).code == 0
        assert reshard.paused
        assert run("jobs", "pause", "nightly", "--kind", "migrate", *options).code == 4


def test_a_socket_that_a_killed_run_left_behind_is_replaced(journal: Path) -> None:
    with JobLock(journal, "nightly"):
        pass
    left = journal.parent / "journal.db.locks" / "nightly.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    with pytest.raises(JobNotRunningError, match="nightly is not running"):
        ask(journal, "nightly", "pause")
    with listening(journal):
        assert ask(journal, "nightly", "status")["state"] == "running"


def test_paths_and_names_that_no_socket_address_takes(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 50)
    folder.mkdir()
    journal, job = folder / "journal.db", "j" * 100
    with listening(journal, job):
        assert ask(journal, job, "status")["state"] == "running"


def test_nobody_runs_and_nothing_is_made(journal: Path) -> None:
    assert live_status(journal, "nightly") is None
    assert list(journal.parent.iterdir()) == []


def test_a_run_that_can_t_listen_says_why(journal: Path) -> None:
    controls = Controls(CancelRequest(), Rates())
    with JobLock(journal, "nightly"):
        (journal.parent / "journal.db.locks" / "nightly.sock").mkdir()
        with ControlSocket(journal, "nightly", controls, dict) as opened:
            assert "nightly can't be controlled" in opened.complaint
