"""Commands that are sent again, counted by why."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry import Migration, Options
from slotferry.model.events import Progress
from slotferry.report.metrics.migration import RETRY_REASONS
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.forger import Forge, Forger, Forgery, answering

_KEYS = 300


def _hangs_up_once() -> Forge:
    left = [1]

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if arguments[0] != b"SET" or not left[0]:
            return None
        left[0] -= 1
        return Forgery(b"", withheld=True, close=True)

    return forge


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("unavailable", lambda: answering(b"-TRYAGAIN Multiple keys\r\n", "SET", times=3)),
        ("full", lambda: answering(b"-OOM command not allowed\r\n", "SET", times=3)),
        ("connection_lost", _hangs_up_once),
    ],
)
def test_retries_are_counted_by_their_reason(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack, reason: str, make: object
) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(_KEYS)})
    nodes = [stack.enter_context(Forger(node.host, node.port, make())) for node in cluster.primaries]  # type: ignore[operator]
    pairs = zip(cluster.primaries, nodes, strict=True)
    options = Options(address_map=tuple(f"{node.address}={forger.address}" for node, forger in pairs))

    with Migration(source.url, f"redis+cluster://{nodes[0].address}", options) as migration:
        progress = [event for event in migration.events() if isinstance(event, Progress)]

    assert migration.result().ok
    assert count_keys(cluster) == _KEYS
    assert {name for name, commands in progress[-1].retries_by_reason if commands} == {reason}
    assert sum(commands for _, commands in progress[-1].retries_by_reason) == progress[-1].retries
    assert reason in RETRY_REASONS
