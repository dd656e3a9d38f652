"""`slotferry migrate`: what it prints where, and what it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_OUTCOMES = {"scanned", "migrated", "unchanged", "skipped", "expired", "vanished", "pending", "failed"}


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(2_000)})
    return source


def test_the_summary_is_the_last_json_line_and_the_report(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"

    done = run("migrate", filled.url, cluster.url, "--json", "--report", str(report))

    assert done.code == 0, done.stderr
    assert all("type" in line for line in done.lines)
    assert len(done.lines) == len(done.stdout.splitlines())
    summary = done.summary
    assert set(summary) >= {
        "type", "job", "status", "keys", "bytes", "elapsed_seconds", "keys_per_second", "redirects",
        "retries", "runs", "resumed", "error",
    }  # fmt: skip
    assert set(summary["keys"]) == _OUTCOMES
    assert summary["status"] == "completed"
    assert summary["keys"]["migrated"] == count_keys(cluster) == 2_000
    assert summary["redirects"] == {"moved": 0, "ask": 0}
    assert (summary["runs"], summary["resumed"], summary["error"]) == (1, False, None)
    assert json.loads(report.read_text()) == summary


def test_a_person_gets_a_table_on_stdout_and_progress_on_stderr(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    done = run("migrate", filled.url, cluster.url)

    assert done.code == 0
    assert "2,000" in done.stdout
    assert "completed" in done.stdout
    assert "2,000 keys" in done.stderr
    assert "\r" not in done.stderr  # no bar outside of a terminal


def test_a_bar_when_asked_for(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        fill_strings(connection, 200_000)

    done = run("migrate", source.url, cluster.url, "--progress", "bar", "--json")

    assert done.code == 0
    assert "/200,000 keys" in done.stderr
    assert "\r" in done.stderr
    assert done.summary["status"] == "completed"


def test_failed_keys_are_shown_escaped_and_the_exit_code_says_so(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    key = b"odd \x00\r\n\xff key"
    with filled.client() as old, cluster.client() as new:
        old.set(key, "source")
        new.set(key, "target")

    done = run("migrate", filled.url, cluster.url)

    assert done.code == 3
    assert r"odd \x00\r\n\xff key" in done.stdout
    assert "\x00" not in done.stdout
    job = run("jobs", "list", "--json").lines[0]["job"]
    shown = run("jobs", "show", job, "--json").lines
    assert [line["kind"] for line in shown if line["type"] == "failure"] == ["conflict"]


def test_a_dry_run_prints_what_would_be_done(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("migrate", filled.url, cluster.url, "--dry-run")

    assert done.code == 0
    assert "2,000 keys would be copied" in done.stdout
    assert "the target has none of them" in done.stdout
    assert all(node.address in done.stdout for node in cluster.primaries)
    assert count_keys(cluster) == 0
    assert not run("jobs", "list", "--json").lines


def test_a_dry_run_counts_what_the_target_has_already(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with cluster.client() as client:
        for number in range(300):
            client.set(f"key:{number}", "other")
        client.set("apart", 1)
    dry = run("migrate", filled.url, cluster.url, "--dry-run", "--json")
    result = next(line for line in dry.lines if line["type"] == "dry_run")
    assert (result["keys"], result["existing"], result["absent"]) == (2_000, 300, 0)
    assert sum(keys for _, keys in result["keys_by_primary"]) == 2_000
    assert "has 300 of them already" in run("migrate", filled.url, cluster.url, "--dry-run").stdout
    assert count_keys(cluster) == 301

    names = tmp_path / "names"
    names.write_text("key:1\nkey:1999\nkey:1\nnosuch\napart\n")
    listed = run("migrate", filled.url, cluster.url, "--dry-run", "--keys-from", str(names))
    assert listed.code == 0, listed.stderr
    assert "2 keys would be copied" in listed.stdout
    assert "has 1 of them already" in listed.stdout
    assert "2 listed keys more: not at the source" in listed.stdout


def test_options_from_the_environment_and_a_file(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    config = tmp_path / "slotferry.toml"
    config.write_text('[migrate]\nmatch = "key:1*"\non-conflict = "skip"\n')

    done = run(
        "migrate", filled.url, cluster.url, "--config", str(config), "--json",
        env={"SLOTFERRY_MATCH": "key:7", "SLOTFERRY_JOB": "from-the-environment"},
    )  # fmt: skip

    assert done.code == 0, done.stderr
    assert done.keys["migrated"] == 1  # the environment goes before the file
    assert done.summary["job"] == "from-the-environment"
    shown = run("jobs", "show", "from-the-environment", "--json").lines[0]
    assert shown["setup"]["on_conflict"] == "skip"


def test_the_same_again_resumes_and_restart_starts_over(filled: LocalServer, cluster: LocalCluster) -> None:
    with cluster.client() as new:
        new.set("key:7", "in the way")
    command = ("migrate", filled.url, cluster.url, "--json")
    assert run(*command).code == 3
    with cluster.client() as new:
        new.delete("key:7")

    resumed = run(*command)
    assert (resumed.code, resumed.summary["resumed"], resumed.summary["runs"]) == (0, True, 2)
    assert resumed.keys["migrated"] == 2_000

    restarted = run(*command, "--restart")
    assert (restarted.code, restarted.summary["resumed"]) == (0, False)
    assert restarted.keys["unchanged"] == 2_000
