"""What an operator may ask of a run: rates, pauses, by option, from Python and from another terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.model.events import Progress
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy, put_behind_proxies
from tests.servers.raw import connect


def _fill(source: LocalServer, keys: int, value_size: int = 100) -> None:
    with connect(source) as connection:
        fill_strings(connection, keys, value_size=value_size)


def test_a_rate_of_keys_is_kept(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source, 3_000)
    report = migrate(source, cluster, max_keys_per_second=2_000)
    assert report.ok
    assert report.elapsed_seconds > 1.4  # a busy machine makes it longer, nothing shorter
    assert_equal(source, cluster, byte_equal=True)


def test_a_rate_of_bytes_is_kept(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source, 1_500, value_size=2_000)
    report = migrate(source, cluster, max_bytes_per_second=2_000_000)
    assert report.ok
    assert report.elapsed_seconds > 1.4
    assert_equal(source, cluster, byte_equal=True)


def test_pause_rate_show_resume_and_cancel_from_another_terminal(
    source: LocalServer, cluster: LocalCluster
) -> None:
    _fill(source, 20_000)
    command = ("migrate", source.url, cluster.url, "--job", "nightly", "--json")
    with Running(*command, "--max-keys-per-second", "1000") as running:
        wait_until(lambda: count_keys(cluster) > 100, "the first keys to arrive")
        paused = run("jobs", "pause", "nightly", "--json")
        assert paused.code == 0, paused.stderr
        assert paused.lines[0]["type"] == "asked"
        wait_until(lambda: _live()["state"] == "paused", "the run to pause")
        assert _live()["reason"].startswith("by the operator")
        assert "paused: by the operator" in run("jobs", "show", "nightly").stdout
        keys = count_keys(cluster)

        assert run("jobs", "rate", "nightly", "--max-keys-per-second", "500").code == 0
        assert _live()["max_keys_per_second"] == 500
        assert count_keys(cluster) == keys < 20_000  # all that was under way had arrived
        assert run("jobs", "resume", "nightly").code == 0
        wait_until(lambda: count_keys(cluster) > keys, "the run to go on")

        cancelled = run("jobs", "cancel", "nightly")
        assert (cancelled.code, cancelled.stdout) == (0, "asked nightly to end\n")
        outcome = running.finish()
    assert outcome.code == 130
    notices = [line["message"] for line in outcome.lines if line["type"] == "notice"]
    assert [notice for notice in notices if "operator" in notice] == [
        "paused by the operator",
        "the operator's rate is 500 keys/s now",
        "resumed by the operator",
    ]
    late = run("jobs", "pause", "nightly")
    assert (late.code, "nightly is not running" in late.stderr) == (4, True)

    done = run(*command)  # without the rate, which is no part of the job's setup
    assert done.code == 0
    assert done.summary["resumed"]
    assert_equal(source, cluster, byte_equal=True)


def _live() -> dict[str, Any]:
    shown = run("jobs", "show", "nightly", "--json")
    assert shown.code == 0, shown.stderr
    return next(line for line in shown.lines if line["type"] == "live")


def test_a_paused_run_ends_in_order_and_resumes(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source, 20_000)
    options = Options(job="nightly", max_keys_per_second=5_000, parallel_scans=4)
    with Migration(source.url, cluster.url, options) as migration:
        migration.start()
        wait_until(lambda: count_keys(cluster) > 100, "the first keys to arrive")
        migration.pause()
        _wait_for(migration, "paused")
        migration.cancel()
        report = migration.result(60)
    assert report.status == "interrupted"
    assert report.keys.add_up

    again = migrate(source, cluster, job="nightly")
    assert again.ok
    assert again.keys.scanned == again.keys.migrated + again.keys.unchanged == 20_000
    assert_equal(source, cluster, byte_equal=True)


def test_a_dry_run_keeps_the_rate_too(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source, 4_000)
    report = migrate(source, cluster, dry_run=True, max_keys_per_second=2_000)
    assert report.keys.scanned == 4_000
    assert report.elapsed_seconds > 0.5


@contextmanager
def _limited(source: str, cluster: LocalCluster, limit: int) -> Iterator[Migration]:
    """Migrate slowly, with a limit of latency (ms), until keys arrive; at the end let it go on to its own."""
    options = Options(pause_above_latency=limit, max_keys_per_second=5_000)
    with Migration(source, cluster.url, options) as migration:
        migration.start()
        wait_until(lambda: count_keys(cluster) > 100, "the first keys to arrive")
        yield migration
        migration.set_rate(max_keys_per_second=None, max_bytes_per_second=None)
        assert migration.result(120).ok


@pytest.mark.parametrize(
    ("delayed", "says"),
    [(b"", "limit 250 ms"), (b"SCAN", "let our commands wait for")],
    ids=["all", "scans"],
)
def test_reading_pauses_while_the_source_is_slow(
    source: LocalServer, cluster: LocalCluster, delayed: bytes, says: str
) -> None:
    _fill(source, 50_000)
    with (
        Proxy(source.host, source.port) as proxy,
        _limited(f"redis://{proxy.address}", cluster, 250) as migration,
    ):
        proxy.delayed_command = delayed  # with one, pings go through as ever
        proxy.delay = 0.4  # each way
        reason = _wait_for(migration, "paused")
        assert f"source {proxy.address}" in reason
        assert says in reason
        proxy.delay = 0.0
    assert_equal(source, cluster, byte_equal=True)


def test_reading_pauses_while_a_primary_is_slow(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source, 50_000)
    with cluster.primaries[1].client() as slow, _limited(source.url, cluster, 300) as migration:
        slow.execute_command("CLIENT", "PAUSE", 3_000, "ALL")
        reason = _wait_for(migration, "paused")
        assert f"target {cluster.primaries[1].address} has " in reason  # a ping, or our commands
    assert_equal(source, cluster, byte_equal=True)


def test_reading_pauses_while_only_a_primary_s_restores_are_slow(
    source: LocalServer, kind: ServerKind, stack: ExitStack
) -> None:
    _fill(source, 50_000)
    cluster = stack.enter_context(LocalCluster(kind.binary))
    proxies = put_behind_proxies(cluster, stack)
    with _limited(source.url, cluster, 250) as migration:
        proxies[1].delayed_command = b"SET"  # so pings go through as ever
        proxies[1].delay = 0.4  # each way
        reason = _wait_for(migration, "paused")
        assert f"target {proxies[1].address}" in reason
        assert "let our commands wait for" in reason
        assert "limit 250 ms" in reason
        _wait_for(migration, "running")  # the pings alone end a pause
        proxies[1].delay = 0.0
    assert_equal(source, cluster, byte_equal=True)


def _wait_for(migration: Migration, state: str) -> str:
    """Follow the run until it is in `state`; return the reason."""
    for event in migration.events():
        if isinstance(event, Progress) and event.state == state:
            return event.reason
    raise AssertionError(f"the run ended and was never {state}")
