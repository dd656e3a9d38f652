"""Fixtures: real servers, shared by a session and emptied between tests.

Invariant: a test gets servers that are empty, healthy and configured as at first, whatever another one has
left, and no test reaches the state folder, the configuration or the environment of whoever runs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from redis.exceptions import ResponseError

from slotferry import redaction
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.kinds import ServerKind, available, on_path_or_embedded
from tests.servers.settings import Settings

_BACKLOG_BYTES = 64 << 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests that take minutes as well")
    parser.addoption("--fault-seed", type=int, help="the seed of a fault that is to be run again")


def pytest_configure(config: pytest.Config) -> None:
    # Under nohup all that the tests start would ignore it too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
    hypothesis.settings.load_profile("untimed")
    config.addinivalue_line("markers", "long: takes minutes; runs only with --long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: run with --long"))


class ServerPool:
    """Starts a server or cluster of a kind once and hands it out empty, configured as at first."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self._servers: dict[str, LocalServer] = {}
        self._clusters: dict[str, LocalCluster] = {}
        self._settings: dict[LocalServer, Settings] = {}

    def server(self, kind: ServerKind) -> LocalServer:
        if kind.name not in self._servers:
            self._servers[kind.name] = self._stack.enter_context(LocalServer(kind.binary, unix_socket=True))
        server = self._servers[kind.name]
        self._make_ready(server)
        return server

    def cluster(self, kind: ServerKind) -> LocalCluster:
        if kind.name not in self._clusters:
            self._clusters[kind.name] = self._stack.enter_context(LocalCluster(kind.binary))
        cluster = self._clusters[kind.name]
        for node in cluster.primaries:
            self._make_ready(node)
        cluster.wait_until_healthy()
        return cluster

    def _make_ready(self, server: LocalServer) -> None:
        if server in self._settings:
            self._settings[server].restore()
        else:
            with server.client() as client:
                # A small one that is written over cuts off a replica; 1 MB is a second's writes here.
                client.config_set("repl-backlog-size", _BACKLOG_BYTES)
            self._settings[server] = Settings(server)
        _empty(server)


@pytest.fixture(scope="session")
def pool() -> Iterator[ServerPool]:
    """Return the session's servers, started on first use."""
    with contextlib.ExitStack() as stack:
        yield ServerPool(stack)


@pytest.fixture
def kind() -> ServerKind:
    """Return the kind of server that a test uses when it does not name one."""
    return on_path_or_embedded()


@pytest.fixture
def source(request: pytest.FixtureRequest, pool: ServerPool, kind: ServerKind) -> LocalServer:
    """Return an empty standalone server; parametrize it indirectly with a kind's name for another one."""
    return pool.server(_asked_for(request, kind))


@pytest.fixture
def cluster(request: pytest.FixtureRequest, pool: ServerPool, kind: ServerKind) -> LocalCluster:
    """Return an empty cluster of three primaries; parametrize it indirectly as `source`."""
    return pool.cluster(_asked_for(request, kind))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Return a stack for servers and proxies of this test alone, ended with the test."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def own_cluster(kind: ServerKind, stack: contextlib.ExitStack) -> LocalCluster:
    """Return a cluster of this test alone, whose slots may be moved and whose nodes may die."""
    return stack.enter_context(LocalCluster(kind.binary))


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test's password mask the words of another one's messages."""
    monkeypatch.setattr(redaction, "_secrets", {})
    monkeypatch.setattr(redaction, "_pattern", None)
    monkeypatch.setattr(redaction, "_strong_pattern", None)


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLOTFERRY_")]:
        monkeypatch.delenv(name)
    for folder in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(folder, str(tmp_path / folder.lower()))


def _asked_for(request: pytest.FixtureRequest, default: ServerKind) -> ServerKind:
    name = getattr(request, "param", None)
    if name is None:
        return default
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    return available()[name]


def _empty(server: LocalServer) -> None:
    with server.client() as client:
        client.flushall()
        with contextlib.suppress(ResponseError):  # Redis 6.2 has no functions
            client.execute_command("FUNCTION", "FLUSH")
        client.config_resetstat()
        client.slowlog_reset()
        for log in ("large-request", "large-reply"):
            with contextlib.suppress(ResponseError):  # only Valkey 8.1 and later have these logs
                client.execute_command("COMMANDLOG", "RESET", log)
