"""The faults of the suite: what each does to a migration under way."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from redis.crc import key_slot

from slotferry.testing.servers import LocalServer, wait_until
from tests.faults.bed import DURABLE, QUICK, Bed
from tests.faults.clock import SteppedClock
from tests.servers.raw import connect

_REDIS_CLI = "redis-cli"
_TO_AND_FRO = 1_600  # slots that Valkey moves at once


@dataclass(frozen=True)
class Fault:
    """What goes wrong: `act` starts the run and does it; `prepare` changes the bed before the run."""

    act: Callable[[Bed], None]
    short: bool = False
    replicas: int = 0
    config: dict[str, str] = field(default_factory=dict)
    source_config: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    valkey: bool = False
    """Needs Valkey 9's atomic slot migration."""
    reloads: bool = False
    """A server loads its keys anew, and their encodings may change with that."""
    moved_by_servers: int = 0
    """Slots, from 0 on, that Valkey moves: as commands, which lose what is pending of deleted messages."""
    codes: tuple[int, ...] = (0,)
    """How a run may end before the last one, which ends with 0."""

    @property
    def name(self) -> str:
        return self.act.__name__


def source_killed_and_restarted(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.7))
    bed.source.kill()
    bed.source.start()


def source_stopped_for_a_while(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.7))
    os.kill(bed.source.pid, signal.SIGSTOP)
    bed.wait_state("no reply")
    time.sleep(20)  # the fault itself
    os.kill(bed.source.pid, signal.SIGCONT)


def primary_killed_and_its_replica_takes_over(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.6))
    fail_over(bed, bed.rng.randrange(3))


def two_failovers_in_a_row(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.4))
    first, second = bed.rng.sample(range(3), 2)
    fail_over(bed, first)
    fail_over(bed, second)


def the_same_shard_fails_over_and_back(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.4))
    shard = bed.rng.randrange(3)
    fail_over(bed, shard)
    _wait_for_replicas(bed)
    old, new = bed.cluster.primaries[shard], bed.cluster.replicas[shard]
    new.kill()
    wait_until(lambda: _role(old) == "master", "the first primary to take over again", timeout=60)
    new.start()
    bed.cluster.wait_until_healthy()


def primary_stopped_and_its_replica_takes_over(bed: Bed) -> None:
    """It answers nothing and refuses nothing, and for all it knows it is the primary still."""
    bed.start(bed.rng.uniform(0.1, 0.4))
    shard = bed.rng.randrange(3)
    primary, replica = bed.cluster.primaries[shard], bed.cluster.replicas[shard]
    os.kill(primary.pid, signal.SIGSTOP)
    wait_until(lambda: _role(replica) == "master", "the replica to take over", timeout=60)
    with replica.client() as client:
        keys = client.dbsize()
        wait_until(
            lambda: _is_over(bed) or client.dbsize() > keys, "keys to go to the new primary", timeout=60
        )
    os.kill(primary.pid, signal.SIGCONT)


def fail_over(bed: Bed, shard: int) -> None:
    """Kill a primary, wait for its replica to take over, and bring it back as that one's replica."""
    primary, replica = bed.cluster.primaries[shard], bed.cluster.replicas[shard]
    primary.kill()
    wait_until(lambda: _role(replica) == "master", "the replica to take over", timeout=60)
    primary.start()
    bed.cluster.wait_until_healthy()


def _wait_for_replicas(bed: Bed) -> None:
    def connected() -> bool:
        infos = [node.client().info("replication") for node in bed.cluster.nodes]
        return all(info["role"] == "master" or info["master_link_status"] == "up" for info in infos)

    wait_until(connected, "every replica to be in step", timeout=60)


def _role(node: LocalServer) -> str:
    with node.client(socket_timeout=5) as client:
        return str(client.info("replication")["role"])


def primary_without_a_replica_restarted(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.6))
    node = bed.rng.choice(bed.cluster.primaries)
    node.kill()
    bed.wait_state(node.address)
    node.start()


def all_primaries_restarted(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.6))
    for node in bed.cluster.primaries:
        node.kill()
    bed.wait_state("waiting")
    for node in bed.cluster.primaries:
        node.start()


def slots_to_and_fro_by_redis_cli(bed: Bed) -> None:
    bed.start(0.05, seconds=15)
    here, there = bed.rng.sample(bed.cluster.primaries, 2)
    moved = 0
    while not _is_over(bed) and moved < 2_000:
        redis_cli(
            *(
                "--cluster",
                "reshard",
                here.address,
                "--cluster-from",
                node_id(here),
                "--cluster-to",
                node_id(there),
            ),
            *("--cluster-slots", "100", "--cluster-yes"),
        )
        moved += 100
        here, there = there, here
    assert moved >= 200


