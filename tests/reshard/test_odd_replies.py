"""Nodes that answer what no node answers: `reshard` ends with a sentence, and no bug.

Invariant: the whole command is run, so that its exit code and all that it prints are judged; what it has left
by then, `reshard fix` mends once the nodes answer as ever, and no key is lost.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest

from slotferry.cli import main
from slotferry.testing.servers import LocalCluster
from tests.integration.test_odd_replies import ODD, ODD_SLOTS
from tests.reshard.broken import half_moved, put_astray
from tests.reshard.client import fill_keys, keys_in
from tests.reshard.moving import MOVING, assert_clean
from tests.servers.forger import Forge, Forger, answering
from tests.servers.kinds import available

_SLOTS = 20
_KEYS = 5
_LOOKED_AT = [
    "CLUSTER NODES",
    "CLUSTER SLOTS",
    "INFO",
    "CLUSTER COUNTKEYSINSLOT",
    "CLUSTER GETSLOTMIGRATIONS",
]
_PLANNED_WITH = ["CLUSTER GETKEYSINSLOT", "MEMORY"]
_HELD = ["CLIENT SETNAME", "CLIENT ID", "CLIENT LIST"]
_MOVED_WITH = ["CLUSTER GETKEYSINSLOT", "CLUSTER SETSLOT", "MIGRATE", "MEMORY", "PING"]
_COPIED_WITH = [
    *("WATCH", "MULTI", "EXEC", "EVAL", "DUMP", "PTTL", "RESTORE-ASKING", "UNLINK", "DEL", "WAIT", "ASKING"),
    *("SELECT", "UNWATCH", "CLIENT KILL"),
]
_BY_SERVERS = ["CLUSTER MIGRATESLOTS", "CLUSTER GETSLOTMIGRATIONS"]
_FEW = ("nested deep", "text")


class _Bed:
    """A cluster behind forgers, and the command run on it in this process."""

    def __init__(self, kind: str, stack: ExitStack, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        self.cluster = stack.enter_context(LocalCluster(available()[kind].binary))
        fill_keys(self.cluster.primaries[0], keys_in(MOVING[-_SLOTS:], _KEYS))
        self._forgers = [stack.enter_context(Forger(node.host, node.port)) for node in self.cluster.primaries]
        self.url = f"redis+cluster://{','.join(forger.address for forger in self._forgers)}"
        pairs = zip(self.cluster.primaries, self._forgers, strict=True)
        self._maps = [f"{node.address}={forger.address}" for node, forger in pairs]
        self._capsys = capsys
        self.plan = folder / "plan.json"
        self._here = cycle([5_461 - _SLOTS, 5_461])

    def forge(self, forge: Forge) -> None:
        for forger in self._forgers:
            forger.forge = forge

    def run(self, *arguments: str) -> int:
        """Run `reshard`, judge what it prints, and return its exit code."""
        code, out, err = self.run_plainly(*arguments)
        assert code in (0, 3, 4, 6), (code, err[-2_000:])
        assert "Traceback" not in out + err
        assert "bug" not in err
        assert len(err) < 4_000, err[:2_000]
        assert all(line.isprintable() for line in err.splitlines()), ascii(err)
        return code

    def run_plainly(self, *arguments: str) -> tuple[int, str, str]:
        self._capsys.readouterr()
        maps = [part for pair in self._maps for part in ("--address-map", pair)]
        code = main(["reshard", *arguments, *maps])
        captured = self._capsys.readouterr()
        return code, captured.out, captured.err

    def plan_to_and_fro(self) -> None:
        """Plan to move the slots with keys away from the first primary, and the next time back."""
        self.forge(lambda _: None)
        here = next(self._here)
        counts = (here, 5_461 + (5_461 - here), 5_462)
        weights = [f"{node.address}={n}" for node, n in zip(self.cluster.primaries, counts, strict=True)]
        options = [part for weight in weights for part in ("--weight", weight)]
        code, _, err = self.run_plainly(
            *("plan", self.url, *options, "--threshold", "0.0001", "-o", str(self.plan))
        )
        assert code == 0, err

    def mend(self) -> None:
        """Let `fix` put right what the odd replies have led to; every key is there then."""
        self.forge(lambda _: None)
        code, out, err = self.run_plainly("fix", self.url, "--apply")
        assert code == 0, out + err
        assert_clean(self.cluster, _SLOTS * _KEYS)


@pytest.fixture
def bed(
    request: pytest.FixtureRequest,
    stack: ExitStack,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> _Bed:
    caplog.set_level(logging.ERROR, "asyncio")  # the forgers write to whoever has hung up, in this process
    kind = getattr(request, "param", "redis-7.0")
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    return _Bed(kind, stack, capsys, tmp_path)


@pytest.mark.parametrize("command", [*_LOOKED_AT, *_PLANNED_WITH])
def test_odd_replies_to_who_looks(bed: _Bed, command: str) -> None:
    for reply in ODD.values():
        for times in (1, None):
            if times is None and command.startswith("CLUSTER COUNT") and len(reply) > 10_000:
                continue  # 16,384 of them are a gigabyte
            for arguments in (("plan", bed.url), ("status", bed.url), ("fix", bed.url)):
                bed.forge(answering(reply, *command.split(), times=times))
                bed.run(*arguments)
    bed.mend()


def test_odd_cluster_slots(bed: _Bed) -> None:
    for reply in ODD_SLOTS.values():
        for arguments in (("plan", bed.url), ("status", bed.url), ("fix", bed.url)):
            bed.forge(answering(reply, "CLUSTER", "SLOTS"))
            bed.run(*arguments)


def _replies(chosen: tuple[str, ...] | None) -> list[bytes]:
    return [reply for name, reply in ODD.items() if chosen is None or name in chosen]


_ALL = pytest.param(None, id="all", marks=pytest.mark.long)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chosen", [_FEW, _ALL])
@pytest.mark.parametrize(
    ("bed", "command"),
    [
        *(("redis-7.0", command) for command in [*_LOOKED_AT[:4], *_HELD, *_MOVED_WITH, *_COPIED_WITH]),
        *(("valkey-9.1", command) for command in [*_LOOKED_AT[:4], *_BY_SERVERS]),
    ],
    indirect=["bed"],
)
def test_odd_replies_to_apply(bed: _Bed, command: str, chosen: tuple[str, ...] | None) -> None:
    for reply in _replies(chosen):
        bed.plan_to_and_fro()
        # Behind the first look, which `test_odd_replies_to_who_looks` is about.
        bed.forge(answering(reply, *command.split(), times=2))
        bed.run("apply", str(bed.plan), bed.url, "--retry-for", "2s", "--replan")
    bed.mend()


def test_a_slot_that_is_said_to_be_empty_loses_nothing(bed: _Bed) -> None:
    """Streams go by MIGRATE, and what counts is whether any is left behind."""
    with bed.cluster.client() as client:
        for key in keys_in(MOVING[-_SLOTS:], 1):
            client.delete(key)
            client.xadd(key, {"field": "value"})
    bed.plan_to_and_fro()
    bed.forge(answering(b":0\r\n", "CLUSTER", "COUNTKEYSINSLOT"))
    bed.run("apply", str(bed.plan), bed.url, "--retry-for", "2s")
    bed.mend()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("chosen", [_FEW, _ALL])
@pytest.mark.parametrize("command", [*_LOOKED_AT, *_HELD, *_MOVED_WITH])
def test_odd_replies_to_fix(bed: _Bed, command: str, chosen: tuple[str, ...] | None) -> None:
    first, second, third = bed.cluster.primaries
    for number, reply in enumerate(_replies(chosen)):
        bed.forge(lambda _: None)
        half_moved(first, second, MOVING[-1 - number], 1)
        stray = keys_in([6_001], 20)[number]
        put_astray(third, second, 6_001, stray)
        bed.forge(answering(reply, *command.split(), times=2))
        bed.run("fix", bed.url, "--apply")
        bed.forge(lambda _: None)
        assert bed.run_plainly("fix", bed.url, "--apply")[0] == 0
        with second.client() as client:
            assert client.delete(stray) == 1
    bed.mend()
