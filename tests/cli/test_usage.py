"""Mistakes on the command line: one sentence, what to do, exit code 2, nothing begun."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slotferry.cli import main
from slotferry.cli.reshard.plan import cluster_shown
from tests.cli.conftest import Invoke

GOOD = ("migrate", "redis://127.0.0.1:1", "redis://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "No such command 'frobnicate'"),
        (("migrate",), "Missing argument 'SOURCE'"),
        (("migrate", "redis://h"), "Missing argument 'TARGET'"),
        ((*GOOD, "--nonsense"), "No such option"),
        (("migrate", "http://h", "redis://h"), "the source URL has the unknown scheme http://"),
        (("migrate", "redis://h", "redis://h:x"), "the target URL has an unreadable host or port"),
        (("migrate", "redis+sentinel://h", "redis://h"), "names no service"),
        (("migrate", "redis://h", "redis+sentinel://h/m"), "the target URL uses redis+sentinel://"),
        ((*GOOD, "--sentinel-username", "bob"), "not behind any"),
        ((*GOOD, "--max-keys-per-second", "0"), "is not a number of keys from 1 on"),
        ((*GOOD, "--max-bytes-per-second", "fast"), "is not a size"),
        ((*GOOD, "--max-bytes-per-second", "0.1"), "give it 1 byte or more"),
        ((*GOOD, "--pause-above-latency", "0"), "give it more than 0 milliseconds"),
        ((*GOOD, "--wait-replicas", "-1"), "is not in the range"),
        ((*GOOD, "--wait-replicas", "1", "--wait-timeout", "1m"), "--wait-timeout is 60000"),
        (("jobs", "rate", "nightly"), "no rate was given"),
        (("jobs", "rate", "nightly", "--max-keys-per-second", "all"), "is not a number of keys"),
        ((*GOOD, "--address-map", "10.0.0.7"), "the address map '10.0.0.7' has no '='"),
        ((*GOOD, "--address-map", "10.0.0.7:x=nat:1"), "unreadable host or port"),
        ((*GOOD, "--address-map", "10.0.0.7:1=nat"), "a port on one side only"),
        ((*GOOD, "--address-map", "a=b", "--address-map", "a=c"), "names 'a' twice"),
        (("migrate", "redis://h", "unix:///r.sock"), "the target is a Unix socket"),
        ((*GOOD, "--on-conflict", "merge"), "'merge' is not one of"),
        ((*GOOD, "--memory-limit", "lots"), "'lots' is not a size"),
        ((*GOOD, "--memory-limit", "1kB"), "'1kB' is too small"),
        ((*GOOD, "--retry-for", "soon"), "'soon' is not a duration"),
        ((*GOOD, "--pause-above-latency", "soon"), "write it like 20ms, 1s, or 20 for milliseconds"),
        ((*GOOD, "--parallel-scans", "3"), "'3' is not a power of two"),
        ((*GOOD, "--job", "a/b"), "can't be the name of a job"),
        ((*GOOD, "--source-ca", "none.pem"), "not reached over TLS"),
        (
            ("migrate", "rediss://h", "redis://h", "--source-ca", "none.pem"),
            "the TLS file none.pem can't be read: No such file or directory",
        ),
        ((*GOOD, "--source-password-file", "none"), "password file none can't be read"),
        (
            (*GOOD, "--report", "/nonexistent/report.json"),
            "the report can't be written to /nonexistent/report.json: there is no folder /nonexistent",
        ),
        ((*GOOD, "--config", "none.toml"), "the config file none.toml can't be read"),
        (("jobs",), "Missing command"),
        (("slot",), "Missing argument 'KEY...'"),
        (("jobs", "show", "nightly"), "there is no job 'nightly'"),
        (("jobs", "discard", "nightly"), "there is no job 'nightly'"),
        (("completion", "tcsh"), "'tcsh' is not one of"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    invoke: Invoke, arguments: tuple[str, ...], says: str
) -> None:
    result = invoke(*arguments)
    assert result.code == 2
    assert result.out == ""
    first, *hint = result.err.splitlines()
    assert first.startswith("slotferry: ")
    assert says in first
    assert len(hint) == 1
    assert hint[0].startswith("  hint: ")


def test_without_arguments_there_is_help(invoke: Invoke) -> None:
    result = invoke()
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("Usage: slotferry")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("migrate", "--help"),
        ("jobs", "--help"),
        ("jobs", "list", "--help"),
        ("jobs", "show", "--help"),
        ("jobs", "discard", "-h"),
        ("jobs", "pause", "--help"),
        ("jobs", "resume", "--help"),
        ("jobs", "rate", "--help"),
        ("jobs", "cancel", "--help"),
        ("slot", "--help"),
        ("completion", "--help"),
        ("demo", "--help"),
    ],
)
def test_every_help_has_examples_each_on_its_line(invoke: Invoke, arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert result.code == 0
    assert "\\b" not in result.out
    assert re.search(r"^\s*Examples:\n\s+\S*.*slotferry", result.out, re.MULTILINE)


def test_help_names_every_exit_code(invoke: Invoke) -> None:
    text = invoke("migrate", "--help").out
    codes = text[text.index("Exit codes:") :]
    for code in ("0", "1", "2", "3", "4", "5", "6", "130", "143"):
        assert re.search(rf"\b{code}\b", codes)


def test_version_names_the_engine_too(invoke: Invoke) -> None:
    result = invoke("--version")
    assert result.code == 0
    assert re.fullmatch(r"slotferry \d+\.\d+\.\d+\S*, engine \d+\.\d+\.\d+\S*\n", result.out)


def test_a_refused_connection_exits_with_5_and_the_summary_last(invoke: Invoke, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, but nobody listens
        url = f"redis://user:hunter2@127.0.0.1:{bound.getsockname()[1]}"
        result = invoke("migrate", url, "redis://127.0.0.1:1", "--json", "--report", str(report))
    assert result.code == 5
    assert re.search(
        r"^slotferry: the source can't be reached at 127.0.0.1:\d+: Connection refused$", result.err, re.M
    )
    summary = json.loads(result.out.splitlines()[-1])
    assert (summary["type"], summary["status"], summary["error"]["kind"]) == (
        "summary",
        "failed",
        "source_lost",
    )
    assert json.loads(report.read_text()) == summary
    assert "hunter2" not in result.out + result.err + report.read_text()


def test_a_name_that_does_not_resolve_exits_with_5(invoke: Invoke) -> None:
    result = invoke("migrate", "redis://no-such-host.invalid", "redis://127.0.0.1:1", "--progress", "none")
    assert result.code == 5
    assert "can't be reached at no-such-host.invalid:6379" in result.err
    assert result.out == ""


def test_a_cluster_as_source_that_is_gone_exits_with_5(invoke: Invoke) -> None:
    result = invoke("migrate", "redis+cluster://127.0.0.1:1", "redis://127.0.0.1:1")
    assert result.code == 5
    assert "the source can't be reached at 127.0.0.1:1" in result.err


@pytest.mark.parametrize("content", [b"no database at all, whatever its name says" * 20, None])
def test_an_unusable_journal_exits_with_4(invoke: Invoke, tmp_path: Path, content: bytes | None) -> None:
    journal = tmp_path / "journal.db"
    if content is None:
        journal.mkdir()
    else:
        journal.write_bytes(content)
    for arguments in (GOOD, ("jobs", "list")):
        result = invoke(*arguments, "--journal", str(journal))
        assert result.code in (4, 2)
        assert str(journal) in result.err.splitlines()[0] or "is a directory" in result.err
        assert "Traceback" not in result.err


def test_an_unexpected_error_asks_for_a_report(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(_: object, **__: object) -> None:
        raise ZeroDivisionError("never seen before")

    monkeypatch.setattr("slotferry.jobs.journal.journal.Journal.open", fail)
    (tmp_path / "journal.db").touch()
    arguments = ("jobs", "list", "--journal", str(tmp_path / "journal.db"))
    result = invoke(*arguments)
    assert result.code == 1
    assert result.err.startswith(
        "slotferry: unexpected ZeroDivisionError: never seen before\n  hint: this is a bug"
    )
    monkeypatch.setenv("SLOTFERRY_DEBUG", "1")
    assert "Traceback" in invoke(*arguments).err


def test_jobs_list_without_a_journal_makes_none(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("jobs", "list").code == 0
    assert invoke("jobs", "list", "--json").out == ""
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script(invoke: Invoke, shell: str) -> None:
    result = invoke("completion", shell)
    assert result.code == 0
    assert "_SLOTFERRY_COMPLETE" in result.out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("slotferry mig", "migrate"),
        ("slotferry migrate redis://a redis://b --skip-check evi", "eviction"),
        ("slotferry check --skip-check evi", "eviction"),
        ("slotferry verify --max-by", "--max-bytes-per-second"),
    ],
)
def test_completion_completes(
    words: str, completed: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SLOTFERRY_COMPLETE", "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        main(["an", "argument", "that", "does", "not", "count"])
    assert completed in capsys.readouterr().out.splitlines()


def start(*arguments: str, stdout: int = subprocess.PIPE) -> subprocess.Popen[bytes]:
    script = "import sys; from slotferry.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    with start("slot", "-") as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(b"key\n" * 10_000)
    assert err == b""
    assert process.returncode == 0


def test_a_reader_that_goes_away_does_not_hide_how_the_run_ended(tmp_path: Path) -> None:
    journal = str(tmp_path / "journal.db")
    source = "redis://no-such-host.invalid"
    with start("migrate", source, "redis://h", "--json", "--journal", journal) as process:
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate()
    assert err.startswith(b"slotferry: the source can't be reached at no-such-host.invalid")
    assert process.returncode == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_results_that_cannot_be_written_are_an_error() -> None:
    with open("/dev/full", "wb") as full, start("--version", stdout=full.fileno()) as process:
        _, err = process.communicate()
    assert b"No space left on device" in err
    assert b"Traceback" not in err
    assert process.returncode != 0


def test_a_printed_url_keeps_the_user_and_not_the_password() -> None:
    assert cluster_shown("redis+cluster://mover:secret@node:7000") == "redis+cluster://mover@node:7000"
    assert cluster_shown("redis+cluster://:secret@node:7000") == "redis+cluster://node:7000"
    assert cluster_shown("redis+cluster://node:7000,other:7000") == "redis+cluster://node:7000,other:7000"
    asked = "rediss+cluster://node:7000,[::1]:7001?username=m%40ver&password=secret"
    assert cluster_shown(asked) == "rediss+cluster://m%40ver@node:7000,[::1]:7001"
