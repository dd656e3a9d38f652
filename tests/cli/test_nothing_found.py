"""A run that finds no key is told with its likely reason, and is a failure with `--fail-if-empty`."""

from __future__ import annotations

from pathlib import Path

import pytest

from slotferry import Migration, Options
from slotferry.errors import ExitCode, UsageError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import Outcome, run


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(1_200)})
        client.execute_command("SELECT", 3)
        client.set("apart", 1)
    return source


def _warning(done: Outcome) -> str:
    assert done.code == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "warning: " in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_a_wrong_database_is_told_with_the_keys_of_the_others(
    filled: LocalServer, cluster: LocalCluster, command: str
) -> None:
    url = f"{filled.url}/7"
    told = _warning(run(command, url, cluster.url))
    assert f"the source {filled.address} has no keys in database 7" in told
    assert "database 0 holds 1,200 keys, database 3 holds 1 key;" in told

    failed = run(command, url, cluster.url, "--fail-if-empty", "--json")
    assert failed.code == 3
    assert failed.summary["status"] == "completed"
    empty = failed.summary["empty"]
    assert (empty["reason"], empty["elsewhere"]) == ("source", {"0": 1_200, "3": 1})
    assert "name the right database" in empty["hint"]


def test_an_empty_source_says_so(source: LocalServer, cluster: LocalCluster) -> None:
    assert "has no keys in database 0, nor in any other" in _warning(run("migrate", source.url, cluster.url))


@pytest.mark.parametrize("command", ["migrate", "verify"])
def test_filters_that_match_nothing_are_named(
    filled: LocalServer, cluster: LocalCluster, command: str
) -> None:
    filters = ("--match", "nosuch*", "--type", "Hash", "--exclude", "x*")
    told = _warning(run(command, filled.url, cluster.url, *filters))
    assert "none of the 1,200 keys in database 0" in told
    assert "passes match nosuch*; type hash; exclude x*" in told
    failed = run(command, filled.url, cluster.url, *filters, "--json", env={"SLOTFERRY_FAIL_IF_EMPTY": "1"})
    assert (failed.code, failed.summary["empty"]["reason"]) == (3, "filters")


def test_listed_names_that_are_not_there_are_counted(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    names.write_text("nosuch:1\nnosuch:2\nkey:1\n")
    told = _warning(run("migrate", filled.url, cluster.url, "--keys-from", str(names), "--fail-if-empty"))
    assert "2 of 3 listed keys are not at the source" in told

    names.write_text("apart\nnosuch:2\n")
    config = tmp_path / "ferry.toml"
    config.write_text("[migrate]\nfail-if-empty = true\n")
    command = ("migrate", filled.url, cluster.url, "--keys-from", str(names), "--job", "other")
    report = tmp_path / "report.json"
    assert "none of the 2 listed keys is at the source" in _warning(run(*command))
    failed = run(*command, "--config", str(config), "--report", str(report))
    assert failed.code == 3
    assert "database 3 holds 1 key" in failed.stderr
    assert '"reason": "names"' in report.read_text()


def test_a_list_of_which_the_filters_take_nothing(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    names = tmp_path / "names"
    names.write_text("key:1\n")
    told = _warning(run("migrate", filled.url, cluster.url, "--keys-from", str(names), "--match", "no*"))
    assert f"none of the 1 key in the key list {names} passes match no*" in told
    names.write_text("\n\n")
    told = _warning(run("migrate", filled.url, cluster.url, "--keys-from", str(names), "--job", "b"))
    assert f"the key list {names} names no key" in told


def test_a_dry_run_and_a_verification_afterwards_tell_it_once(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    command = ("migrate", f"{filled.url}/7", cluster.url)
    assert "has no keys in database 7" in _warning(run(*command, "--dry-run"))
    assert run(*command, "--dry-run", "--fail-if-empty").code == 3
    assert "has no keys in database 7" in _warning(run(*command, "--verify"))


def test_from_python(filled: LocalServer, cluster: LocalCluster) -> None:
    report = Migration(f"{filled.url}/7", cluster.url, Options(fail_if_empty=True)).run()
    assert (report.ok, report.status, report.exit_code) == (False, "completed", ExitCode.INCOMPLETE)
    assert report.empty is not None
    assert report.empty.elsewhere == ((0, 1_200), (3, 1))
    assert Migration(f"{filled.url}/7", cluster.url, Options(restart=True)).run().ok


@pytest.mark.parametrize("option", ["--type", "--exclude-type"])
def test_a_type_that_no_server_has(source: LocalServer, cluster: LocalCluster, option: str) -> None:
    refused = run("migrate", source.url, cluster.url, option, "strng")
    assert refused.code == 2
    assert "no server has a type 'strng'" in refused.stderr
    assert "did you mean string? types are string, list, set, zset, hash, stream" in refused.stderr


@pytest.mark.parametrize("name", ["ReJSON-RL", "MBbloom--", "graphdata", "vectorset", "tair-hash"])
def test_types_of_modules_are_let_through(name: str) -> None:
    assert Options(type=name).selection.types == (name,)
    with pytest.raises(UsageError, match="no server has a type 'bloom'"):
        Options(type="bloom")