def slots_to_and_fro_by_atomic_migration(bed: Bed) -> None:
    bed.start(0.05, seconds=15)
    here, there = bed.cluster.primaries[:2]
    moves = 0
    while not _is_over(bed) and moves < 20:
        with connect(here) as connection:
            connection.execute(
                "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", 0, _TO_AND_FRO - 1, "NODE", node_id(there)
            )
        wait_until(lambda: _owns(there, 0), "the slots to be handed over", timeout=60)  # noqa: B023
        bed.cluster.wait_until_healthy()
        here, there = there, here
        moves += 1
    assert moves >= 2


def slots_left_half_open_and_fixed_later(bed: Bed) -> None:
    here, there = bed.cluster.primaries[:2]
    slots = bed.rng.sample(range(5_000), 30)
    bed.start(0.05)
    for slot in slots[:20]:
        _cluster(there, "SETSLOT", slot, "IMPORTING", node_id(here))
    for slot in slots[10:]:
        _cluster(here, "SETSLOT", slot, "MIGRATING", node_id(there))
    bed.wait_for(0.6)
    bed.hurry()
    wait_until(lambda: bed.settled() >= 0.9 * bed.keys or "slot" in bed.state(), "most keys to be settled")
    redis_cli("--cluster", "fix", here.address, "--cluster-yes")


def a_slot_without_an_importer_stays_so_until_the_next_run(bed: Bed) -> None:
    here, there = bed.cluster.primaries[:2]
    with connect(bed.source) as connection:
        names = connection.execute("SCAN", 0, "COUNT", 2_000)[1]
    slots = sorted({slot for slot in map(key_slot, names) if slot < 5_000})[:20]
    for slot in slots:
        _cluster(here, "SETSLOT", slot, "MIGRATING", node_id(there))
    bed.start(0.5)
    bed.hurry()
    assert bed.end().code == 3
    assert len(bed.codes) == 1
    for slot in slots:
        _cluster(here, "SETSLOT", slot, "STABLE")


def primary_added_and_given_slots(bed: Bed) -> None:
    config = {"cluster-enabled": "yes", **QUICK}
    added = bed.stack.enter_context(LocalServer(bed.kind.binary, config=config))
    bed.start(0.1, seconds=60)
    first = bed.cluster.primaries[0]
    redis_cli("--cluster", "add-node", added.address, first.address)
    bed.cluster.primaries.append(added)
    bed.cluster.wait_until_healthy()
    redis_cli(
        *("--cluster", "reshard", first.address, "--cluster-from", "all", "--cluster-to", node_id(added)),
        *("--cluster-slots", "1500", "--cluster-yes"),
    )


def primary_emptied_and_removed(bed: Bed) -> None:
    first, _, last = bed.cluster.primaries
    bed.start(0.1, seconds=60)
    redis_cli(
        *(
            "--cluster",
            "reshard",
            first.address,
            "--cluster-from",
            node_id(last),
            "--cluster-to",
            node_id(first),
        ),
        *("--cluster-slots", "5462", "--cluster-yes"),
    )
    bed.cluster.wait_until_healthy()
    redis_cli("--cluster", "del-node", first.address, node_id(last))
    bed.cluster.primaries.remove(last)
    last.stop()


def connections_cut_at_random(bed: Bed) -> None:
    proxies = bed.put_behind_proxies()
    bed.start(0.05)  # what is cut off before it has begun only has to be started again
    for proxy in proxies:
        if bed.rng.random() < 0.5:
            proxy.cut_after(commands=bed.rng.randrange(20_000, 90_000), times=8)
        else:
            proxy.cut_after(replies=bed.rng.randrange(12_000, 15_000), times=4)
    bed.proxy.cut_after(replies=bed.rng.randrange(50_000, 200_000), times=8)


def connections_slow(bed: Bed) -> None:
    for proxy in [bed.proxy, *bed.put_behind_proxies()]:
        proxy.delay = 0.05
    bed.start(0.3)


def connections_half_open(bed: Bed) -> None:
    """The other end is gone, and nobody says so."""
    proxies = bed.put_behind_proxies()
    bed.start(0.2)
    bed.rng.choice(proxies).stall()
    bed.wait_state("no reply")  # after 30 s
    for proxy in proxies:
        proxy.resume()


