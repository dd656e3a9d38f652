"""Two operators reshard one cluster at once, with any two tools, and are killed: all keys and slots stay."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import plan_reshard
from slotferry.testing.servers import LocalCluster
from tests.command import COMMAND, run
from tests.reshard.broken import node_id
from tests.reshard.client import slots_owned
from tests.reshard.moving import assert_clean
from tests.servers.kinds import available

_KEYS = 8_000
_KINDS = ("redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.0", "valkey-8.1", "valkey-9.1")
_LONG = [
    pytest.param(kind, other, 20, marks=pytest.mark.long)
    for kind in _KINDS
    for other in ("slotferry", "redis-cli")
]


@pytest.mark.parametrize(
    ("kind", "other", "rounds"), [("redis-7.0", "slotferry", 2), ("redis-7.0", "redis-cli", 2), *_LONG]
)
def test_every_key_and_every_slot_is_there(
    kind: str, other: str, rounds: int, stack: ExitStack, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    if other == "redis-cli" and shutil.which(other) is None:
        pytest.skip("this machine has no redis-cli")
    seed = request.config.getoption("--fault-seed")
    rng = random.Random(f"{kind} {other}" if seed is None else seed)
    cluster = stack.enter_context(LocalCluster(available()[kind].binary))
    fill(cluster)
    for number in range(rounds):
        tools: list[_Tool] = [stack.enter_context(_Slotferry(cluster, tmp_path / f"{number}a", rng))]
        make: type[_Tool] = _Slotferry if other == "slotferry" else _RedisCli
        tools.append(stack.enter_context(make(cluster, tmp_path / f"{number}b", rng)))
        victim = rng.choice([*tools, None])
        rng.shuffle(tools)
        for tool in tools:
            tool.start()
            tool.live_for(rng.uniform(0, 1.5))
        if victim is not None:
            victim.live_for(rng.uniform(0, 2))
            victim.kill()
        for tool in tools:
            tool.check(tool.end())
        # The same command goes on after a kill; what redis-cli has left is for the fix.
        for tool in tools:
            if tool is victim:
                tool.start()
                tool.check(tool.end())
        fixed = run("reshard", "fix", cluster.url, "--apply", env={"XDG_STATE_HOME": str(tmp_path / "fix")})
        assert fixed.code == 0, (number, fixed.stdout, fixed.stderr)
        assert_clean(cluster, _KEYS)


def fill(cluster: LocalCluster) -> None:
    """Set keys in all slots."""
    with cluster.client() as client:
        for first in range(0, _KEYS, 1_000):
            with client.pipeline() as pipeline:
                for number in range(first, first + 1_000):
                    pipeline.set(f"key:{number}", "0" * 100)
                pipeline.execute()


class _Tool:
    """A resharding tool, started perhaps more than once."""

    codes: tuple[int, ...] = ()
    """What it may end with of its own accord."""

    def __init__(self, cluster: LocalCluster, folder: Path, rng: random.Random) -> None:
        folder.mkdir()
        self.cluster, self.folder, self.rng = cluster, folder, rng
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def __enter__(self) -> _Tool:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        self._killed = False
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "XDG_STATE_HOME": str(self.folder)},
            )

    def live_for(self, seconds: float) -> None:
        """Let it run for so long, unless it ends before."""
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._killed = True
            self._process.kill()
            self._process.wait()

    def end(self) -> int:
        assert self._process is not None
        return self._process.wait(240)

    def check(self, code: int) -> None:
        """Judge its exit code."""
        if not self._killed:
            assert code in self.codes, (code, (self.folder / "output").read_text()[-2000:])


class _Slotferry(_Tool):
    # 0: all is where it is to be; 3: the other tool has taken some; 4: refused, or the plan is out of date.
    codes = (0, 3, 4)

    def __init__(self, cluster: LocalCluster, folder: Path, rng: random.Random) -> None:
        super().__init__(cluster, folder, rng)
        weights = {node.address: rng.choice([2, 4, 6]) for node in cluster.primaries}
        self._plan = plan_reshard(cluster.url, weights=weights, threshold=0.001)
        (folder / "plan.json").write_text(self._plan.to_json())

    def command(self) -> list[str]:
        return [COMMAND, "reshard", "apply", str(self.folder / "plan.json"), self.cluster.url, "--json"]

    def check(self, code: int) -> None:
        super().check(code)
        output = (self.folder / "output").read_text()
        if code == 0:
            assert '"remaining": 0}' in output


class _RedisCli(_Tool):
    # 1: it refuses to begin while slots are open, or stops where a slot is another node's by now.
    codes = (0, 1)

    def __init__(self, cluster: LocalCluster, folder: Path, rng: random.Random) -> None:
        super().__init__(cluster, folder, rng)
        owned = list(slots_owned(cluster).values())
        # A node that gives its last slot away becomes a replica: the fullest one gives.
        source = max(cluster.primaries, key=owned.count)
        self._ends = (source, rng.choice([node for node in cluster.primaries if node is not source]))

    def command(self) -> list[str]:
        source, target = (node_id(node) for node in self._ends)
        return [
            *("redis-cli", "--cluster", "reshard", self._ends[0].address, "--cluster-yes"),
            *("--cluster-from", source, "--cluster-to", target, "--cluster-slots", "400"),
        ]
