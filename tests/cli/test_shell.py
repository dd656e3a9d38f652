"""What a shell's user expects: versions, near misses, completion, and what a second Ctrl-C does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.cli.conftest import Invoke
from tests.command import COMMAND, Running, run
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 20_000
_LIMIT = ("--max-keys-per-second", "500")


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def test_the_version_in_short_and_as_a_module(invoke: Invoke) -> None:
    assert invoke("-V") == invoke("--version")
    command = [sys.executable, "-m", "slotferry", "-V"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == invoke("-V").out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("migrat",), "did you mean 'migrate'?"),
        (("jobs", "lst"), "did you mean 'list'?"),
        (("reshard", "aply"), "did you mean 'apply'?"),
        (("verify", "--sampel", "5%"), "Did you mean '--sample'?"),
    ],
)
def test_a_near_miss_is_told(invoke: Invoke, arguments: tuple[str, ...], meant: str) -> None:
    done = invoke(*arguments)
    assert (done.code, meant in done.err) == (2, True), done.err


def test_what_is_near_nothing_is_told_as_ever(invoke: Invoke) -> None:
    assert "No such command 'xyz'" in invoke("xyz").err


def completions(words: str, journal: Path) -> list[str]:
    """Return what bash would offer behind `words`."""
    done = subprocess.run(
        [COMMAND],
        env={
            "_SLOTFERRY_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split())),
            "XDG_STATE_HOME": str(journal.parent.parent),
            "PATH": "/usr/bin:/bin",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_names_of_jobs_are_completed(tmp_path: Path) -> None:
    path = tmp_path / "slotferry" / "journal.db"
    assert completions("slotferry jobs show", path) == []
    assert not path.exists()
    with Journal.open(path) as journal:
        for name in ("nightly", "check", "check.extra"):
            journal.create(name, Setup("s", "t", None, None, "error"), 1, "id")
    for command in ("jobs show", "jobs discard", "jobs pause", "jobs failures", "cutover", "report"):
        assert completions(f"slotferry {command}", path) == ["check", "nightly"], command
    path.write_bytes(b"no journal at all")
    assert completions("slotferry jobs show", path) == []


def test_the_first_ctrl_c_says_what_a_second_does(filled: LocalServer, cluster: LocalCluster) -> None:
    with Running("migrate", filled.url, cluster.url, *_LIMIT) as running:
        wait_until(lambda: running.ended or count_keys(cluster) > 100, "the first keys to arrive")
        running.send(signal.SIGINT)
        done = running.finish()
    assert done.code == 130
    assert done.stderr.count("a second Ctrl-C stops at once, and loses nothing") == 1


def test_watching_ends_with_the_run(filled: LocalServer, cluster: LocalCluster) -> None:
    with Running("migrate", filled.url, cluster.url, "--job", "watched", *_LIMIT) as running:
        wait_until(lambda: running.ended or count_keys(cluster) > 100, "the first keys to arrive")
        with Running("jobs", "show", "watched", "--watch") as watching:
            assert run("jobs", "cancel", "watched").code == 0
            assert running.finish().code == 130
            shown = watching.finish()
    assert shown.code == 0, shown.stderr
    assert "status       interrupted" in shown.stdout


@pytest.mark.parametrize(
    ("options", "environment", "coloured"),
    [
        ((), {"TERM": "xterm"}, True),
        ((), {"TERM": "dumb"}, False),
        ((), {}, False),
        ((), {"TERM": "xterm", "NO_COLOR": "1"}, False),
        (("--color", "never"), {"TERM": "xterm"}, False),
        (("--color", "always"), {"NO_COLOR": "1"}, True),
    ],
)
def test_errors_are_red_where_a_terminal_has_that(
    options: tuple[str, ...], environment: dict[str, str], coloured: bool
) -> None:
    base = {name: value for name, value in os.environ.items() if name not in ("TERM", "NO_COLOR")}
    ours, theirs = os.openpty()
    try:
        command = [COMMAND, *options, "jobs", "show", "nothing"]
        done = subprocess.run(command, stderr=theirs, env={**base, **environment})
        assert done.returncode == 2
        told = os.read(ours, 4096).decode()
    finally:
        os.close(theirs)
        os.close(ours)
    assert told.startswith(
        "\x1b[31m\x1b[1mslotferry:\x1b[0m there is no job" if coloured else "slotferry: there"
    )


def test_what_goes_into_a_pipe_has_no_colours(source: LocalServer, cluster: LocalCluster) -> None:
    done = run("check", source.url, cluster.url, env={"TERM": "xterm"})
    assert "\x1b" not in done.stdout + done.stderr
    done = run("--color", "always", "check", source.url, cluster.url, env={"TERM": "xterm"})
    assert "  \x1b[32mok\x1b[0m       source-reach " in done.stdout
