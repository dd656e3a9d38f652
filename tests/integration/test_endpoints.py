"""How the two sides are reached: sockets, IPv6, credentials, rights, databases, any node of the cluster."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from slotferry import Migration, Options
from slotferry.errors import SourceNotReadyError, TargetNotReadyError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.kinds import ServerKind, available

# What a user made for a migration needs, as docs/permissions.md says it.
SOURCE_RIGHTS = "+scan +dump +pttl +pexpiretime +time +info +dbsize +ping +select"
TARGET_RIGHTS = "+restore +asking +dump +pttl +pexpiretime +time +info +cluster +ping"


def _fill(source: LocalServer) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(500)})


def test_a_unix_socket_as_the_source(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source)

    report = Migration(f"unix://{source.socket_path}", cluster.url).run()

    assert report.keys.migrated == count_keys(cluster) == 500


def test_an_ipv6_source(kind: ServerKind, cluster: LocalCluster, stack: ExitStack) -> None:
    if not _has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    source = stack.enter_context(LocalServer(kind.binary, config={"bind": "127.0.0.1 ::1"}))
    _fill(source)

    report = Migration(f"redis://[::1]:{source.port}", cluster.url).run()

    assert report.keys.migrated == count_keys(cluster) == 500


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_one_node_is_enough_to_find_the_cluster(source: LocalServer, cluster: LocalCluster) -> None:
    _fill(source)

    report = Migration(source.url, cluster.primaries[1].url).run()

    assert report.keys.migrated == count_keys(cluster) == 500
    assert len(report.keys_by_primary) == 3


def test_a_replica_of_the_target_finds_its_primaries(
    kind: ServerKind, source: LocalServer, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1))
    _fill(source)

    report = Migration(source.url, cluster.replicas[0].url).run()

    assert report.keys.migrated == count_keys(cluster) == 500


@pytest.mark.parametrize("password", ["secret", "p@ss:w/rd #?&%", "пароль "])
def test_passwords_on_both_sides(kind: ServerKind, stack: ExitStack, password: str) -> None:
    source = stack.enter_context(LocalServer(kind.binary, password=password))
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1, password=password))
    _fill(source)

    options = Options(source_password=password, target_password=password)
    report = Migration(source.url, cluster.url, options).run()

    assert report.keys.migrated == count_keys(cluster) == 500


def _add_user(server: LocalServer, rights: str) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "mover", "reset", "on", ">secret", "~*", *rights.split())


@pytest.fixture
def guarded(kind: ServerKind, stack: ExitStack) -> tuple[LocalServer, LocalCluster]:
    """Return a source and a one-node cluster whose user `mover` may do just what a migration needs."""
    source = stack.enter_context(LocalServer(kind.binary))
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1))
    _add_user(source, SOURCE_RIGHTS)
    _add_user(cluster.primaries[0], TARGET_RIGHTS)
    _fill(source)
    return source, cluster


def _as_mover(url: str) -> str:
    return url.replace("://", "://mover:secret@")


def test_a_user_with_just_the_rights_that_are_needed(guarded: tuple[LocalServer, LocalCluster]) -> None:
    source, cluster = guarded
    with cluster.client() as new:
        new.set("key:7", 7)  # so that a comparison is needed as well

    report = Migration(_as_mover(source.url), _as_mover(cluster.url)).run()

    assert report.ok
    assert (report.keys.migrated, report.keys.unchanged) == (499, 1)


@pytest.mark.parametrize("missing", ["scan", "dump", "time"])
def test_a_right_that_the_source_user_lacks(guarded: tuple[LocalServer, LocalCluster], missing: str) -> None:
    source, cluster = guarded
    _add_user(source, f"{SOURCE_RIGHTS} -{missing}")

    with pytest.raises(SourceNotReadyError, match=f"(?i){missing}") as raised:
        Migration(_as_mover(source.url), _as_mover(cluster.url)).run()

    assert source.address in str(raised.value)
    assert count_keys(cluster) == 0


@pytest.mark.parametrize("missing", ["restore", "asking"])
def test_a_right_that_the_target_user_lacks(guarded: tuple[LocalServer, LocalCluster], missing: str) -> None:
    source, cluster = guarded
    _add_user(cluster.primaries[0], f"{TARGET_RIGHTS} -{missing}")

    with pytest.raises(TargetNotReadyError, match=f"(?i){missing}") as raised:
        Migration(_as_mover(source.url), _as_mover(cluster.url)).run()

    assert cluster.primaries[0].address in str(raised.value)
    assert count_keys(cluster) == 0


def test_a_key_pattern_that_the_target_user_lacks(guarded: tuple[LocalServer, LocalCluster]) -> None:
    source, cluster = guarded
    with source.client() as old:
        old.set("forbidden", "fruit")
    with cluster.primaries[0].client() as client:
        client.execute_command("ACL", "SETUSER", "mover", "resetkeys", "~key:*")

    report = Migration(_as_mover(source.url), _as_mover(cluster.url)).run()

    assert report.keys.migrated == 500
    assert [(failure.key, failure.kind) for failure in report.failures] == [(b"forbidden", "denied")]


@pytest.mark.parametrize("database", [0, 1])
def test_databases_of_a_valkey_9_cluster(source: LocalServer, stack: ExitStack, database: int) -> None:
    kind = available().get("valkey-9.1")
    if kind is None:
        pytest.skip("this machine has no valkey-9.1")
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1, config={"cluster-databases": "4"}))
    _fill(source)

    report = Migration(source.url, f"{cluster.url}/{database}").run()

    assert report.ok
    with cluster.primaries[0].client(db=database) as client:
        assert client.dbsize() == 500
