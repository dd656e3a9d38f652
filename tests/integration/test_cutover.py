"""Cutting over on real servers, with a writer under load: nothing is lost, and writes flow where it fails."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from slotferry.errors import RefusedError, SlotferryError
from slotferry.migrate.cutover.border import CheckRequest
from slotferry.model.cutover import Checked
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.cutting_over import (
    HarnessFollower,
    Load,
    attempt,
    compare_nothing,
    make_records,
    takes_writes,
)
from tests.integration.following import Following
from tests.servers.compare import assert_equal

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")
COUNT, AGE = "min-replicas-to-write", "min-replicas-max-lag"


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def follower(source: LocalServer, cluster: LocalCluster) -> Iterator[HarnessFollower]:
    """Return a run that follows; the settings that a cut-over changes are put back afterwards."""
    with source.client() as client:
        before = {name: client.config_get(name)[name] for name in (COUNT, AGE)}
        client.set("still", 1)
        try:
            with Following(source, cluster) as following:
                following.wait_event("follow_attached")
                following.wait_copied()
                yield HarnessFollower(following, source)
        finally:
            client.client_unpause()
            for name, value in before.items():
                client.config_set(name, value)


def counters_at(cluster: LocalCluster, names: Any) -> dict[str, int]:
    with cluster.client() as target:
        return {name: int(target.get(name) or 0) for name in names}


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_paused_source_loses_nothing_under_load(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    seen: list[CheckRequest] = []

    def check(request: CheckRequest) -> Checked:
        seen.append(request)
        assert_equal(source, cluster)
        return Checked(len(request.touched), 0)

    with contextlib.ExitStack() as stack:
        load = stack.enter_context(Load(source))
        load.wait_more(5000)
        going = attempt(follower, journal, check, hold=30.0).begin()
        going.wait_for("go", "done")
        acknowledged = dict(load.counts)
        assert counters_at(cluster, acknowledged) == acknowledged
        going.cancel.ask()  # the hold is over
        report = going.result()
    assert report.outcome == "cut_over"
    assert report.write_stop_ms is not None
    assert report.write_stop_ms > 0
    assert report.checked == len(seen[0].touched) > 0
    assert (report.attempts, report.differences) == (1, 0)
    assert follower._following.job.wait(0)
    follower._following.job.result()
    assert counters_at(cluster, acknowledged) == acknowledged
    assert make_records(journal).attempts()[0].outcome == "cut_over"
    # What was held back at the source is written when the hold ends: it is counted and named.
    assert report.written.keys > 0
    assert report.written.names


def test_a_source_that_refuses_writes_loses_nothing_under_load(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with Load(source) as load, source.client() as client:
        client.config_set(AGE, 0)
        load.wait_more(5000)
        report = attempt(follower, journal, stop_writes="refuse").begin().result()
        assert report.outcome == "cut_over"
        wait_until(lambda: load.refused > 0, "no write is refused")
        load.stop()
        assert counters_at(cluster, load.counts) == load.counts
        assert report.written.keys == 0
        assert "--undo" in report.warning
        assert not takes_writes(source)
        records = make_records(journal)
        assert {each.name for each in records.changed_settings()} == {COUNT, AGE}


def test_writers_that_have_stopped_are_believed_and_proven(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with Load(source) as load:
        load.wait_more(2000)
    with source.client() as client:
        client.ping()
        report = attempt(follower, journal, stop_writes="none").begin().result()
        assert report.outcome == "cut_over", report
        assert counters_at(cluster, load.counts) == load.counts
        assert_equal(source, cluster)


def test_keys_that_expire_are_no_writes(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with source.client() as client:
        client.set("soon", 1, px=300)

        def check(request: CheckRequest) -> Checked:
            wait_until(lambda: not client.exists("soon"), "the key does not expire")
            return Checked(1, 0)

        report = attempt(follower, journal, check, stop_writes="none").begin().result()
        assert report.outcome == "cut_over", report


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_keys_that_expire_in_the_hold_are_no_writes(
    follower: HarnessFollower, source: LocalServer, journal: Path
) -> None:
    with source.client() as client:
        for number in range(50):
            client.set(f"soon:{number}", 1, px=3000)
        client.set("deleted", 1)
        going = attempt(follower, journal, stop_writes="none", hold=60.0).begin()
        going.wait_for("hold")
        wait_until(lambda: not client.keys("soon:*"), "the keys do not expire")
        client.delete("deleted")
        going.wait_for("hold", "failed")
        client.set("late", 1)
        wait_until(lambda: "2 keys" in going.steps[-1].message, "the second write is not told")
        going.cancel.ask()
        report = going.result()
    assert report.written.keys == 2, report
    assert report.written.names[0] == b"late"


def wait_expired(client: Redis, keys: int) -> None:
    """Wait until the server has expired so many keys since it began."""
    wait_until(lambda: client.info("stats")["expired_keys"] >= keys, "the key does not expire")


def test_a_write_is_not_taken_for_a_key_that_has_expired(
    follower: HarnessFollower, source: LocalServer, journal: Path
) -> None:
    with source.client() as client:
        before = client.info("stats")["expired_keys"]

        def check(request: CheckRequest) -> Checked:
            for more in (1, 2):
                client.set("soon", more, px=1)
                wait_expired(client, before + more)
            client.set("still", 2)
            return Checked(1, 0)

        report = attempt(follower, journal, check, stop_writes="none").begin().result()
    assert report.outcome == "abandoned", report
    assert "2 keys were written since the fence" in report.reason
    assert "still" in report.reason


def test_writers_that_go_on_are_noticed(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with Load(source) as load:
        load.wait_more(1000)

        def check(request: CheckRequest) -> Checked:
            load.wait_more(100)
            return Checked(1, 0)

        report = attempt(follower, journal, check, stop_writes="none").begin().result()
        assert report.outcome == "abandoned"
        assert "keys were written since the fence" in report.reason
        load.wait_more(100)
    follower._following.wait_clean()
    assert_equal(source, cluster)
    assert counters_at(cluster, load.counts) == load.counts


def test_writes_after_go_are_named_as_lost(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    going = attempt(follower, journal, stop_writes="none", hold=60.0).begin()
    going.wait_for("hold")
    with source.client() as client:
        client.set("late:1", 1)
        client.set("late:2", 1)
    going.wait_for("hold", "failed")
    going.cancel.ask()
    report = going.result()
    assert report.outcome == "cut_over"
    assert report.written.keys == 2
    assert set(report.written.names) == {b"late:1", b"late:2"}
    with cluster.client() as target:
        assert not target.exists("late:1")


def _never_clean(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    follower.most_clean = 0
    return {"within": 0.5}


def _differs(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    return {"compare": lambda request: Checked(7, 2, (b"one", b"other"))}


def _lost_while_compared(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    def lose(request: CheckRequest) -> Checked:
        follower.most_clean = 0  # as when a node of the target was emptied
        return Checked(7, 0)

    return {"compare": lose}


def _check_fails(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    def fail(request: CheckRequest) -> Checked:
        raise SlotferryError("the target's node 7 is lost")

    return {"compare": fail}


def _check_takes_long(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    def wait(request: CheckRequest) -> Checked:
        wait_until(lambda: not request.is_wanted(), "it is wanted for ever")
        return Checked(0, 0)

    return {"compare": wait, "within": 5.0}


def _command_fails(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    return {"run": "echo 'no such service' >&2; exit 3", "shell": True}


def _command_is_none(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    return {"run": "/no/such/command"}


def _command_hangs(follower: HarnessFollower, source: LocalServer) -> dict[str, Any]:
    return {"run": "sleep 600", "within": 5.0}


ABANDONED: dict[str, tuple[Callable[..., dict[str, Any]], str, str]] = {
    "clean": (_never_clean, "clean", "not all up to"),
    "differs": (_differs, "check", "2 of 7 keys differ: one, other"),
    "lost": (_lost_while_compared, "check", "may have lost"),
    "check-fails": (_check_fails, "check", "node 7 is lost"),
    "check-late": (_check_takes_long, "check", "took longer than"),
    "command": (_command_fails, "run", "exited with 3: no such service"),
    "command-none": (_command_is_none, "run", "can't be started"),
    "command-hangs": (_command_hangs, "run", "had not ended in time"),
}


@pytest.mark.parametrize("stop_writes", ["pause", "refuse"])
@pytest.mark.parametrize("case", ABANDONED)
def test_abandoned_in_a_step_lets_writes_flow_and_can_be_repeated(
    follower: HarnessFollower,
    source: LocalServer,
    cluster: LocalCluster,
    journal: Path,
    case: str,
    stop_writes: str,
) -> None:
    prepare, step, reason = ABANDONED[case]
    with Load(source) as load:
        load.wait_more(1000)
        options = prepare(follower, source)
        compare = options.pop("compare", compare_nothing)
        report = attempt(follower, journal, compare, stop_writes=stop_writes, **options).begin().result()
        assert report.outcome == "abandoned"
        assert (report.step, report.attempts) == (step, 1), report
        assert reason in report.reason
        assert report.write_stop_ms is not None
        assert make_records(journal).changed_settings() == []
        load.wait_more(1000)
        recorded = make_records(journal).attempts()[0]
        assert (recorded.outcome, recorded.reason) == ("abandoned", report.reason)
        follower.most_clean = None
        again = attempt(follower, journal, stop_writes=stop_writes, hold=30.0).begin()
        again.wait_for("go", "done")
        acknowledged = dict(load.counts)
        assert counters_at(cluster, acknowledged) == acknowledged
        again.cancel.ask()
        assert again.result().attempts == 2


def test_a_request_to_end_is_heeded_in_a_step(
    follower: HarnessFollower, source: LocalServer, journal: Path
) -> None:
    def check(request: CheckRequest) -> Checked:
        going.cancel.ask()
        assert not request.is_wanted()
        return Checked(0, 0)

    going = attempt(follower, journal, check)
    report = going.begin().result()
    assert (report.outcome, report.reason) == ("abandoned", "asked to end")
    assert takes_writes(source)


def test_a_lag_that_stays_stops_no_write(
    follower: HarnessFollower, source: LocalServer, journal: Path
) -> None:
    follower.lag_seconds = 7.0
    report = attempt(follower, journal, within=0.2).begin().result()
    assert report.outcome == "not_ready"
    assert report.write_stop_ms is None
    assert "still waiting for the lag" in report.reason
    assert "7.0 s behind" in report.reason


def test_a_pause_that_somebody_ends_is_noticed(
    follower: HarnessFollower, source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with source.client() as client:

        def check(request: CheckRequest) -> Checked:
            client.client_unpause()
            client.set("slipped", 1)
            return Checked(0, 0)

        report = attempt(follower, journal, check).begin().result()
    assert report.outcome == "abandoned"
    assert "slipped" in report.reason
    follower._following.wait_clean()
    assert_equal(source, cluster)


def test_jobs_that_cannot_be_cut_over(follower: HarnessFollower, source: LocalServer, journal: Path) -> None:
    follower.copied = False
    with pytest.raises(RefusedError, match="copies still"):
        attempt(follower, journal).begin().result()
    follower.copied = True
    assert attempt(follower, journal).begin().result().is_done
    with pytest.raises(RefusedError, match="cut over already"):
        attempt(follower, journal).begin().result()


def test_the_command_gets_the_facts(
    follower: HarnessFollower, source: LocalServer, journal: Path, tmp_path: Path
) -> None:
    told = tmp_path / "facts"
    report = (
        attempt(follower, journal, run=f'echo "$SLOTFERRY_FENCE $SLOTFERRY_CUTOVER_JOB" > {told}', shell=True)
        .begin()
        .result()
    )
    assert report.outcome == "cut_over", report
    assert told.read_text().split() == [str(report.fence), "nightly"]
    assert json.dumps(report.to_dict())
