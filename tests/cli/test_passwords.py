"""Where a password comes from: one order, files that are pipes, commands that fail in every way.

Invariant: whether the right one counts is told by a server that takes no other.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from slotferry.cli.reshard.jobs_file import load_jobs
from slotferry.errors import SlotferryError, UsageError
from slotferry.net.password_command import PasswordCommand
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke, Result
from tests.command import COMMAND, run
from tests.servers.kinds import on_path_or_embedded

_SECRET, _WRONG = "r1ght-s3cret", "wr0ng-s3cret"


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalServer]:
    """A source that takes one password."""
    with LocalServer(on_path_or_embedded().binary, password=_SECRET) as server:
        yield server


class Places:
    """Writes passwords to all the places that they can come from."""

    def __init__(self, server: LocalServer, cluster: LocalCluster, folder: Path) -> None:
        self.server, self.cluster, self.folder = server, cluster, folder

    def file(self, password: str) -> str:
        (path := self.folder / password).write_text(password + "\n")
        return str(path)

    def url(self, password: str) -> str:
        return self.server.url.replace("://", f"://:{quote(password)}@")

    def config(self, password: str) -> str:
        (path := self.folder / "config.toml").write_text(
            f"[migrate]\nsource-password-file = '{self.file(password)}'\n"
        )
        return str(path)

    def arguments(self, url: str | None = None) -> tuple[str, ...]:
        plain = self.server.url if url is None else url
        return ("migrate", plain, self.cluster.url, "--dry-run", "--retry-for", "1s")


@pytest.fixture
def places(guarded: LocalServer, cluster: LocalCluster, tmp_path: Path) -> Places:
    return Places(guarded, cluster, tmp_path)


def _printing(text: str) -> str:
    return shlex.join([sys.executable, "-c", f"print({text!r})"])


def assert_logged_in(result: Result) -> None:
    assert result.code == 0, result.err


def test_the_order(invoke: Invoke, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each place beats all that come after it, which have a wrong one."""
    wrong = places.config(_WRONG)
    monkeypatch.setenv("SLOTFERRY_SOURCE_PASSWORD", _WRONG)
    later = (*places.arguments(places.url(_WRONG)), "--config", wrong)
    assert_logged_in(invoke(*later, "--source-password-file", places.file(_SECRET)))
    assert_logged_in(invoke(*later, "--source-password-command", _printing(_SECRET)))
    assert_logged_in(invoke(*places.arguments(places.url(_SECRET)), "--config", wrong))
    monkeypatch.setenv("SLOTFERRY_SOURCE_PASSWORD_FILE", str(places.folder / "is not there"))
    assert_logged_in(invoke(*places.arguments(places.url(_SECRET))))
    monkeypatch.setenv("SLOTFERRY_SOURCE_PASSWORD_FILE", places.file(_SECRET))
    assert_logged_in(invoke(*places.arguments(), "--config", wrong))
    monkeypatch.delenv("SLOTFERRY_SOURCE_PASSWORD_FILE")
    monkeypatch.setenv("SLOTFERRY_SOURCE_PASSWORD_COMMAND", _printing(_SECRET))
    assert_logged_in(invoke(*places.arguments(), "--config", wrong))
    monkeypatch.delenv("SLOTFERRY_SOURCE_PASSWORD_COMMAND")
    monkeypatch.setenv("SLOTFERRY_SOURCE_PASSWORD", _SECRET)
    assert_logged_in(invoke(*places.arguments(), "--config", wrong))
    monkeypatch.delenv("SLOTFERRY_SOURCE_PASSWORD")
    assert_logged_in(invoke(*places.arguments(), "--config", places.config(_SECRET)))
    assert invoke(*places.arguments(), "--config", places.config(_WRONG)).code == 4


