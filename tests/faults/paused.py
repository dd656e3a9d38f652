"""A migration that is held in the middle, so that a fault meets it there and not before or after.

Invariant: what holds it is the source's proxy, which passes nothing on; no test hopes for the right moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from slotferry import Migration, Options, Report
from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer, wait_until
from tests.integration.migrating import count_keys
from tests.servers.proxy import Proxy


class Paused:
    """A migration under way, its source stalled; `resume` lets it go on to its end."""

    def __init__(self, proxy: Proxy, source: str, target: str, options: Options) -> None:
        self.proxy = proxy
        self._source = source
        self._target = target
        self._address_map = options.address_map
        self.migration = Migration(source, target, options)

    def resume(self, timeout: float = 120) -> Report:
        """Let the source answer again and return the report of the end."""
        self.proxy.resume()
        return self.migration.result(timeout)

    def again(self, **options: Any) -> Migration:
        """Return another run between the same two sides, not begun."""
        return Migration(self._source, self._target, Options(address_map=self._address_map, **options))


@contextmanager
def paused_migration(
    source: LocalServer,
    cluster: LocalCluster,
    *,
    service: LocalSentinelService | None = None,
    role: str = "primary",
    target: str | None = None,
    **options: Any,
) -> Iterator[Paused]:
    """Migrate until a tenth of the keys has arrived, then stall the source; end the run with the context.

    With a `service`, `source` is the server of it that is found for `role`; the address map leads through
    the proxy. `target` is the cluster's URL where it is not its own.
    """
    with source.client() as client:
        keys = int(client.dbsize())
    with Proxy(source.host, source.port) as proxy:
        url = f"redis://{proxy.address}"
        if service is not None:
            url = f"{service.url}?role={role}"
            options["address_map"] = [f"{source.address}={proxy.address}"]
        paused = Paused(proxy, url, target or cluster.url, Options(**options))
        with paused.migration:
            paused.migration.start()
            wait_until(lambda: count_keys(cluster) >= keys // 10, "a tenth of the keys to arrive")
            proxy.stall()
            assert count_keys(cluster) < keys
            yield paused
            proxy.resume()
