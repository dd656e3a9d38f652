"""A primary with replicas, and the Sentinels that watch it.

Invariant: it is healthy once every Sentinel names the same primary and knows its replicas and the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from slotferry.testing.servers.context import StartedContext
from slotferry.testing.servers.process import (
    LocalServer,
    is_synchronised,
    quoted,
    wait_until,
)

_SERVICE_SECONDS = 60.0


class LocalSentinel(LocalServer):
    """A Sentinel that watches `service`, whose primary is at `primary` now; otherwise like a `LocalServer`.

    It takes `down_after` milliseconds of silence for a server to be down. What it learns while it runs goes
    into its configuration file, so that it is known again after `kill` and `start`.
    """

    _arguments = ("--sentinel",)

    def __init__(
        self,
        binary: str | os.PathLike[str],
        service: str,
        primary: LocalServer,
        *,
        quorum: int = 2,
        down_after: int = 2000,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(binary, password=password, config=config)
        self.service = service
        watch = [
            f"monitor {service} {primary.host} {primary.port} {quorum}",
            f"down-after-milliseconds {service} {down_after}",
            f"failover-timeout {service} 10000",
        ]
        if primary.password:
            watch.append(f"auth-pass {service} {quoted(primary.password)}")
        if password:
            watch.append(f"sentinel-pass {quoted(password)}")
        self._watch = watch

    def _config_text(self) -> str:
        written = self.directory / "server.conf"
        if written.exists() and (text := written.read_text()):
            return text
        settings = {"bind": self.host, "port": str(self.port), "dir": quoted(str(self.directory))}
        if self.password:
            settings["requirepass"] = quoted(self.password)
        lines = [f"{name} {value}\n" for name, value in {**settings, **self._config}.items()]
        return "".join([*lines, *(f"sentinel {line}\n" for line in self._watch)])


class LocalSentinelService(StartedContext):
    """A primary, its replicas, and the Sentinels that watch them as `service`. Use it as a context manager.

    `servers` are the primary and the replicas in their roles at creation; `primary` asks who it is now.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str],
        *,
        service: str = "mymaster",
        replicas: int = 1,
        sentinels: int = 3,
        password: str | None = None,
        sentinel_password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.service = service
        self.password = password
        self.servers = [LocalServer(binary, password=password, config=config) for _ in range(replicas + 1)]
        self.sentinels: list[LocalSentinel] = []
        self._new_sentinel: Callable[[], LocalSentinel] = lambda: LocalSentinel(
            binary, service, self.servers[0], quorum=sentinels // 2 + 1, password=sentinel_password
        )
        self._count = sentinels

    @property
    def url(self) -> str:
        """A `redis+sentinel://` URL with every Sentinel, without passwords."""
        return f"redis+sentinel://{','.join(sentinel.address for sentinel in self.sentinels)}/{self.service}"

    @property
    def primary(self) -> LocalServer:
        """The server that a majority of the running Sentinels names as the primary."""
        named = [self._named_by(sentinel) for sentinel in self.sentinels if sentinel.running]
        address = max(set(named), key=named.count)
        return next(server for server in self.servers if server.address == address)

    @property
    def replicas(self) -> list[LocalServer]:
        """The other servers, running or not."""
        primary = self.primary
        return [server for server in self.servers if server is not primary]

    def start(self) -> None:
        """Start everything and wait until the replicas follow and the Sentinels know each other."""
        first, *others = self.servers
        first.start()
        for replica in others:
            replica.start()
            with replica.client() as client:
                client.execute_command("REPLICAOF", first.host, first.port)
        wait_until(
            lambda: all(is_synchronised(replica) for replica in others),
            "the replicas to follow their primary",
            timeout=_SERVICE_SECONDS,
        )
        self.sentinels = [self._new_sentinel() for _ in range(self._count)]
        for sentinel in self.sentinels:
            sentinel.start()
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop everything."""
        for server in [*self.sentinels, *self.servers]:
            server.stop()

    def wait_until_healthy(self, *, timeout: float = _SERVICE_SECONDS) -> None:
        """Wait until the running Sentinels agree on the primary, on all servers, and on each other."""
        wait_until(self._agrees, f"the Sentinels of {self.service} to agree", timeout=timeout)

    def fail_over(self, *, timeout: float = _SERVICE_SECONDS) -> LocalServer:
        """Kill the primary, wait until a replica has taken over everywhere, and return that one."""
        old = self.primary
        old.kill()
        self.wait_for_another_primary(old, timeout=timeout)
        return self.primary

    def switch_over(self, *, timeout: float = _SERVICE_SECONDS) -> LocalServer:
        """Let the Sentinels promote a replica while the primary lives, and return the new primary."""
        old = self.primary
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", self.service)
        self.wait_for_another_primary(old, timeout=timeout)
        return self.primary

    def wait_for_another_primary(self, old: LocalServer, *, timeout: float = _SERVICE_SECONDS) -> None:
        """Wait until every running Sentinel names another primary than `old`, and that one serves as such."""

        def has_changed() -> bool:
            named = {self._named_by(sentinel) for sentinel in self.sentinels if sentinel.running}
            if len(named) != 1 or old.address in named:
                return False
            with self.primary.client(socket_timeout=5) as client:
                info: Any = client.info("replication")
            return bool(info["role"] == "master")

        wait_until(has_changed, f"the Sentinels of {self.service} to fail over", timeout=timeout)

    def _named_by(self, sentinel: LocalSentinel) -> str:
        state = self._state(sentinel)
        return f"{state['ip']}:{state['port']}"

    def _state(self, sentinel: LocalSentinel) -> dict[str, str]:
        with sentinel.client(socket_timeout=5, decode_responses=True) as client:
            pairs: list[str] = client.execute_command("SENTINEL", "MASTER", self.service)
        return dict(zip(pairs[::2], pairs[1::2], strict=True))

    def _agrees(self) -> bool:
        running = [sentinel for sentinel in self.sentinels if sentinel.running]
        states = [self._state(sentinel) for sentinel in running]
        return len({(state["ip"], state["port"]) for state in states}) == 1 and all(
            state["flags"] == "master"
            and int(state["num-slaves"]) >= len(self.servers) - 1
            and int(state["num-other-sentinels"]) >= len(running) - 1
            for state in states
        )