def test_an_empty_variable_is_not_set(
    invoke: Invoke, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PASSWORD", "PASSWORD_FILE", "PASSWORD_COMMAND"):
        monkeypatch.setenv(f"SLOTFERRY_SOURCE_{name}", "")
        monkeypatch.setenv(f"SLOTFERRY_TARGET_{name}", "")
        monkeypatch.setenv(f"SLOTFERRY_SENTINEL_{name}", "")
    assert_logged_in(invoke(*places.arguments(places.url(_SECRET))))
    assert_logged_in(invoke(*places.arguments(), "--config", places.config(_SECRET)))


def test_a_file_and_a_command_in_one_place(invoke: Invoke, places: Places) -> None:
    both = ("--source-password-file", "x", "--source-password-command", "y")
    result = invoke(*places.arguments(), *both)
    assert result.code == 2
    assert "--source-password-file and --source-password-command are both given on the command" in result.err


def test_a_pipe_is_read_once(places: Places) -> None:
    command = shlex.join([COMMAND, *places.arguments()])
    script = f"{command} --source-password-file <(printf '{_SECRET}\\n')"
    done = subprocess.run(["bash", "-c", script], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(("given", "code"), [(_SECRET + "\r\nmore\n", 0), (_WRONG, 4), ("", 2), ("\n", 2)])
def test_stdin(places: Places, given: str, code: int) -> None:
    done = subprocess.run(
        [COMMAND, *places.arguments(), "--source-password-file", "-"],
        input=given.encode(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    assert (b"stdin holds no source password" in done.stderr) == (code == 2)


@pytest.mark.parametrize("other", ["--keys-from", "--target-password-file"])
def test_stdin_is_one_thing(
    invoke: Invoke, places: Places, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.write(write, _SECRET.encode() + b"\n")
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        result = invoke(*places.arguments(), "--source-password-file", "-", other, "-")
    assert result.code == 2
    assert "both read stdin" in result.err
    assert other in result.err


def test_a_command_is_shown_with_what_it_complains_of(places: Places) -> None:
    code = f"import sys; print({_SECRET!r}); print('renewing {_SECRET}\\x1b[1m', file=sys.stderr)"
    command = shlex.join([sys.executable, "-c", code])
    done = run(*places.arguments(), "--source-password-command", command)
    assert done.code == 0, done.stderr
    assert "slotferry: source password command: renewing *** [1m\n" in done.stderr


def test_no_shell_takes_the_command_apart(places: Places) -> None:
    command = f"printf %s {_SECRET};$(touch {places.folder}/touched)"
    done = run(*places.arguments(), "--source-password-command", command)
    assert done.code == 4, done.stderr
    assert not (places.folder / "touched").exists()
    done = run(*places.arguments(), "--source-password-command", f"sh -c 'echo {_SECRET} | cat'")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("false", "(false) exited with 1"),
        ("true", "(true) prints no password"),
        ("echo", "(echo) prints no password"),
        ("/no/such/program x", "(program) can't be started: No such file or directory"),
        (r"printf '\377\n'", "(printf) prints what is not UTF-8"),
        ("cat /dev/zero", "(cat) prints more than 64 kB"),
        ("sh -c 'kill -9 $$'", "(sh) was ended by signal 9"),
        ("sleep 600", "(sleep) has not ended within 0.2 seconds"),
        ("sh -c 'exec >&- 2>&-; sleep 600'", "(sh) has not ended within 0.2 seconds"),
        ("sh -c 'sleep 5 & echo secret'", "(sh) has not ended within 0.2 seconds"),
    ],
)
def test_a_command_that_gives_no_password(command: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "0.2" in says:
        monkeypatch.setattr("slotferry.net.password_command.TIME_LIMIT", 0.2)
    with pytest.raises(SlotferryError) as caught:
        PasswordCommand("source", command)()
    assert caught.value.message == f"the source password command {says}"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("command", "says"), [("echo 'x", "No closing quotation"), ("  ", "is empty")])
def test_a_command_that_is_none(command: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PasswordCommand("source", command)


def test_a_job_of_reshard_run_keeps_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (secret := tmp_path / "secret").write_text("of the file")
    (config := tmp_path / "jobs.toml").write_text(
        "[jobs.file]\ncluster = 'redis+cluster://h:1'\n"
        f"cluster-password-file = '{secret}'\n"
        "[jobs.command]\ncluster = 'redis+cluster://h:1'\ncluster-password-command = 'echo of the command'\n"
        "[jobs.url]\ncluster = 'redis+cluster://:of-the-url@h:1'\ncluster-password-command = 'false'\n"
    )

    def passwords() -> dict[str, str | None]:
        jobs = load_jobs(config)
        return {name: job.connector().login.current()[1] for name, job in jobs.items()}

    assert passwords() == {"file": "of the file", "command": "of the command", "url": "of-the-url"}
    monkeypatch.setenv("SLOTFERRY_CLUSTER_PASSWORD", "of the environment")
    assert set(passwords().values()) == {"of the environment", "of-the-url"}
