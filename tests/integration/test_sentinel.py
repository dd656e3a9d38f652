"""A source behind Sentinel: which server is found and read, and what is said where none can be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

import slotferry
from slotferry import CheckOptions, Migration, Options, Report
from slotferry.errors import ExitCode, SlotferryError, SourceLostError, SourceNotReadyError
from slotferry.model.events import Notice, RunStarted
from slotferry.testing.servers import (
    LocalCluster,
    LocalSentinel,
    LocalSentinelService,
    LocalServer,
    free_port,
    wait_until,
)
from tests.integration.migrating import count_keys
from tests.servers.kinds import available, on_path_or_embedded

KEYS = 500


def _fill(service: LocalSentinelService) -> None:
    with service.primary.client() as client:
        client.mset({f"key:{i}": i for i in range(KEYS)})


@pytest.fixture(scope="module")
def service() -> Iterator[LocalSentinelService]:
    """Return a filled service of a primary, a replica and three Sentinels, all as at the start."""
    with LocalSentinelService(on_path_or_embedded().binary) as service:
        _fill(service)
        yield service


def _migrate(url: str, cluster: LocalCluster, **options: object) -> tuple[Report, RunStarted, list[str]]:
    """Return the report, the run's start and the notices."""
    migration = Migration(url, cluster.url, Options(**options))  # type: ignore[arg-type]
    events = list(migration.events())
    report = migration.result()
    started = next(event for event in events if isinstance(event, RunStarted))
    return report, started, [event.message for event in events if isinstance(event, Notice)]


def _refused(url: str, cluster: LocalCluster, error: type[SlotferryError], says: str) -> SlotferryError:
    with pytest.raises(error, match=says) as raised:
        Migration(url, cluster.url).run()
    assert raised.value.hint
    assert count_keys(cluster) == 0
    return raised.value


def _dumps(server: LocalServer) -> int:
    with server.client() as client:
        stats = client.info("commandstats")
    return int(stats.get("cmdstat_dump", {"calls": 0})["calls"])


@pytest.mark.parametrize("name", sorted(available()))
def test_the_primary_is_read_by_default(cluster: LocalCluster, stack: ExitStack, name: str) -> None:
    service = stack.enter_context(LocalSentinelService(available()[name].binary, replicas=0, sentinels=1))
    _fill(service)

    report, started, notices = _migrate(service.url, cluster)

    assert report.keys.migrated == count_keys(cluster) == KEYS
    assert (started.source_node, started.source_role) == (service.primary.address, "primary")
    assert not [notice for notice in notices if service.service in notice]


@pytest.mark.parametrize("role", ["replica", "prefer-replica"])
def test_a_replica_spares_the_primary(
    service: LocalSentinelService, cluster: LocalCluster, role: str
) -> None:
    before = _dumps(service.primary)

    report, started, _ = _migrate(f"{service.url}?role={role}", cluster)

    assert report.keys.migrated == count_keys(cluster) == KEYS
    assert (started.source_node, started.source_role) == (service.replicas[0].address, "replica")
    assert _dumps(service.primary) == before


def test_a_replica_is_not_read_before_it_has_what_the_primary_had(
    service: LocalSentinelService, cluster: LocalCluster
) -> None:
    with service.primary.client() as client:
        client.set("the last one", "written just now")
        client.delete("the last one")

    report, _, _ = _migrate(f"{service.url}?role=replica", cluster)

    assert report.keys.migrated == KEYS


def test_dead_sentinels_in_the_list_do_no_harm(service: LocalSentinelService, cluster: LocalCluster) -> None:
    dead = [f"127.0.0.1:{free_port()}", "no-such-host.invalid:26379"]
    url = f"redis+sentinel://{','.join([*dead, service.sentinels[2].address])}/{service.service}"

    report, _, _ = _migrate(url, cluster)

    assert report.keys.migrated == count_keys(cluster) == KEYS


def test_a_sentinel_that_knows_less_is_not_believed(cluster: LocalCluster, stack: ExitStack) -> None:
    binary = on_path_or_embedded().binary
    service = stack.enter_context(LocalSentinelService(binary))
    _fill(service)
    service.switch_over()
    other = stack.enter_context(LocalServer(binary))
    alone = stack.enter_context(LocalSentinel(binary, service.service, other, quorum=1))

    report, started, notices = _migrate(service.url.replace("//", f"//{alone.address},"), cluster)

    assert report.keys.migrated == count_keys(cluster) == KEYS
    assert started.source_node == service.primary.address
    assert [notice for notice in notices if alone.address in notice and other.address in notice]


