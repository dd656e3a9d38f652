"""What `check --follow` finds out about a source, on real servers."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

import slotferry
from slotferry import CheckOptions, CheckReport
from slotferry.preflight.rows import Row
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.integration.following import Following, Writer
from tests.servers.raw import connect

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.1", "valkey-9.1")


def _row(report: CheckReport, name: str) -> Row:
    row = report.row(name)
    assert row is not None, report.rows
    return row


def _look(source: LocalServer, cluster: LocalCluster, **more: object) -> CheckReport:
    options = CheckOptions(follow=True, sample=0, **more)  # type: ignore[arg-type]
    return slotferry.check(source.url, cluster.url, options)


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_source_that_can_be_followed(
    source: LocalServer, cluster: LocalCluster, request: pytest.FixtureRequest
) -> None:
    with source.client() as client:
        before = client.info()
        report = _look(source, cluster)
        after = client.info()
    assert _row(report, "psync").status == "ok"
    snapshot = _row(report, "snapshot")
    assert snapshot.status == ("warning" if "redis-6.2" in request.node.name else "ok")
    assert {row.name for row in report.rows if row.group == "following"} == {
        *("psync", "snapshot", "backlog", "output-buffer", "acknowledgements")
    }
    assert _row(report, "output-buffer").status == "ok"
    # Nothing is begun by asking.
    for name in ("rdb_bgsave_in_progress", "connected_slaves"):
        assert after[name] == 0
    for name in ("sync_full", "rdb_last_save_time", "latest_fork_usec", "master_replid"):
        assert after[name] == before[name], name


def test_without_being_asked_it_says_nothing_of_it(source: LocalServer, cluster: LocalCluster) -> None:
    report = slotferry.check(source.url, cluster.url, CheckOptions(sample=0))
    assert [row for row in report.rows if row.group == "following"] == []


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_a_user_who_may_not_follow(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-psync", "-replconf")
        try:
            url = source.url.replace("redis://", "redis://reader:pw@")
            done = run("check", url, cluster.url, "--follow", "--sample", "0", "--json")
        finally:
            client.execute_command("ACL", "DELUSER", "reader")
    assert done.code == 4, done.stderr
    (row,) = (line for line in done.lines if line.get("group") == "following")
    assert (row["name"], row["status"]) == ("psync", "error")
    assert "REPLCONF, PSYNC" in row["message"]
    assert "+replconf +psync" in row["advice"]
    assert "--on-conflict replace" in row["advice"]


def test_a_replica_without_its_primary(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client:
        client.replicaof(source.host, 1)
        try:
            report = _look(source, cluster, skip_check=("psync",))
        finally:
            client.replicaof("NO", "ONE")
    assert "lost its primary" in _row(report, "psync").message


def test_a_small_backlog_is_measured_against_the_writes(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as client, source.client() as own:

        def write(number: int) -> None:
            client.set(f"key:{number % 50}", "x" * 1000)

        with Following(source, cluster) as following, Writer(write) as writer:
            following.wait_event("follow_attached")
            own.config_set("repl-backlog-size", 1 << 20)
            writer.wait_more(100)
            report = _look(source, cluster)
    backlog = _row(report, "backlog")
    assert backlog.status == "warning", backlog
    assert "1.0 MB hold" in backlog.message
    assert backlog.advice.startswith("CONFIG SET repl-backlog-size ")
    assert int(backlog.advice.split()[-1].removesuffix("mb")) >= 64


def test_a_limit_of_the_output_buffer(source: LocalServer, cluster: LocalCluster) -> None:
    name = "client-output-buffer-limit"
    with source.client() as client:
        before = client.config_get(name)[name]
        client.config_set(name, "slave 100000 50000 10")
        try:
            row = _row(_look(source, cluster), "output-buffer")
        finally:
            client.config_set(name, before)
        assert row.status == "warning"
        command = row.advice.removeprefix("CONFIG SET ")
        client.config_set(name, command.removeprefix(name).strip().strip("'"))
        assert _row(_look(source, cluster), "output-buffer").status == "ok"
        client.config_set(name, before)


def test_who_waits_for_replicas_is_told_that_a_follower_counts(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack
) -> None:
    assert _row(_look(source, cluster), "acknowledgements").status == "ok"
    with connect(source) as connection:
        connection.execute("WAIT", 0, 1)
    row = _row(_look(source, cluster), "acknowledgements")
    assert row.status == "warning"
    assert "WAIT was called 1 time" in row.message
    with source.client() as client:
        client.config_set("min-replicas-to-write", 1)
        try:
            row = _row(_look(source, cluster), "acknowledgements")
        finally:
            client.config_set("min-replicas-to-write", 0)
    assert "min-replicas-to-write is set" in row.message
