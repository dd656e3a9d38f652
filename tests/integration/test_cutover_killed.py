"""`kill -9` in each step of a cut-over: the source takes writes again, and the next run knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slotferry.errors import RefusedError
from slotferry.migrate.cutover.recovery import recover, undo
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.cutting_over import (
    HarnessFollower,
    attempt,
    connector,
    make_records,
    start_killable,
    takes_writes,
)
from tests.integration.following import Following
from tests.servers.compare import assert_equal

COUNT, AGE = "min-replicas-to-write", "min-replicas-max-lag"

PLACES = (
    *(("lag", "begun"), ("stop", "begun"), ("stop", "done"), ("fence", "done"), ("clean", "begun")),
    *(("clean", "done"), ("check", "begun"), ("check", "done"), ("run", "begun"), ("run", "done")),
    *(("go", "done"), ("hold", "begun")),
)
BEFORE_STOP = (("lag", "begun"), ("stop", "begun"))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture(autouse=True)
def _settings(source: LocalServer) -> Iterator[None]:
    with source.client() as client:
        before = {name: client.config_get(name)[name] for name in (COUNT, AGE)}
        yield
        client.client_unpause()
        for name, value in before.items():
            client.config_set(name, value)


@contextmanager
def killed(
    source: LocalServer, cluster: LocalCluster, journal: Path, stop_writes: str, place: tuple[str, str]
) -> Iterator[None]:
    """Kill a cut-over at this place; what is done in the context is done before it is killed."""
    make_records(journal)
    process = start_killable((source.url, cluster.url, str(journal), stop_writes, *place))
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_a_pause_ends_by_itself(
    source: LocalServer, cluster: LocalCluster, journal: Path, place: tuple[str, str]
) -> None:
    with killed(source, cluster, journal, "pause", place):
        assert takes_writes(source) == (place in BEFORE_STOP)
    wait_until(lambda: takes_writes(source), "the source stays paused")
    _go_on(source, cluster, journal, place)


@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_refused_writes_are_undone_by_the_next_run(
    source: LocalServer, cluster: LocalCluster, journal: Path, place: tuple[str, str]
) -> None:
    with source.client() as client:
        client.config_set(AGE, 0)
        with killed(source, cluster, journal, "refuse", place):
            assert takes_writes(source) == (place in BEFORE_STOP)
        _go_on(source, cluster, journal, place)
        if place[0] in ("go", "hold"):
            return
        assert takes_writes(source)
        assert (client.config_get(COUNT)[COUNT], client.config_get(AGE)[AGE]) == ("0", "0")


def _go_on(source: LocalServer, cluster: LocalCluster, journal: Path, place: tuple[str, str]) -> None:
    """Do as the next run does: recover, follow, cut over."""
    records = make_records(journal)
    if place[0] in ("go", "hold"):
        with pytest.raises(RefusedError, match="cut over already"):
            recover(connector(source), records)
        return
    if place[0] == "run":
        with pytest.raises(RefusedError, match="killed while its command ran"):
            recover(connector(source), records)
        assert takes_writes(source)
        assert undo(connector(source), records)
    told = recover(connector(source), records)
    assert records.changed_settings() == []
    first = records.attempts()[0]
    assert first.outcome == "abandoned"
    assert place[0] == "run" or any("killed in the step" in each for each in told)
    with Following(source, cluster) as following:
        following.wait_event("follow_attached")
        following.wait_copied()
        report = attempt(HarnessFollower(following, source), journal).begin().result()
        assert report.is_done
        assert report.attempts == 2
        assert_equal(source, cluster)


def test_undo_puts_settings_back_after_go_too(
    source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with killed(source, cluster, journal, "refuse", ("hold", "begun")):
        pass
    records = make_records(journal)
    told = undo(connector(source), records)
    assert takes_writes(source)
    assert any("is 0 again" in each for each in told)
    assert records.attempts()[0].outcome == "cut_over"


def test_a_setting_that_somebody_else_has_changed_is_left(
    source: LocalServer, cluster: LocalCluster, journal: Path
) -> None:
    with killed(source, cluster, journal, "refuse", ("stop", "done")):
        pass
    with source.client() as client:
        client.config_set(COUNT, 1)
        told = undo(connector(source), make_records(journal))
        assert client.config_get(COUNT)[COUNT] == "1"
    assert any("left as it is" in each for each in told)
    assert make_records(journal).changed_settings() == []
