"""A source cluster that changes while it is read: slots move, primaries fail over, the run is killed.

Invariant: the target ends with what the source held, and no key is counted as gone because its slot moved.
"""

from __future__ import annotations

import itertools
import threading
from contextlib import ExitStack

import pytest

from slotferry import plan_reshard
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.faults.test_slots_moving import Reshard
from tests.integration.migrating import count_keys, migrate
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect

KEYS = 60_000
_QUICK = {"cluster-node-timeout": "1500", "repl-ping-replica-period": "1"}
_RATE = ("--max-keys-per-second", "12000")
_OLD = ["redis-7.0", "redis-8.0", "valkey-9.1"]


@pytest.mark.parametrize("old", _OLD)
def test_slots_that_move_while_the_source_is_read(old: str, stack: ExitStack) -> None:
    source, reference = _filled(stack, old)
    target = _cluster(stack, "valkey-9.1", 5)
    first, _, third = source.primaries

    with _Readers(source), Running(*_command(source, target), *_RATE) as running:
        wait_until(lambda: running.ended or count_keys(target) > KEYS // 5, "a fifth of the keys")
        # One way only, as in test_slots_moving.py.
        for slot in range(100):
            Reshard(source, 10_923 + slot, third, first).do()
        done = running.finish()

    assert done.code == 0, done.stderr
    assert done.keys["vanished"] == done.keys["pending"] == 0
    assert "their keys are read again" in done.stderr
    _assert_whole(reference, target, done.keys)


def test_a_slot_that_stays_open_is_read_when_it_is_closed(stack: ExitStack) -> None:
    source, reference = _filled(stack, "redis-7.0", 8_000)
    target = _cluster(stack, "redis-7.0", 2)
    reshard = Reshard(source, 12_182, source.primaries[2], source.primaries[0])
    reshard.open()
    refused = run("migrate", source.url, target.url, "--retry-for", "1s")
    assert refused.code != 0
    assert "slots 12182 of the source are being moved" in refused.stderr

    with Running(*_command(source, target)) as running:
        wait_until(lambda: running.ended or count_keys(target) > 0, "the first keys")
        reshard.move_keys()
        reshard.close()
        done = running.finish()

    assert done.code == 0, done.stderr
    _assert_whole(reference, target, done.keys)


def test_a_primary_that_fails_over_while_it_is_read(stack: ExitStack) -> None:
    source, reference = _filled(stack, "redis-7.0", replicas=1)
    target = _cluster(stack, "redis-8.0", 5)

    with Running(*_command(source, target), *_RATE) as running:
        wait_until(lambda: running.ended or count_keys(target) > KEYS // 5, "a fifth of the keys")
        source.primaries[1].kill()
        done = running.finish()

    assert done.code == 0, done.stderr
    assert "no primary any more" in done.stderr
    _assert_whole(reference, target, done.keys)


def test_a_primary_that_becomes_a_replica_while_it_is_read(stack: ExitStack) -> None:
    source, reference = _filled(stack, "valkey-9.1", replicas=1)
    target = _cluster(stack, "valkey-9.1", 2)

    with Running(*_command(source, target), *_RATE) as running:
        wait_until(lambda: running.ended or count_keys(target) > KEYS // 5, "a fifth of the keys")
        with connect(source.replicas[0]) as replica:
            replica.execute("CLUSTER", "FAILOVER")
        done = running.finish()

    assert done.code == 0, done.stderr
    assert done.keys["vanished"] == 0
    _assert_whole(reference, target, done.keys)


@pytest.mark.parametrize("old", ["redis-7.0", "redis-8.0"])
def test_killed_and_resumed_with_slots_that_moved_meanwhile(old: str, stack: ExitStack) -> None:
    source, reference = _filled(stack, old)
    target = _cluster(stack, old, 4)
    command = _command(source, target)
    for number in range(3):
        with Running(*command, *_RATE) as running:
            wait_until(
                lambda: running.ended or count_keys(target) > KEYS * (number + 1) // 6,  # noqa: B023
                "the moment to kill the run",
            )
            running.kill()
        for slot in range(number * 20, number * 20 + 20):
            Reshard(source, slot, source.primaries[0], source.primaries[2]).do()

    done = run(*command)

    assert done.code == 0, done.stderr
    assert done.summary["resumed"]
    _assert_whole(reference, target, done.keys)


@pytest.mark.parametrize("old", ["redis-7.0", "valkey-9.1"])
def test_nodes_that_join_and_leave(old: str, stack: ExitStack) -> None:
    source, reference = _filled(stack, old)
    # Valkey's own moves make the consumers of a stream anew: read again, such a stream is another one.
    for side in (source, reference):
        with side.client() as client:
            for key in ("stream:grouped", "stream:grouped:ttl"):
                assert client.delete(key) == 1
    target = _cluster(stack, old, 2)
    joined = stack.enter_context(
        LocalServer(available()[old].binary, config={"cluster-enabled": "yes", **_QUICK})
    )

    with Running(*_command(source, target), *_RATE) as running:
        wait_until(lambda: running.ended or count_keys(target) > KEYS // 5, "a fifth of the keys")
        plan = plan_reshard(source.url, add=[joined.address], drain=[source.primaries[0].address])
        plan.apply()
        done = running.finish()

    assert done.code == 0, done.stderr
    _assert_whole(reference, target, done.keys)


def test_large_keys_whose_slot_moves_while_they_are_copied(stack: ExitStack) -> None:
    source, target = _cluster(stack, "redis-7.0", 3), _cluster(stack, "redis-7.0", 2)
    names = [f"{{foo}}large:{number}" for number in range(6)]
    with source.client() as client:
        for name in names:
            client.sadd(name, *(f"member:{number}" for number in range(20_000)))
    slot = 12_182
    reshard = Reshard(source, slot, source.primaries[2], source.primaries[0])
    slow = ("--big-key-bytes", "100kB", "--max-bytes-per-second", "1MB")

    with Running(*_command(source, target), *slow) as running:
        wait_until(lambda: running.ended or count_keys(target) > 0, "the first large key")
        reshard.do()
        done = running.finish()

    assert done.code == 0, done.stderr
    assert done.keys["vanished"] == done.keys["failed"] == 0
    assert count_keys(target) == len(names)
    with target.client() as client:
        assert [client.scard(name) for name in names] == [20_000] * len(names)


def test_both_directions_of_a_verification_while_slots_move(stack: ExitStack) -> None:
    source, _ = _filled(stack, "redis-7.0", 30_000)
    target = _cluster(stack, "redis-7.0", 2)
    assert run(*_command(source, target)).code == 0
    with target.client() as client:
        client.set("extra", 1)

    verify = ("verify", source.url, target.url, "--json", "--max-keys-per-second", "8000")
    with Running(*verify) as running:
        for slot in range(150):
            Reshard(source, 10_923 + slot, source.primaries[2], source.primaries[0]).do()
        done = running.finish()

    assert done.code == 3, done.stderr
    assert done.keys["extra"] == 1
    assert done.keys["missing"] == done.keys["pending"] == done.keys["vanished"] == 0


def _assert_whole(reference: LocalServer, target: LocalCluster, keys: dict[str, int]) -> None:
    """Check that the target has all, and that what was read twice is counted as unchanged.

    Where a node is left at once, what it has written since the last checkpoint is unchanged as well.
    """
    assert_equal(reference, target)
    assert keys["migrated"] <= count_keys(target)
    assert keys["migrated"] + keys["unchanged"] == keys["scanned"]


def _command(source: LocalCluster, target: LocalCluster) -> tuple[str, ...]:
    return ("migrate", source.url, target.url, "--json", "--retry-for", "30s")


def _filled(
    stack: ExitStack, kind: str, keys: int = KEYS, replicas: int = 0
) -> tuple[LocalCluster, LocalServer]:
    """Return a cluster of three primaries and a server that hold the same keys."""
    cluster = _cluster(stack, kind, 3, replicas)
    reference = stack.enter_context(LocalServer(available()[kind].binary))
    with connect(reference) as connection:
        fill(connection, keys, big=False)
    assert migrate(reference, cluster).ok
    return cluster, reference


def _cluster(stack: ExitStack, kind: str, primaries: int, replicas: int = 0) -> LocalCluster:
    if kind not in available():
        pytest.skip(f"this machine has no {kind}")
    found: ServerKind = available()[kind]
    return stack.enter_context(
        LocalCluster(found.binary, primaries=primaries, replicas_per_primary=replicas, config=_QUICK)
    )


class _Readers:
    """Clients that read keys of the source all the while."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(number,)) for number in range(2)]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _read(self, first: int) -> None:
        with self._cluster.client() as client:
            for number in itertools.count(first, 2):
                if self._end.is_set():
                    return
                client.exists(f"user:{number % KEYS}")
