"""A cluster whose slots may be moved."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry.testing.servers import LocalCluster
from tests.reshard.client import fill_keys, keys_in
from tests.reshard.moving import MOVING
from tests.servers.kinds import available


@pytest.fixture
def own(request: pytest.FixtureRequest, stack: ExitStack) -> LocalCluster:
    """Return a cluster of this test alone, with keys in `MOVING`, the last slots of its first primary."""
    name = getattr(request, "param", "redis-7.0")
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    cluster = stack.enter_context(LocalCluster(available()[name].binary))
    fill_keys(cluster.primaries[0], keys_in(MOVING, 10))
    return cluster
