"""Fixtures of the faults: a source with keys enough to be met by one, and clusters that may break.

Invariant: a cluster whose slots move or whose nodes die is a test's own.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect

_QUICK = {"cluster-node-timeout": "1500", "repl-ping-replica-period": "1"}


@pytest.fixture
def filled(source: LocalServer, request: pytest.FixtureRequest) -> LocalServer:
    """Return a source with as many strings as the test's module wants: its `KEYS`."""
    with connect(source) as connection:
        fill_strings(connection, request.module.KEYS)
    return source


@pytest.fixture
def replicated(kind: ServerKind, stack: ExitStack) -> LocalCluster:
    """Return a cluster of this test alone with a replica for each primary."""
    return stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1, config=_QUICK))
