"""Credentials that change under a run: used from the next connection on, waited for where they are late."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry.errors import SlotferryError, SourceNotReadyError, TargetNotReadyError
from slotferry.model.events import EngineNews
from slotferry.net.credentials import PasswordFile
from slotferry.net.password_command import PasswordCommand
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.faults.paused import paused_migration
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect

_KEYS = 50_000
_OLD, _NEW = "old-s3cret", "new-s3cret"


def _filled(kind: ServerKind, stack: ExitStack) -> LocalServer:
    source = stack.enter_context(LocalServer(kind.binary, password=_OLD))
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    return source


def _change_password(server: LocalServer, new: str) -> None:
    with server.client() as client:
        client.config_set("requirepass", new)
    server.password = new


def _refusals(migration: Migration) -> list[EngineNews]:
    """Return a list that grows with what the engine tells of refused logins."""
    told: list[EngineNews] = []

    def listen(event: Any) -> None:
        if isinstance(event, EngineNews) and event.kind.endswith("_access_wanted"):
            told.append(event)

    migration._listeners.append(listen)
    return told


def _file_again(file: Path) -> PasswordFile:
    return PasswordFile("source", file)


def _command_again(file: Path) -> PasswordCommand:
    return PasswordCommand("source", f"cat {file}")


@pytest.mark.parametrize("made", [_file_again, _command_again], ids=["file", "command"])
def test_a_password_that_changes_is_asked_for_again(
    kind: ServerKind,
    cluster: LocalCluster,
    stack: ExitStack,
    tmp_path: Path,
    made: Callable[[Path], PasswordFile | PasswordCommand],
) -> None:
    source = _filled(kind, stack)
    file = tmp_path / "password"
    file.write_text(f"{_OLD}\n")
    with paused_migration(source, cluster, source_password=made(file)) as paused:
        _change_password(source, _NEW)
        file.write_text(f"{_NEW}\n")
        paused.proxy.cut()
        report = paused.resume()

    assert report.ok
    assert_equal(source, cluster, byte_equal=True)


def test_a_file_that_is_late_is_waited_for(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack, tmp_path: Path
) -> None:
    source = _filled(kind, stack)
    file = tmp_path / "password"
    file.write_text(_OLD)
    with paused_migration(source, cluster, source_password=PasswordFile("source", file)) as paused:
        refusals = _refusals(paused.migration)
        _change_password(source, _NEW)
        paused.proxy.cut()
        paused.proxy.resume()
        wait_until(lambda: len(refusals) > 1, "the engine to ask for another login more than once")
        file.write_text("")  # as an editor does it: empty for a moment
        file.write_text(_NEW)
        report = paused.migration.result(120)

    assert report.ok
    assert "WRONGPASS" in refusals[0].message
    assert_equal(source, cluster, byte_equal=True)


def test_a_callable_that_returns_another_user(
    kind: ServerKind, source: LocalServer, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=2))
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    login = {"user": "one", "password": _OLD}

    def add_user(name: str, password: str) -> None:
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "SETUSER", name, "on", f">{password}", "~*", "+@all")

    add_user(name="one", password=_OLD)
    with paused_migration(
        source, cluster, target_password=lambda: (login["user"], login["password"])
    ) as paused:
        refusals = _refusals(paused.migration)
        add_user("two", _NEW)
        for node in cluster.primaries:
            with node.client() as client:
                client.execute_command("ACL", "DELUSER", "one")  # which cuts its connections
        paused.proxy.resume()
        wait_until(lambda: bool(refusals), "the target to refuse the old user")
        login.update(user="two", password=_NEW)
        report = paused.migration.result(120)

    assert report.ok
    assert_equal(source, cluster, byte_equal=True)


def test_credentials_that_never_come_end_the_run_resumably(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    source = _filled(kind, stack)
    options: dict[str, Any] = {"source_password": lambda: _OLD, "retry_for": 1.0}
    with paused_migration(source, cluster, **options) as paused:
        _change_password(source, _NEW)
        paused.proxy.cut()
        with pytest.raises(SourceNotReadyError, match=f"{paused.proxy.address}.*WRONGPASS") as raised:
            paused.resume()
        assert _OLD not in str(raised.value)
        report = paused.again(source_password=lambda: _NEW).run()

    assert report.ok
    assert report.resumed


def test_a_password_that_is_just_wrong_is_refused_at_once(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    source = _filled(kind, stack)
    with paused_migration(source, cluster, source_password=_OLD) as paused:
        _change_password(source, _NEW)
        paused.proxy.cut()
        with pytest.raises(SourceNotReadyError, match="WRONGPASS"):
            paused.resume()


def _raise() -> str:
    raise RuntimeError(f"no vault for {_OLD}")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (_raise, "could not be asked for: RuntimeError was raised"),
        (lambda: None, "are of the type NoneType"),
        (lambda: ("user", None), "are of the type tuple"),
    ],
    ids=["raises", "nothing", "half"],
)
@pytest.mark.parametrize(
    ("side", "kind_of_error"), [("source", SourceNotReadyError), ("target", TargetNotReadyError)]
)
def test_a_callable_that_has_no_credentials(
    source: LocalServer,
    cluster: LocalCluster,
    answer: Any,
    says: str,
    side: str,
    kind_of_error: type[SlotferryError],
) -> None:
    options = Options(**{f"{side}_password": answer})
    with pytest.raises(kind_of_error, match=f"the {side}'s credentials {says}") as raised:
        Migration(source.url, cluster.url, options).run()
    assert _OLD not in str(raised.value) + raised.value.hint
