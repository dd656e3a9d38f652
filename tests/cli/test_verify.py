"""`slotferry verify`: what it prints where, what it returns, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke
from tests.command import run

_KEYS = {
    "source", "target", "equal", "expired", "vanished", "pending", "missing", "extra", "misplaced",
    "different", "type", "ttl", "unreadable",
}  # fmt: skip


@pytest.fixture
def copied(source: LocalServer, cluster: LocalCluster) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(1_000)})
    assert run("migrate", source.url, cluster.url).code == 0
    return source


def test_the_summary_is_the_last_json_line_and_the_report(
    copied: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"

    done = run("verify", copied.url, cluster.url, "--json", "--report", str(report))

    assert done.code == 0, done.stderr
    assert len(done.lines) == len(done.stdout.splitlines())
    assert json.loads(report.read_text()) == done.summary
    assert set(done.keys) == _KEYS
    assert done.keys["source"] == done.keys["target"] == done.keys["equal"] == 1_000
    assert done.summary["equal"] is True
    assert (done.summary["quick"], done.summary["sample"]) == (False, None)
    assert [line["phase"] for line in done.lines if line["type"] == "phase"] == ["target"]


def test_a_difference_made_by_hand_is_shown_and_repaired(
    copied: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    file = tmp_path / "differences.jsonl"
    with cluster.client() as new:
        new.set("key:7", "by <hand>\n")
    command = ("verify", copied.url, cluster.url, "--recheck", "1", "--show-values")

    found = run(*command, "--differences", str(file))

    assert found.code == 3
    assert "1 key differs" in found.stdout
    assert r'"by \x3chand\x3e\n"' in found.stdout
    (line,) = map(json.loads, file.read_text().splitlines())
    assert (line["key"], line["kind"]) == ("key:7", "different")
    assert (line["source"], line["target"]) == (
        'string of 1 bytes "7"',
        r'string of 10 bytes "by \x3chand\x3e\n"',
    )
    repaired = run(*command, "--repair", "--json")
    assert repaired.code == 0, repaired.stderr
    assert (repaired.summary["repaired"], repaired.keys["equal"]) == (1, 1_000)
    assert run(*command).code == 0


def test_migrate_verifies_in_one_go(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("key", 1)
        new.set("other", 1)

    done = run("migrate", source.url, cluster.url, "--verify", "--json")

    assert done.code == 3
    assert done.keys["migrated"] == 1
    assert done.summary["verification"]["keys"]["extra"] == 1
    table = run("migrate", source.url, cluster.url, "--verify", "--job", "again").stdout
    assert "unchanged" in table
    assert "verification" in table


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--sample", "0"), "part of the keys"),
        (("--sample", "101%"), "part of the keys"),
        (("--sample", "-5%"), "part of the keys"),
        (("--sample", "five"), "part of the keys"),
        (("--ttl-tolerance", "soon"), "duration"),
        (("--recheck", "-1"), "--recheck"),
        (("--delete-extra",), "without --repair"),
        (("--differences", "/nowhere/at/all"), "can't be written"),
        (("--job", "a/b"), "name of a job"),
    ],
)
def test_options_that_make_no_sense(invoke: Invoke, arguments: tuple[str, ...], says: str) -> None:
    done = invoke("verify", "redis://old", "redis://new", *arguments)

    assert done.code == 2
    assert says in done.err
    assert done.out == ""


def test_options_from_a_file_that_has_those_of_migrate_too(
    copied: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    config = tmp_path / "slotferry.toml"
    config.write_text('[migrate]\non-conflict = "skip"\n[verify]\nsample = "50%"\nquick = true\n')

    done = run("verify", copied.url, cluster.url, "--config", str(config), "--json")

    assert done.code == 0, done.stderr
    assert (done.summary["sample"], done.summary["quick"]) == (0.5, True)
    assert 300 < done.keys["source"] == done.keys["target"] < 700


def test_help_has_examples_and_exit_codes(invoke: Invoke) -> None:
    done = invoke("verify", "--help")

    assert done.code == 0
    assert "--repair" in done.out
    assert "3  keys differ" in done.out
