"""Verification while slots move and processes die: nothing wrong is reported, nothing is missed."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from redis.crc import key_slot

from slotferry import Verification, VerifyOptions
from slotferry.model.events import PhaseStarted, Progress
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import Running, run
from tests.faults.clock import SteppedClock
from tests.faults.test_slots_moving import Reshard, _owner
from tests.integration.migrating import migrate
from tests.servers.raw import connect

KEYS = 100_000


def test_slots_that_move_meanwhile(filled: LocalServer, own_cluster: LocalCluster) -> None:
    assert migrate(filled, own_cluster).ok
    first, second, _ = own_cluster.primaries
    with own_cluster.client() as new:
        new.set("extra", "x")
        new.set("key:7", "other")
    verification = Verification(filled.url, own_cluster.url, VerifyOptions(recheck=1))
    moved = 0
    for event in verification.events():
        if isinstance(event, Progress) and event.keys.scanned and moved < 60:
            for slot in range(moved, moved + 20):
                Reshard(own_cluster, slot, first, second).do()
            moved += 20

    report = verification.result()
    assert report.differences == {"different": 1, "extra": 1}
    assert report.target_keys.scanned >= KEYS + 1


def test_slots_that_move_while_the_target_is_swept(filled: LocalServer, own_cluster: LocalCluster) -> None:
    assert migrate(filled, own_cluster).ok
    first, second, _ = own_cluster.primaries
    with own_cluster.client() as new:
        new.set("extra", "x")
    verification = Verification(filled.url, own_cluster.url, VerifyOptions())
    for event in verification.events():
        if isinstance(event, PhaseStarted) and event.phase == "target":
            Reshard(own_cluster, 5, first, second).do()

    assert verification.result().differences == {"extra": 1}


def test_keys_behind_an_ask(source: LocalServer, own_cluster: LocalCluster) -> None:
    slot = key_slot(b"{tag}")
    with source.client() as client:
        client.mset({f"{{tag}}{i}": i for i in range(500)})
        client.rpush("{tag}large", *(["x" * 1_000] * 300))
    assert migrate(source, own_cluster).ok
    old = _owner(own_cluster, slot)
    new = next(node for node in own_cluster.primaries if node is not old)
    reshard = Reshard(own_cluster, slot, old, new)
    reshard.open()
    with connect(old) as connection:
        keys = connection.execute("CLUSTER", "GETKEYSINSLOT", slot, 300)
        connection.execute("MIGRATE", new.host, new.port, "", 0, 10_000, "KEYS", *keys)

    report = Verification(source.url, own_cluster.url).run()

    assert report.ok, report.examples
    assert report.totals.ask > 0
    reshard.move_keys()
    reshard.close()
    assert Verification(source.url, own_cluster.url, VerifyOptions(memory_limit=1 << 20)).run().ok


def test_a_killed_verification_goes_on(filled: LocalServer, cluster: LocalCluster) -> None:
    assert migrate(filled, cluster).ok
    with cluster.client() as new:
        new.delete("key:1")
    command = ("verify", filled.url, cluster.url, "--json", "--max-keys-per-second", "20000")
    with Running(*command) as running:
        while not running.ended and not any(
            job["keys"]["unchanged"] for job in run("jobs", "list", "--json").lines
        ):
            pass
        running.send(signal.SIGKILL)

    done = run("verify", filled.url, cluster.url, "--json")

    assert done.code == 3, done.stderr
    assert done.summary["resumed"]
    assert done.keys["missing"] == 1
    assert done.keys["source"] >= KEYS


@pytest.mark.parametrize(
    ("source", "cluster"), [("redis-6.2", "redis-7.0"), ("redis-6.2", "redis-6.2")], indirect=True
)
@pytest.mark.parametrize("hours", [1, -1], ids=["ahead", "behind"])
def test_a_clock_that_is_wrong_here(
    source: LocalServer, cluster: LocalCluster, hours: int, tmp_path: Path
) -> None:
    value = random.Random(1).randbytes(500_000)  # no compression makes it small
    with source.client() as old, cluster.client() as new:
        old.set("large", value, ex=1_800)
        old.mset({f"key:{i}": i for i in range(100)})
        for i in range(100):
            old.expire(f"key:{i}", 1_800)
        assert migrate(source, cluster).ok
        new.delete("key:7")
        new.set("extra", "x", ex=1_800)
        new.set("extra:large", value, ex=1_800)
    clock = SteppedClock(tmp_path)
    clock.step(hours * 3_600)

    done = run(
        *("verify", source.url, cluster.url, "--json", "--memory-limit", "1mib", "--ttl-tolerance", "10s"),
        env=clock.env,
    )

    assert done.code == 3, done.stderr
    assert {kind: done.keys[kind] for kind in ("missing", "extra", "ttl", "different")} == {
        "missing": 1,
        "extra": 2,
        "ttl": 0,
        "different": 0,
    }


@pytest.mark.parametrize(("source", "cluster"), [("valkey-9.1", "valkey-9.1")], indirect=True)
@pytest.mark.parametrize("large", [False, True], ids=["whole", "chunked"])
def test_fields_have_expired_by_the_clocks_of_servers_alone(
    source: LocalServer, cluster: LocalCluster, large: bool, tmp_path: Path
) -> None:
    ballast = random.Random(2).randbytes(300_000 if large else 100)
    with source.client() as old, cluster.client() as new:
        for key in ("lost", "changed", "same"):
            old.hset(key, mapping={"stays": ballast, "field": "1"})
            old.execute_command("HEXPIRE", key, 86_400, "FIELDS", 1, "field")
        assert migrate(source, cluster).ok
        new.hdel("lost", "field")
        new.hset("changed", "field", "2")
        new.execute_command("HEXPIRE", "changed", 86_400, "FIELDS", 1, "field")
        wrong = SteppedClock(tmp_path)
        wrong.step(2 * 86_400)

        done = run("verify", source.url, cluster.url, "--json", "--memory-limit", "1mib", env=wrong.env)
        # A copy that meets them compares as well.
        again = run("migrate", source.url, cluster.url, "--json", "--job", "again", env=wrong.env)

    assert done.code == 3, done.stderr
    assert (done.keys["different"], done.keys["equal"]) == (2, 1)
    assert (again.keys["failed"], again.keys["unchanged"]) == (2, 1)
