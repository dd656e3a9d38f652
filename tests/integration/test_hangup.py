"""Ctrl-C and SIGTERM while `migrate`, `verify` and `check` wait for a server that does not answer.

Invariant: replies may take ten minutes here, so whoever ends was hung up on, and did not wait for them.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from slotferry import Migration, Verification, VerifyOptions
from slotferry.errors import ExitCode, MigrationInterrupted
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.preflight.check import CheckOptions, check
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import Running
from tests.integration.test_odd_replies import Sides
from tests.servers.forger import Arguments, Forge, Forgery

_KEYS = 300
_TIMEOUT = 60
_MUTE = {"silent": Forgery(withheld=True, deaf=True), "drips": Forgery(drip=1.0)}


@pytest.fixture
def sides(source: LocalServer, cluster: LocalCluster, stack: ExitStack) -> Sides:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(_KEYS)})
    return Sides(source, cluster, stack)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("link", "node"):
        monkeypatch.setattr(f"slotferry.net.{module}.REPLY_TIMEOUT", 600.0)


class _Muting:
    """Makes a server mute at a command, once another has been seen; `met` is set then."""

    def __init__(self, how: str, *at: bytes, after: bytes | None = None) -> None:
        self.met = threading.Event()
        self._how = _MUTE[how]
        self._at = at
        self._after = after

    def __call__(self, arguments: Arguments) -> Forgery | None:
        if self._after is not None:
            if arguments[0] == self._after:
                self._after = None
            return None
        if tuple(arguments[: len(self._at)]) != self._at:
            return None
        self.met.set()
        return self._how


def _mute(sides: Sides, side: str, forge: Forge) -> None:
    if side == "source":
        sides.source.forge = forge
    else:
        sides.forge_target(forge)


def _verification(sides: Sides) -> Verification:
    options = VerifyOptions(address_map=sides.address_map)
    return Verification(sides.source.url, sides.target_url, options)


_MAKE: dict[str, Callable[[Sides], Migration]] = {"migrate": Sides.migrate, "verify": _verification}
_LOOKS = [
    ("source", (b"INFO",)),
    ("source", (b"DBSIZE",)),
    ("target", (b"CLUSTER", b"SLOTS")),
    ("target", (b"INFO",)),
]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", _MUTE)
@pytest.mark.parametrize(("side", "at"), _LOOKS)
@pytest.mark.parametrize("command", _MAKE)
def test_one_request_ends_a_look(
    sides: Sides, command: str, side: str, at: tuple[bytes, ...], how: str
) -> None:
    muting = _Muting(how, *at)
    _mute(sides, side, muting)
    run = _MAKE[command](sides)
    run.start()
    assert muting.met.wait(_TIMEOUT)

    run.cancel(signal=signal.SIGTERM)

    report = run.result(timeout=_TIMEOUT)
    assert report.exit_code == ExitCode.TERMINATED
    assert isinstance(report.error, MigrationInterrupted)


_WORKS: list[tuple[str, str, tuple[bytes, ...], bytes]] = [
    ("migrate", "target", (b"INFO",), b"SET"),  # accounts for what was written
    ("verify", "target", (b"CLUSTER", b"SLOTS"), b"SCAN"),  # looks whether slots have moved
]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", _MUTE)
@pytest.mark.parametrize(("command", "side", "at", "after"), _WORKS)
def test_a_second_request_ends_what_works(
    sides: Sides, command: str, side: str, at: tuple[bytes, ...], after: bytes, how: str
) -> None:
    if command == "verify":
        sides.migrate().run()
    muting = _Muting(how, *at, after=after)
    _mute(sides, side, muting)
    run = _MAKE[command](sides)
    run.start()
    assert muting.met.wait(_TIMEOUT)

    run.cancel()
    run.cancel(immediately=True)

    report = run.result(timeout=_TIMEOUT)
    assert report.exit_code == ExitCode.INTERRUPTED
    _mute(sides, side, lambda _: None)
    assert _MAKE[command](sides).run().ok  # it is resumed


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("how", _MUTE)
@pytest.mark.parametrize(("side", "at"), [*_LOOKS, ("source", (b"SCAN",)), ("source", (b"SLOWLOG",))])
def test_a_check_ends(sides: Sides, side: str, at: tuple[bytes, ...], how: str) -> None:
    muting = _Muting(how, *at)
    _mute(sides, side, muting)
    cancel = CancelRequest(saves=False)
    caught: list[Any] = []

    def run() -> None:
        options = CheckOptions(address_map=sides.address_map)
        try:
            caught.append(check(sides.source.url, sides.target_url, options, cancel=cancel))
        except MigrationInterrupted as error:
            caught.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert muting.met.wait(_TIMEOUT)

    cancel.ask()
    cancel.ask(immediately=True)

    thread.join(_TIMEOUT)
    assert [type(one) for one in caught] == [MigrationInterrupted]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["migrate", "verify", "check"])
def test_signals_end_a_command_with_a_sentence(sides: Sides, command: str, number: signal.Signals) -> None:
    muting = _Muting("silent", b"INFO")
    sides.source.forge = muting
    with Running(command, sides.source.url, sides.target_url) as running:
        assert muting.met.wait(_TIMEOUT)
        running.send(number)
        running.send(number)
        done = running.finish(timeout=_TIMEOUT)

    assert done.code == 128 + number, done.stderr
    assert "interrupted; nothing was written" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "can't be reached" not in done.stderr
