"""Reshards that meet the worst: in the end every slot is served and closed, every key at home, none lost."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Outcome, Running, run
from tests.reshard.broken import half_moved
from tests.reshard.client import LoadClient, fill_keys, keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean, plan_away
from tests.servers.kinds import available
from tests.servers.raw import connect

PER_SLOT = 10
KEYS = len(MOVING) * PER_SLOT
_DURABLE = {"appendonly": "yes", "appendfsync": "always"}
_SLOW = (
    "--max-bytes-per-second",
    "400kB",
)  # 4,000 keys of 180 bytes: two seconds, so that faults hit the middle


def make(
    stack: ExitStack, kind: str, *, replicas: int = 0, config: Mapping[str, str] | None = None
) -> LocalCluster:
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    settings = {"cluster-node-timeout": "2000", "cluster-migration-barrier": "9", **(config or {})}
    cluster = stack.enter_context(
        LocalCluster(available()[kind].binary, replicas_per_primary=replicas, config=settings)
    )
    fill_keys(cluster.primaries[0], keys_in(MOVING, PER_SLOT))
    return cluster


def apply_command(cluster: LocalCluster, folder: Path, *options: str) -> tuple[str, ...]:
    file = folder / "plan.json"
    file.write_text(plan_away(cluster).to_json())
    return ("reshard", "apply", str(file), cluster.url, "--json", *options)


def moved(cluster: LocalCluster) -> int:
    owned = slots_owned(cluster)
    return sum(owned.get(slot, cluster.primaries[0]) is not cluster.primaries[0] for slot in MOVING)


@contextmanager
def client_on(cluster: LocalCluster, folder: Path) -> Iterator[LoadClient]:
    with LoadClient(cluster.primaries[1].address, keys_in(MOVING, PER_SLOT), folder) as client:
        yield client


def check(cluster: LocalCluster, client: LoadClient) -> None:
    seen = client.result()
    assert seen["errors"] == []
    assert seen["operations"] > 0
    assert_clean(cluster, KEYS)
    written = seen["written"]
    owned = slots_owned(cluster)
    found = {}
    for node in set(owned.values()):
        with connect(node) as connection:
            for slot in (slot for slot in MOVING if owned[slot] is node):
                for key in connection.execute("CLUSTER", "GETKEYSINSLOT", slot, 1_000):
                    found[key.decode()] = int(connection.execute("GET", key) or 0)
    assert [key for key, number in written.items() if found.get(key, -1) < number] == []


@pytest.mark.parametrize(
    ("kind", "method", "kills"),
    [
        ("redis-7.0", "setslot", 3),
        ("valkey-9.1", "atomic", 2),
        ("redis-8.6", "atomic", 2),
        pytest.param("redis-7.0", "setslot", 20, marks=pytest.mark.long),
        pytest.param("redis-6.2", "setslot", 20, marks=pytest.mark.long),
        pytest.param("valkey-9.1", "atomic", 20, marks=pytest.mark.long),
        pytest.param("redis-8.6", "atomic", 20, marks=pytest.mark.long),
    ],
)
def test_killed_again_and_again(kind: str, method: str, kills: int, stack: ExitStack, tmp_path: Path) -> None:
    rng = random.Random(kills)
    cluster = make(stack, kind)
    command = apply_command(cluster, tmp_path, "--method", method, *_SLOW)
    with client_on(cluster, tmp_path) as client:
        for threshold in sorted(rng.randrange(0, len(MOVING)) for _ in range(kills)):
            with Running(*command) as running:
                begun = partial(_begun, cluster, threshold)
                wait_until(lambda: running.ended or begun(), "the moment to kill it")  # noqa: B023
                running.kill()
        done = run(*command)
        assert done.code == 0, done.stderr
        assert done.summary["slots"] == {"moved": 400, "left": 0, "remaining": 0}
        if method == "atomic":  # also what the servers went on to move while no run of ours looked on
            assert done.summary["keys"] == KEYS
        check(cluster, client)


def _begun(cluster: LocalCluster, threshold: int) -> bool:
    return moved(cluster) >= threshold and (threshold > 0 or bool(open_slots(cluster)))


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("redis-7.0", "setslot"),
        pytest.param("valkey-9.1", "atomic", marks=pytest.mark.long),
        pytest.param("redis-6.2", "setslot", marks=pytest.mark.long),
        pytest.param("valkey-8.1", "setslot", marks=pytest.mark.long),
    ],
)
def test_a_primary_dies_and_its_replica_takes_over(
    end: str, kind: str, method: str, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = make(stack, kind, replicas=1)
    victim = cluster.primaries[0 if end == "source" else 1]
    done = _while_moving(cluster, tmp_path, method, victim.kill)
    assert done.code in (0, 3), done.stderr
    if done.code:  # copies that the failover left are a person's to judge: none may be lost
        fixed = run("reshard", "fix", cluster.primaries[2].url, "--apply", "--keep", "owner")
        assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert open_slots(cluster) == []
    cluster.wait_until_healthy()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["redis-6.2", "redis-7.0", "valkey-8.1"])
def test_fix_after_a_failover_of_a_half_moved_slot(kind: str, stack: ExitStack) -> None:
    cluster = make(stack, kind, replicas=1)
    first, second, third = cluster.primaries
    for slot in MOVING[:3]:
        half_moved(first, second, slot, 5)
    first.kill()
    wait_until(lambda: len(slots_owned(cluster)) == 16_384, "the replica to take over", timeout=60)

    fixed = run("reshard", "fix", third.url, "--apply")

    assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert_clean(cluster, KEYS)


@pytest.mark.parametrize("end", ["source", "target"])
@pytest.mark.parametrize(
    ("kind", "method"),
    [("redis-7.0", "setslot"), pytest.param("valkey-9.1", "atomic", marks=pytest.mark.long)],
)
def test_a_primary_without_a_replica_dies_and_comes_back(
    end: str, kind: str, method: str, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = make(stack, kind, config=_DURABLE)
    victim = cluster.primaries[0 if end == "source" else 1]

    def crash() -> None:
        victim.kill()
        victim.start()

    done = _while_moving(cluster, tmp_path, method, crash)
    assert done.code == 0, done.stderr


def _while_moving(cluster: LocalCluster, folder: Path, method: str, fault: Callable[[], None]) -> Outcome:
    """Run an apply, let the fault happen in its middle, and judge the cluster at its end."""
    command = apply_command(cluster, folder, "--method", method, "--retry-for", "60s", *_SLOW)
    with client_on(cluster, folder) as client:
        with Running(*command) as running:
            wait_until(lambda: running.ended or moved(cluster) > 50, "some slots to have moved")
            assert not running.ended
            fault()
            done = running.finish()
        if done.code == 0:
            check(cluster, client)
        else:
            assert client.result()["errors"] == []
    return done


def test_a_window_that_closes_again_and_again(stack: ExitStack, tmp_path: Path) -> None:
    cluster = make(stack, "redis-7.0")
    command = apply_command(cluster, tmp_path, "--method", "setslot", *_SLOW, "--max-duration", "500ms")
    codes: list[int] = []
    with client_on(cluster, tmp_path) as client:
        while not codes or codes[-1] == 75:
            done = run(*command)
            codes.append(done.code)
            assert open_slots(cluster) == []
            assert len(codes) < 30
        assert codes[-1] == 0, done.stderr
        assert 75 in codes
        check(cluster, client)


def test_another_reshard_beside_it(stack: ExitStack, tmp_path: Path) -> None:
    tool = shutil.which("redis-cli")
    if tool is None:
        pytest.skip("this machine has no redis-cli")
    cluster = make(stack, "redis-7.0")
    first, _, third = cluster.primaries
    ids = []
    for node in (first, third):
        with connect(node) as connection:
            ids.append(connection.execute("CLUSTER", "MYID").decode())
    # It takes the source's first slots, and then, from the other end, some of those that we move.
    beside = [tool, "--cluster", "reshard", first.address, "--cluster-from", ids[0], "--cluster-to", ids[1]]
    command = apply_command(cluster, tmp_path, "--method", "setslot", "--replan", *_SLOW)
    outcomes: list[subprocess.CompletedProcess[str]] = []

    def reshard() -> None:
        outcomes.append(
            subprocess.run(
                [*beside, "--cluster-slots", "300", "--cluster-yes"],
                capture_output=True,
                text=True,
                timeout=200,
            )
        )

    with client_on(cluster, tmp_path) as client:
        other = threading.Thread(target=reshard)
        other.start()
        done = run(*command)
        other.join()
        assert done.code in (0, 3), done.stderr
        fixed = run("reshard", "fix", cluster.url, "--apply")
        assert fixed.code == 0, fixed.stdout + fixed.stderr
        check(cluster, client)


def test_migrate_and_reshard_of_one_cluster_at_once(
    source: LocalServer, stack: ExitStack, tmp_path: Path
) -> None:
    cluster = make(stack, "redis-7.0")
    fill_keys(source, [f"migrated:{i}" for i in range(50_000)])
    with Running(*apply_command(cluster, tmp_path, "--method", "setslot", *_SLOW)) as running:
        migrated = run("migrate", source.url, cluster.url, "--json")
        done = running.finish()
    assert migrated.code == 0, migrated.stderr
    assert done.code == 0, done.stderr
    assert_clean(cluster, KEYS + 50_000)


def test_stopped_in_order_and_at_once(stack: ExitStack, tmp_path: Path) -> None:
    cluster = make(stack, "redis-7.0")
    command = apply_command(cluster, tmp_path, "--method", "setslot", "--max-bytes-per-second", "150kB")
    with client_on(cluster, tmp_path) as client:
        with Running(*command) as running:
            wait_until(lambda: running.ended or moved(cluster) > 20, "some slots to have moved")
            running.send(signal.SIGTERM)
            ordered = running.finish()
        assert ordered.code == 143, ordered.stderr
        assert ordered.summary["status"] == "interrupted"
        assert open_slots(cluster) == []
        with Running(*command) as running:
            wait_until(lambda: running.ended or bool(open_slots(cluster)), "a slot to be open")
            running.send(signal.SIGINT)
            running.send(signal.SIGINT)
            at_once = running.finish()
        assert at_once.code == 130, at_once.stderr
        done = run(*command[:-2])
        assert done.code == 0, done.stderr
        check(cluster, client)