def target_full_and_freed(bed: Bed) -> None:
    bed.start(bed.rng.uniform(0.1, 0.6))
    with bed.rng.choice(bed.cluster.primaries).client() as client:
        client.config_set("maxmemory", 1)
        bed.wait_state("OOM")
        client.config_set("maxmemory", 0)


def journal_s_disk_full_and_freed(bed: Bed) -> None:
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux limits another process")
    running = bed.start(bed.rng.uniform(0.1, 0.4))
    # As a full disk does it: what is there stays, and nothing more can be written.
    _, hard = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (1, hard))
    done = bed.settled()
    wait_until(lambda: _is_over(bed) or bed.settled() > done + 1_000, "the run to go on without its journal")
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (hard, hard))


def clock_stepped(bed: Bed) -> None:
    clock = SteppedClock(bed.folder)
    bed.env = clock.env
    bed.start(0.1)
    for seconds in (7 * 86_400, -7 * 86_400, 3_600, 0):
        clock.step(seconds)
        share = bed.settled() / bed.keys
        bed.wait_for(min(1.0, share + 0.15))


def terminated_and_resumed(bed: Bed) -> None:
    for _ in range(3):
        running = bed.start(bed.rng.uniform(0.1, 0.4))
        running.send(signal.SIGTERM)
        bed.end()


def interrupted_twice_and_resumed(bed: Bed) -> None:
    for _ in range(3):
        running = bed.start(bed.rng.uniform(0.1, 0.4))
        running.send(signal.SIGINT)
        running.send(signal.SIGINT)
        bed.end()


def killed_twenty_times(bed: Bed) -> None:
    _kill(bed, 20)


def killed_thrice(bed: Bed) -> None:
    _kill(bed, 3)


def _kill(bed: Bed, times: int) -> None:
    for number in range(times):
        # Mostly while keys flow, further on each time; now and then before the first of them.
        early = bed.rng.random() < 0.2
        running = bed.start(0.0 if early else 0.9 * (number + bed.rng.random()) / times)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(bed.rng.uniform(0.0, 0.3))
        running.kill()
        bed.running = None
        bed.codes.append(-9)


FAULTS = [
    Fault(source_killed_and_restarted, short=True, source_config=DURABLE, reloads=True),
    Fault(source_stopped_for_a_while),
    Fault(primary_killed_and_its_replica_takes_over, True, 1, arguments=("--wait-replicas", "1")),
    Fault(primary_stopped_and_its_replica_takes_over, True, 1, arguments=("--wait-replicas", "1")),
    Fault(two_failovers_in_a_row, replicas=1, arguments=("--wait-replicas", "1")),
    Fault(the_same_shard_fails_over_and_back, replicas=1, arguments=("--wait-replicas", "1")),
    Fault(primary_without_a_replica_restarted, True, config=DURABLE, reloads=True),
    Fault(all_primaries_restarted, True, config=DURABLE, reloads=True),
    Fault(slots_to_and_fro_by_redis_cli, short=True),
    Fault(slots_to_and_fro_by_atomic_migration, valkey=True, reloads=True, moved_by_servers=_TO_AND_FRO),
    Fault(slots_left_half_open_and_fixed_later, codes=(0, 3)),
    Fault(
        a_slot_without_an_importer_stays_so_until_the_next_run, arguments=("--retry-for", "15s"), codes=(3,)
    ),
    Fault(primary_added_and_given_slots),
    Fault(primary_emptied_and_removed),
    Fault(connections_cut_at_random, short=True),
    Fault(connections_slow),
    Fault(connections_half_open),
    Fault(target_full_and_freed, short=True),
    Fault(journal_s_disk_full_and_freed, short=True),
    Fault(clock_stepped, short=True),
    Fault(terminated_and_resumed, codes=(143,)),
    Fault(interrupted_twice_and_resumed, short=True, codes=(130,)),
    Fault(killed_thrice, short=True, codes=(-9,)),
    Fault(killed_twenty_times, codes=(-9,)),
]


def _is_over(bed: Bed) -> bool:
    return bed.running is None or bed.running.ended


def redis_cli(*arguments: str) -> None:
    done = subprocess.run([_REDIS_CLI, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def _cluster(node: LocalServer, *parts: str | int) -> None:
    with connect(node) as connection:
        connection.execute("CLUSTER", *parts)


def node_id(node: LocalServer) -> str:
    with connect(node) as connection:
        return str(connection.execute("CLUSTER", "MYID").decode())


def _owns(node: LocalServer, slot: int) -> bool:
    with connect(node) as connection:
        rows = connection.execute("CLUSTER", "SLOTS")
    return any(first <= slot <= last and primary[1] == node.port for first, last, primary, *_ in rows)
