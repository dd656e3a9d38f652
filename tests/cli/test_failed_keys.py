"""Keys that failed, fed back to `--keys-from`, whatever bytes they hold."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, PendingKey, Setup
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke
from tests.command import COMMAND, run

ODD = [
    *(
        b"",
        b'""',
        b"\\",
        b"a\nb",
        b"cr\r",
        b"\r",
        b"\t \x00\x7f",
        bytes(range(256)),
        b"\xef\xbb\xbfmark",
        b" ",
    ),
    *(text.encode() for text in ("käse", "日本語", "\u202ereversed", "\u200b", "\ufeff", "🍹", "C:\\temp")),
]


def test_failed_keys_are_copied_from_the_list_that_was_printed(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with source.client() as old, cluster.client() as new:
        for number, key in enumerate(ODD):
            old.set(key, number)
            new.set(key, "other")
        old.set("plain", "value")
        env = {"SLOTFERRY_JOURNAL": str(tmp_path / "journal.db")}
        urls = (source.url, cluster.url)
        assert run("migrate", *urls, "--job", "first", env=env).code == 3

        printed = subprocess.run(
            [COMMAND, "jobs", "failures", "first"], env={**os.environ, **env}, capture_output=True, check=True
        ).stdout
        assert len(printed.splitlines()) == len(ODD)
        assert {"käse", "日本語", "🍹", '""'} < set(printed.decode().splitlines())
        shown = run("jobs", "show", "first", "--json", "--limit", "1000", env=env).lines
        keys = [line["key"] for line in shown if line["type"] == "failure"]
        assert sorted(keys) == sorted(printed.decode().split("\n")[:-1])

        (listed := tmp_path / "keys").write_bytes(printed.replace(b"\n", b"\r\n"))
        again = ("migrate", *urls, "--keys-from", str(listed), "--on-conflict", "replace", "--json")
        done = run(*again, env=env)
        assert done.code == 0, done.stderr
        assert done.keys["migrated"] == len(ODD)
        assert [new.get(key) for key in ODD] == [b"%d" % number for number in range(len(ODD))]


def test_a_list_on_a_stdout_that_lacks_characters(journal: Path) -> None:
    done = subprocess.run(
        [COMMAND, "jobs", "failures", "nightly", "--journal", str(journal), "--db", "0"],
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == rb"k\xc3\xa4se\xe6\x97\xa5" + b'\n""\n'


def test_a_table_on_a_stdout_that_lacks_characters(journal: Path) -> None:
    done = subprocess.run(
        [COMMAND, "jobs", "show", "nightly", "--journal", str(journal)],
        env={**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "käse".encode("latin-1") + rb"\xe6\x97\xa5 " in done.stdout


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A job with failed keys of two databases and kinds, and a pending one."""
    path = tmp_path / "journal.db"
    with Journal.open(path) as opened:
        opened.create(
            "nightly", Setup("redis://old:6379/0", "redis+cluster://new:7000/0", None, None, "error"), 2, "id"
        )
        opened.begin_run("nightly", resumed=False)
        failed = [
            FailedKey("käse日".encode(), 1, "conflict", "differs", "new:7000"),
            FailedKey(b"", 2, "denied", "differs", "new:7000"),
        ]
        third = [FailedKey(b"third", 3, "conflict", "differs", "new:7000")]
        pending = [PendingKey(b"late", 9, "slot 9 is not served")]
        opened.record("nightly", Advance(Totals(Keys(scanned=3)), [], (), failed, pending))
        opened.record("nightly", Advance(Totals(Keys(scanned=1)), [], (), third, database=2))
    return path


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--db", "0"), ["käse日", '""']),
        (("--db", "2"), ["third"]),
        (("--kind", "pending"), ["late"]),
        (("--kind", "conflict", "--db", "0"), ["käse日"]),
        (("--kind", "denied"), ['""']),
        (("--kind", "failed", "--kind", "pending", "--db", "0"), ["käse日", '""', "late"]),
    ],
)
def test_which_keys(invoke: Invoke, journal: Path, arguments: tuple[str, ...], names: list[str]) -> None:
    result = invoke("jobs", "failures", "nightly", "--journal", str(journal), *arguments)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == names


def test_keys_of_several_databases_are_no_list(invoke: Invoke, journal: Path) -> None:
    result = invoke("jobs", "failures", "nightly", "--journal", str(journal))
    assert (result.code, result.out) == (2, "")
    assert "these keys of nightly are in the databases 0, 2" in result.err
    assert "--db" in result.err


def test_no_such_keys(invoke: Invoke, journal: Path) -> None:
    result = invoke("jobs", "failures", "nightly", "--journal", str(journal), "--kind", "conflct")
    assert (result.code, result.out) == (0, "")
    assert result.err == (
        "nightly has no keys of the kind conflct; it has keys of the kinds conflict, denied, pending\n"
    )
    assert invoke("jobs", "failures", "none", "--journal", str(journal)).code == 2
