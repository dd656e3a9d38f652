"""What happens to a source behind Sentinel during a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from slotferry import Migration, Report
from slotferry.model.events import Event, Notice
from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer, wait_until
from slotferry.topology import sentinel
from tests.faults.paused import Paused, paused_migration
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect

_KEYS = 100_000


def _service(kind: ServerKind, stack: ExitStack, replicas: int = 1) -> LocalSentinelService:
    """Return a filled primary with replicas that have everything, behind three Sentinels."""
    service = stack.enter_context(LocalSentinelService(kind.binary, replicas=replicas))
    with connect(service.primary) as connection:
        fill_strings(connection, _KEYS)
    wait_until(lambda: all(_count(r) == _KEYS for r in service.replicas), "the replicas to have all keys")
    return service


def _count(server: LocalServer) -> int:
    with server.client() as client:
        return int(client.dbsize())


class Story:
    """What a migration under way has told so far."""

    def __init__(self, migration: Migration) -> None:
        self._events: list[Event] = []
        migration._listeners.append(self._events.append)

    def tells(self, *words: str) -> bool:
        """Whether one notice holds all of these words."""
        notices = [event.message for event in list(self._events) if isinstance(event, Notice)]
        return any(all(word in notice for word in words) for notice in notices)


def _finish(paused: Paused, source: LocalServer, cluster: LocalCluster) -> Report:
    report = paused.resume()
    assert report.ok
    assert_equal(source, cluster, byte_equal=True)
    return report


@contextmanager
def _held_at_the_target(paused: Paused, cluster: LocalCluster) -> Iterator[None]:
    """Let the source answer again, and the target take no writes meanwhile."""
    for node in cluster.primaries:
        with node.client() as client:
            client.execute_command("CLIENT", "PAUSE", 300_000, "WRITE")
    try:
        paused.proxy.resume()
        yield
    finally:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("CLIENT", "UNPAUSE")


@contextmanager
def _without_its_link(replica: LocalServer) -> Iterator[None]:
    """Keep `replica` from its primary, which turns its login away; Sentinel leaves it alone."""
    with replica.client() as client:
        client.config_set("masteruser", "nobody")
        client.config_set("masterauth", "wrong")
        client.execute_command("CLIENT", "KILL", "TYPE", "master")
        wait_until(lambda: client.info("replication")["master_link_status"] == "down", "the link to be lost")
        yield
        client.config_set("masteruser", "")
        client.config_set("masterauth", "")


@contextmanager
def _behind(replica: LocalServer, primary: LocalServer) -> Iterator[None]:
    """Let `replica` apply nothing more of what comes over its link, which stays up; it answers reads."""
    with replica.client() as client, primary.client() as writer:
        client.execute_command("CLIENT", "PAUSE", 300_000, "WRITE")
        writer.set("key:0", writer.get("key:0") or b"")
        try:
            yield
            assert client.info("replication")["master_link_status"] == "up"
        finally:
            client.execute_command("CLIENT", "UNPAUSE")


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "demoted"])
def test_a_failover_of_the_primary(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack, killed: bool
) -> None:
    service = _service(kind, stack)
    with paused_migration(service.primary, cluster, service=service) as paused:
        history = Story(paused.migration)
        new = service.fail_over() if killed else service.switch_over()
        report = _finish(paused, new, cluster)

    assert report.keys.scanned == report.keys.migrated + report.keys.unchanged >= _KEYS
    assert report.keys.unchanged >= _KEYS // 10
    assert history.tells("cursors are void", new.address)


@pytest.mark.long
def test_a_replica_that_is_promoted_is_read_on(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    service = _service(kind, stack)
    (replica,) = service.replicas
    with paused_migration(replica, cluster, service=service, role="replica") as paused:
        history = Story(paused.migration)
        assert service.fail_over() is replica
        with _held_at_the_target(paused, cluster):
            wait_until(lambda: history.tells("promoted", paused.proxy.address), "the promotion to be told")
        _finish(paused, replica, cluster)

    assert not history.tells("void")


def test_a_replica_without_its_link_is_left_until_it_has_it_again(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "UNFIT_SECONDS", 0.5)
    service = _service(kind, stack)
    (replica,) = service.replicas
    with paused_migration(replica, cluster, service=service, role="replica") as paused:
        history = Story(paused.migration)
        with _held_at_the_target(paused, cluster), _without_its_link(replica):
            wait_until(lambda: history.tells("no link to its primary", "waiting"), "the replica to be left")
        _finish(paused, replica, cluster)

    assert history.tells("can be read again", paused.proxy.address)
    assert not history.tells("void")


@pytest.mark.long
def test_a_replica_that_falls_behind_is_left_until_it_has_caught_up(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "MOST_LAG_SECONDS", 1.0)
    monkeypatch.setattr(sentinel, "UNFIT_SECONDS", 0.5)
    monkeypatch.setattr(sentinel, "_CATCH_UP_SECONDS", 0.5)
    service = _service(kind, stack)
    (replica,) = service.replicas
    with paused_migration(replica, cluster, service=service, role="replica") as paused:
        history = Story(paused.migration)
        with _held_at_the_target(paused, cluster), _behind(replica, service.primary):
            wait_until(
                lambda: history.tells("s behind its primary", "not read like this"), "the lag to be told"
            )
            wait_until(lambda: history.tells("bytes behind its primary", "waiting"), "the replica to be left")
        _finish(paused, replica, cluster)

    assert history.tells("can be read again", paused.proxy.address)
    assert not history.tells("void")


@pytest.mark.long
def test_another_replica_takes_over_from_one_that_is_gone(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sentinel, "UNFIT_SECONDS", 0.5)
    service = _service(kind, stack, replicas=2)
    one, other = service.replicas
    with ExitStack() as one_alone:
        one_alone.enter_context(_without_its_link(other))
        with paused_migration(one, cluster, service=service, role="replica") as paused:
            history = Story(paused.migration)
            one_alone.close()
            wait_until(lambda: _link(other) == "up", "the other replica to be fit")
            one.kill()
            _finish(paused, other, cluster)

    assert history.tells("does not answer", paused.proxy.address)
    assert history.tells("void", other.address)


def test_a_resumed_job_reads_the_replica_that_its_cursors_are_from(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    service = _service(kind, stack, replicas=2)
    one, other = service.replicas
    with ExitStack() as other_alone:
        other_alone.enter_context(_without_its_link(one))
        with paused_migration(other, cluster, service=service, role="replica", job="nightly") as paused:
            other_alone.close()
            wait_until(lambda: _link(one) == "up", "the other replica to be fit as well")
            paused.migration.cancel()
            assert paused.resume().status == "interrupted"
            report = paused.again(job="nightly").run()

    assert report.ok
    assert report.resumed


def _link(replica: LocalServer) -> str:
    with replica.client() as client:
        return str(client.info("replication")["master_link_status"])
