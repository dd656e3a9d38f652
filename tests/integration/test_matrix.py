"""Every type, encoding, TTL and stream shape, from every server of this machine into a cluster of every one.

The servers are those of `tests.servers.kinds`; which of the six are missing is shown as a skipped test.
"""

from __future__ import annotations

import pytest

from slotferry import Verification, VerifyOptions
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect, encode

_SIX = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-8.0", "valkey-8.1", "valkey-9.1")
_PAIRS = [(source, target) for target in available() for source in available()]
_FIELD_TTL_PAIRS = [
    (source.name, target.name)
    for target in available().values()
    for source in available().values()
    if source.has_field_ttls and not target.has_field_ttls
]


@pytest.fixture
def source_kind(request: pytest.FixtureRequest, source: LocalServer) -> ServerKind:
    return available()[request.node.callspec.params["source"]]


@pytest.fixture
def cluster_kind(request: pytest.FixtureRequest, cluster: LocalCluster) -> ServerKind:
    return available()[request.node.callspec.params["cluster"]]


@pytest.mark.parametrize("name", _SIX)
def test_the_matrix_has_this_server(name: str) -> None:
    if name not in available():
        pytest.skip(f"left out: no {name} here (python3 -m tests.servers.fetch may get it)")


@pytest.mark.parametrize(("source", "cluster"), _PAIRS, indirect=True)
def test_every_type_arrives_whole(
    source: LocalServer, cluster: LocalCluster, source_kind: ServerKind, cluster_kind: ServerKind
) -> None:
    with connect(source) as connection:
        keys = fill(connection, 2_000, field_ttls=source_kind.has_field_ttls)
    lost_ttls = source_kind.has_field_ttls and not cluster_kind.has_field_ttls

    report = migrate(source, cluster, field_ttl="drop")

    assert report.ok, report.failures
    assert report.keys.migrated == keys
    assert report.totals.retries == 0
    assert report.notes == (3 if lost_ttls else 0)
    comparison = assert_equal(
        source, cluster, byte_equal=source_kind == cluster_kind, field_ttls=not lost_ttls
    )
    assert comparison.keys == keys
    verified = Verification(
        source.url, cluster.url, VerifyOptions(field_ttl="drop", ttl_tolerance=2.0, recheck=1)
    ).run()
    assert verified.ok, verified.examples
    assert verified.keys.unchanged == verified.target_keys.unchanged == keys


@pytest.mark.parametrize(("source", "cluster"), _FIELD_TTL_PAIRS[:1], indirect=True)
def test_field_ttls_are_not_given_up_unasked(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        connection.pipeline_checked(
            [
                encode("HSET", "session", "token", "a", "name", "b"),
                encode("HPEXPIRE", "session", 3_600_000, "FIELDS", 1, "token"),
                encode("SET", "plain", "value"),
            ]
        )

    report = migrate(source, cluster)

    assert report.status == "completed_with_failures"
    assert (report.keys.migrated, report.keys.failed) == (1, 1)
    (failure,) = report.failures
    assert failure.key == b"session"
    assert failure.kind == "payload"
    assert "--field-ttl drop" in failure.message
    with cluster.client() as client:
        assert not client.exists("session")