def test_a_service_that_its_sentinels_do_not_know(
    service: LocalSentinelService, cluster: LocalCluster
) -> None:
    url = service.url.replace(service.service, "cache")

    error = _refused(url, cluster, SourceNotReadyError, "does not know the service 'cache'")

    assert error.exit_code == ExitCode.REFUSED
    assert service.service in error.hint


def test_a_sentinel_that_is_none(service: LocalSentinelService, cluster: LocalCluster) -> None:
    url = f"redis+sentinel://{service.primary.address}/mymaster"

    _refused(url, cluster, SourceNotReadyError, f"{service.primary.address} is not a Sentinel")


def test_a_server_that_is_a_sentinel(service: LocalSentinelService, cluster: LocalCluster) -> None:
    url = service.sentinels[0].url

    error = _refused(url, cluster, SourceNotReadyError, f"is a Sentinel at {service.sentinels[0].address}")

    assert "redis+sentinel://" in error.hint


def test_no_sentinel_answers(cluster: LocalCluster) -> None:
    ports = free_port(), free_port()
    url = f"redis+sentinel://127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}/mymaster"

    error = _refused(url, cluster, SourceLostError, "mymaster has no Sentinel that answers")

    assert error.exit_code == ExitCode.SOURCE_LOST
    assert all(str(port) in error.message for port in ports)


def test_sentinels_without_a_quorum(cluster: LocalCluster, stack: ExitStack) -> None:
    service = stack.enter_context(LocalSentinelService(on_path_or_embedded().binary, replicas=0))
    for sentinel in service.sentinels[1:]:
        sentinel.kill()
    with service.sentinels[0].client(decode_responses=True) as client:
        wait_until(
            lambda: all(
                "s_down" in str(other)
                for other in client.execute_command("SENTINEL", "SENTINELS", service.service)
            ),
            "the last Sentinel to miss the others",
        )

    error = _refused(service.url, cluster, SourceLostError, "mymaster has no quorum: .*usable Sentinels")

    assert error.exit_code == ExitCode.SOURCE_LOST


def test_only_a_stale_replica(cluster: LocalCluster, stack: ExitStack) -> None:
    service = stack.enter_context(LocalSentinelService(on_path_or_embedded().binary))
    _fill(service)
    (replica,) = service.replicas
    # A replica whose primary does not let it in stays one, without its link; Sentinel leaves it alone.
    with service.primary.client() as primary, replica.client() as client:
        client.config_set("masterauth", "wrong")
        client.config_set("masteruser", "nobody")
        primary.execute_command("CLIENT", "KILL", "TYPE", "replica")
        wait_until(lambda: client.info("replication")["master_link_status"] == "down", "the link to be lost")

    error = _refused(f"{service.url}?role=replica", cluster, SourceLostError, "no replica that can be read")
    assert replica.address in error.message
    assert "link" in error.message
    assert error.exit_code == ExitCode.SOURCE_LOST

    report, started, notices = _migrate(f"{service.url}?role=prefer-replica", cluster)
    assert report.keys.migrated == KEYS
    assert started.source_role == "primary"
    assert any(replica.address in notice for notice in notices)


def test_the_login_at_the_sentinels_is_their_own(cluster: LocalCluster, stack: ExitStack) -> None:
    binary = on_path_or_embedded().binary
    service = stack.enter_context(
        LocalSentinelService(binary, sentinels=1, password="one", sentinel_password="two")
    )
    _fill(service)

    report, _, _ = _migrate(service.url, cluster, source_password="one", sentinel_password="two")
    assert report.keys.migrated == KEYS

    with pytest.raises(SourceNotReadyError, match="the Sentinel refuses the login") as raised:
        _migrate(service.url, cluster, source_password="one", sentinel_password="one")
    assert "SLOTFERRY_SENTINEL_PASSWORD" in raised.value.hint
    with pytest.raises(SourceNotReadyError, match="the source refuses the login"):
        _migrate(service.url, cluster, source_password="two", sentinel_password="two")


def test_a_check_looks_at_the_primary_of_the_service(
    service: LocalSentinelService, cluster: LocalCluster
) -> None:
    primary = service.primary
    with primary.client() as client:
        client.mget("user:1:cart", "user:1:wish")

    report = slotferry.check(service.url, cluster.url, CheckOptions(watch=1.0))
    reach, observed = report.row("source-reach"), report.row("observed")

    assert report.ok, report.errors
    assert reach is not None
    assert primary.address in reach.message
    assert report.keyspace is not None
    assert report.keyspace.keys >= KEYS
    assert observed is not None
    assert "MONITOR for" in observed.message
    assert "not counted: PUBLISH" in observed.message  # the Sentinels' own
    assert report.application is not None
    assert "publish" not in report.application.otherwise
