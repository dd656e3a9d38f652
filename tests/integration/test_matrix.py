"""Every type, shape and odd name, from every server of this machine into every cluster that can take it."""

from __future__ import annotations

import pytest

from slotferry import Migration
from slotferry.local import LocalCluster, LocalServer
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect

_PAIRS = [
    (source.name, target.name)
    for source in available().values()
    for target in available().values()
    if target.restores(source)
]


@pytest.fixture
def source_kind(request: pytest.FixtureRequest, source: LocalServer) -> ServerKind:
    return available()[request.node.callspec.params["source"]]


@pytest.fixture
def cluster_kind(request: pytest.FixtureRequest, cluster: LocalCluster) -> ServerKind:
    return available()[request.node.callspec.params["cluster"]]


@pytest.mark.parametrize(("source", "cluster"), _PAIRS, indirect=True)
def test_every_type_arrives_whole(
    source: LocalServer, cluster: LocalCluster, source_kind: ServerKind, cluster_kind: ServerKind
) -> None:
    with connect(source) as connection:
        keys = fill(connection, 10_000, field_ttls=source_kind.version >= (9, 0))

    report = Migration(source.url, cluster.url).run()

    assert report.ok
    assert report.keys.migrated == keys
    comparison = assert_equal(source, cluster, byte_equal=source_kind == cluster_kind)
    assert comparison.keys == keys
