"""Slots copied beside the traffic and given up in one transaction: what clients see, what is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pytest

from slotferry import _core
from slotferry.api.resharding import connect as connect_to
from slotferry.model.address import Address
from slotferry.reshard.cluster.members import read_cluster
from slotferry.reshard.cluster.wire import Wire
from slotferry.reshard.limits import Limits
from slotferry.reshard.move.copying import missing_permission, replication_identity
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.reshard.broken import half_moved, node_id
from tests.reshard.client import fill_keys, keys_in, open_slots
from tests.reshard.moving import MOVING, assert_clean, connector_of, importing, plan_away
from tests.servers.kinds import available
from tests.servers.proxy import Proxy
from tests.servers.raw import RawConnection, connect

SLOT = MOVING[0]
_MULTI = b"$5\r\nMULTI\r\n"
REDIS = [name for name in ("redis-6.2", "redis-7.0", "redis-8.0") if name in available()]


def handover(source: LocalServer | Proxy, nodes: LocalCluster, **limits: int) -> _core.Handover:
    second = nodes.primaries[1]
    options: dict[str, Any] = {
        "workers": 2, "reading_keys": 20, "together": 2, "together_keys": 100, "chunk_keys": 3,
        "chunk_bytes": 1_000, "max_keys": 1_000,
        "max_bytes": 1 << 20, "max_key_bytes": 100_000, **limits,
    }  # fmt: skip
    return _core.Handover(
        source=(source.host, source.port),
        target=(second.host, second.port),
        target_id=node_id(second),
        access=_core.Access(),
        client_name="mover",
        replicated=False,
        **options,
    )


def keys_at(node: LocalServer, slot: int = SLOT) -> dict[str, Any]:
    """Return what a node holds of a slot, whoever owns it: payload and expiry by key."""
    with connect(node) as connection:
        found = {}
        for key in connection.execute("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            connection.execute("ASKING")
            payload = connection.execute("DUMP", key)
            connection.execute("ASKING")
            found[key.decode()] = payload, connection.execute("PTTL", key)
        return found


@contextmanager
def held_before_the_transaction(cluster: LocalCluster, times: int = 1) -> Iterator[Callable[..., Any]]:
    """Hand `SLOT` over with the source behind a proxy; yield what runs an action before each transaction."""
    with Proxy(cluster.primaries[0].host, cluster.primaries[0].port) as proxy:
        mover = handover(proxy, cluster, workers=1)

        def carry(action: Callable[[], None]) -> Any:
            outcome: list[Any] = []
            proxy.hold_at(_MULTI)
            thread = threading.Thread(target=lambda: outcome.extend(mover.hand_over([SLOT])))
            thread.start()
            for left in reversed(range(times)):
                assert proxy.held.wait(30)
                action()
                proxy.resume(hold_at=_MULTI if left else None)
            thread.join(30)
            return outcome[0]

        yield carry


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_every_type_arrives_as_it_was(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    tag = keys_in([SLOT], 1)[0].split(":")[0]
    with connect(first) as connection:
        for number in range(20):
            connection.execute("SET", f"{tag}:string:{number}", "x" * number * 10 or "y")
            connection.execute("SET", f"{tag}:int:{number}", number)
        connection.execute("SET", f"{tag}:empty", "")
        connection.execute("SET", f"{tag}:long", "z" * 40_000)
        connection.execute("RPUSH", f"{tag}:list", *range(50))
        connection.execute("SADD", f"{tag}:set", *range(50), "a")
        connection.execute("ZADD", f"{tag}:zset", 1, "a", "2.5", "b")
        connection.execute("HSET", f"{tag}:hash", "f", "v", "g", "w")
        connection.execute("XADD", f"{tag}:stream", "*", "f", "v")
        connection.execute("PFADD", f"{tag}:log", *range(50))
        connection.execute("PEXPIRE", f"{tag}:list", 1_000_000)
        connection.execute("PEXPIRE", f"{tag}:string:3", 2_000_000)
    before = keys_at(first)
    mover = handover(first, own)
    importing(own, SLOT, *MOVING[1:4])

    outcomes = mover.hand_over([*MOVING[1:4], SLOT])

    assert [fate for _, fate, *_ in outcomes] == ["handed_over"] * 4
    assert {slot: keys for slot, _, keys, *_ in outcomes} == {
        SLOT: len(before) - 1,
        **dict.fromkeys(MOVING[1:4], 10),
    }
    stream = before.pop(f"{tag}:stream")
    assert keys_at(first) == {f"{tag}:stream": stream}  # for MIGRATE, since WATCH does not see its groups
    after = keys_at(second)
    assert after.keys() == before.keys()
    with connect(second) as connection:
        for key in before:
            # A string may be laid out in another way; what it says is the same.
            connection.execute("ASKING")
            kind = connection.execute("TYPE", key)
            if kind == b"set":  # the order of its members is each server's own
                connection.execute("ASKING")
                assert connection.execute("SCARD", key) == 51
            elif kind != b"string":
                assert after[key][0] == before[key][0]
    for key, (_, ttl) in before.items():
        assert (ttl < 0) == (after[key][1] < 0)
        assert ttl < 0 or abs(ttl - after[key][1]) < 10_000
    migrating = [part for part in open_slots(own) if "->-" in part]
    assert len(migrating) == 4


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_a_key_that_changes_before_the_transaction_is_copied_again(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    changed, deleted, renewed = keys_in([SLOT], 3)

    def change() -> None:
        with connect(first) as connection:
            connection.execute("SET", changed, "new")
            connection.execute("DEL", deleted, renewed)
            connection.execute("SET", renewed, "again")

    with held_before_the_transaction(own) as carry:
        _, fate, keys, *_ = carry(change)

    assert (fate, keys) == ("handed_over", 9)
    assert keys_at(first) == {}
    assert deleted not in keys_at(second)
    with connect(second) as connection:
        for key, value in ((changed, b"new"), (renewed, b"again")):
            connection.execute("ASKING")
            assert connection.execute("GET", key) == value


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_a_key_that_expires_before_the_transaction_is_gone_on_both_nodes(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    name = keys_in([SLOT], 1)[0]
    with connect(first) as connection:
        connection.execute("PEXPIRE", name, 1_500)

        def outlive() -> None:
            wait_until(lambda: connection.execute("EXISTS", name) == 0, "the key to expire")

        with held_before_the_transaction(own) as carry:
            _, fate, keys, *_ = carry(outlive)

    assert (fate, keys) == ("handed_over", 9)
    assert keys_at(first) == {}
    assert len(keys_at(second)) == 9


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_the_only_key_that_expires_is_given_its_expiry_before_the_transaction(own: LocalCluster) -> None:
    """Where no key expires, keys are not asked one by one."""
    first, second, _ = own.primaries
    importing(own, SLOT)
    name = keys_in([SLOT], 1)[0]

    def let_expire() -> None:
        with connect(first) as connection:
            connection.execute("PEXPIRE", name, 1_000_000)

    with held_before_the_transaction(own) as carry:
        assert carry(let_expire)[1:3] == ("handed_over", 10)
    assert {key for key, (_, ttl) in keys_at(second).items() if ttl > 0} == {name}


def test_a_key_that_begins_to_expire_in_the_middle_of_a_call_keeps_its_expiry(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    later = MOVING[1]
    importing(own, SLOT, later)
    name = keys_in([later], 10)[7]
    with Proxy(first.host, first.port) as proxy, connect(first) as connection:
        mover = handover(proxy, own, workers=1)
        proxy.hold_at(_MULTI)
        outcomes: list[Any] = []
        thread = threading.Thread(target=lambda: outcomes.extend(mover.hand_over([SLOT, later])))
        thread.start()
        assert proxy.held.wait(30)
        asked = _calls(connection, "pttl")
        connection.execute("PEXPIRE", name, 1_000_000)
        proxy.resume()
        thread.join(30)
        asked_later = _calls(connection, "pttl") - asked
    assert [fate for _, fate, *_ in outcomes] == ["handed_over"] * 2
    assert {key for key, (_, ttl) in keys_at(second, later).items() if ttl > 0} == {name}
    assert keys_at(second, later).keys() == set(keys_in([later], 10))
    assert (asked, asked_later) == (3, 10)  # of the first chunk, when nothing was known; then of every key


def test_keys_are_watched_a_chunk_at_a_time(own: LocalCluster) -> None:
    """WATCH takes time in the square of its keys: of thousands at once, the source would stand still."""
    importing(own, SLOT)
    with connect(own.primaries[0]) as connection:
        connection.execute("CONFIG", "RESETSTAT")
        ((_, fate, keys, *_),) = handover(own.primaries[0], own, chunk_keys=3).hand_over([SLOT])
        assert (fate, keys) == ("handed_over", 10)
        assert _calls(connection, "watch") == 4


def _calls(connection: RawConnection, command: str) -> int:
    text = connection.execute("INFO", "commandstats").decode()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(lines.get(f"cmdstat_{command}", "calls=0").split(",")[0].removeprefix("calls="))


def test_a_slot_that_changes_all_the_time_is_left_as_it_was(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)

    def change() -> None:
        with connect(first) as connection:
            connection.execute("APPEND", keys_in([SLOT], 1)[0], "x")

    with held_before_the_transaction(own, times=3) as carry:
        _, fate, *_ = carry(change)

    assert fate == "busy"
    assert len(keys_at(first)) == 10
    assert keys_at(second) == {}
    assert not [part for part in open_slots(own) if "->-" in part]


def test_a_key_that_comes_before_the_transaction_stays_for_the_next_step(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    late = keys_in([SLOT], 11)[-1]

    def add() -> None:
        with connect(first) as connection:
            connection.execute("SET", late, "late")

    with held_before_the_transaction(own) as carry:
        _, fate, keys, *_ = carry(add)

    assert (fate, keys) == ("handed_over", 10)
    assert list(keys_at(first)) == [late]
    assert len(keys_at(second)) == 10


def test_what_the_target_has_already_is_not_touched(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    taken = keys_in([SLOT], 10)[4]
    with connect(second) as connection:
        connection.execute("ASKING")
        connection.execute("SET", taken, "of the target")
    before = keys_at(first)

    ((_, fate, _, _, why),) = handover(first, own).hand_over([SLOT])

    assert fate == "refused"
    assert "BUSYKEY" in why
    assert keys_at(first) == before
    assert list(keys_at(second)) == [taken]


@pytest.mark.parametrize("limits", [{"max_keys": 9}, {"max_key_bytes": 20}, {"max_bytes": 100}])
def test_what_is_too_large_is_left_alone(own: LocalCluster, limits: dict[str, int]) -> None:
    importing(own, SLOT)
    before = keys_at(own.primaries[0])
    ((_, fate, *_),) = handover(own.primaries[0], own, **limits).hand_over([SLOT])
    assert fate == "large"
    assert keys_at(own.primaries[0]) == before
    assert keys_at(own.primaries[1]) == {}


def test_a_target_that_the_source_does_not_know_gets_nothing(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    before = keys_at(first)
    mover = _core.Handover(
        source=(first.host, first.port), target=(second.host, second.port), target_id="f" * 40,
        access=_core.Access(), client_name="mover", replicated=False, workers=1,
        reading_keys=1, together=1, together_keys=1, chunk_keys=100, chunk_bytes=10_000, max_keys=100,
        max_bytes=1 << 20, max_key_bytes=1 << 20,
    )  # fmt: skip
    ((_, fate, _, _, why),) = mover.hand_over([SLOT])
    assert (fate, "know about node" in why) == ("refused", True)
    assert keys_at(first) == before
    assert keys_at(second) == {}
    assert mover.hand_over([]) == []


def test_many_strings_that_are_large_together_are_left_alone(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    fill_keys(first, keys_in([SLOT], 10), size=1_000)
    importing(own, MOVING[1], SLOT)
    mover = handover(first, own, workers=1, max_bytes=5_000)
    outcomes = mover.hand_over([MOVING[1], SLOT])  # the first one tells that there are strings
    assert [fate for _, fate, *_ in outcomes] == ["handed_over", "large"]
    assert len(keys_at(first)) == 10
    assert keys_at(second) == {}


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_a_source_that_takes_no_writes_opens_nothing(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, SLOT)
    before = keys_at(first)
    with connect(first) as connection:
        connection.execute("CONFIG", "SET", "min-replicas-to-write", 1)
    ((_, fate, _, _, why),) = handover(first, own).hand_over([SLOT])
    assert (fate, "NOREPLICAS" in why) == ("refused", True)
    assert not [part for part in open_slots(own) if "->-" in part]
    assert keys_at(first) == before
    assert keys_at(second) == {}


def test_a_source_that_is_gone_is_told_and_nothing_further_is_begun(own: LocalCluster) -> None:
    with Proxy(own.primaries[0].host, own.primaries[0].port) as proxy:
        mover = handover(proxy, own, workers=1)
        importing(own, *MOVING[:3])
        proxy.hold_at(b"MULTI")
        outcomes: list[Any] = []
        thread = threading.Thread(target=lambda: outcomes.extend(mover.hand_over(MOVING[:3])))
        thread.start()
        assert proxy.held.wait(30)
        proxy.refuse()
        thread.join(30)
    assert [fate for _, fate, *_ in outcomes] == ["source_lost", "not_begun", "not_begun"]


# What an interrupted run leaves


def test_a_node_that_was_demoted_meanwhile_is_another_process(stack: ExitStack) -> None:
    """It has forgotten then what it had opened."""
    cluster = stack.enter_context(LocalCluster(available()["redis-7.0"].binary, replicas_per_primary=1))
    primary, replica = cluster.primaries[0], cluster.replicas[0]
    connector = connector_of(cluster)
    member = read_cluster(connector).members[node_id(primary)]

    def process() -> str:
        with Wire(connector, Address(primary.host, primary.port)) as wire:
            return replication_identity(wire, member)

    before = process()
    for successor, other in ((replica, primary), (primary, replica)):
        wait_until(partial(_follows, successor, other), "the replica to be in step")
        with connect(successor) as connection:
            connection.execute("CLUSTER", "FAILOVER", "TAKEOVER")
        wait_until(partial(_leads, successor), "the failover")
    assert before
    assert process() not in ("", before)


def _follows(node: LocalServer, primary: LocalServer) -> bool:
    with node.client() as client:
        info = client.info("replication")
    return (info["role"], info.get("master_port"), info.get("master_link_status")) == (
        "slave", primary.port, "up",
    )  # fmt: skip


def _leads(node: LocalServer) -> bool:
    with node.client() as client:
        return bool(client.info("replication")["role"] == "master")


def test_a_slot_that_an_earlier_run_has_opened_stays_open_with_its_large_key(own: LocalCluster) -> None:
    first = own.primaries[0]
    plan = plan_away(own)
    goes = next(move.target for move in plan.moves() if move.slot == SLOT)
    half_moved(first, next(node for node in own.primaries if node_id(node) == goes), SLOT, 4)
    with connect(first) as connection:
        (name, *_) = connection.execute("CLUSTER", "GETKEYSINSLOT", SLOT, 1)
        connection.execute("SET", name, b"x" * 2_000_000)
    report = plan.apply(limits=Limits(max_key_bytes=1_000_000))
    assert list(report.left) == [SLOT]
    assert report.left[SLOT].startswith("open: its key")
    assert len([part for part in open_slots(own) if f"[{SLOT}-" in part]) == 2
    with own.client() as client:  # which follows MOVED and ASK
        assert all(client.get(key) is not None for key in keys_in([SLOT], 10))


def test_a_user_without_a_right_moves_by_migrate(own: LocalCluster) -> None:
    for node in own.primaries:
        with connect(node) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", "-eval")
    notices: list[str] = []
    plan = plan_away(own)
    report = plan.apply(
        own.url.replace("://", "://mover:secret@"),
        on_event=lambda event: notices.append(str(getattr(event, "message", ""))),
    )
    assert report.ok
    assert [text for text in notices if "MIGRATE" in text and "EVAL" in text]
    assert_clean(own)


def test_many_keys_in_a_slot_and_a_large_one_go_as_well(own: LocalCluster) -> None:
    first = own.primaries[0]
    crowded = keys_in([SLOT], 5_000)
    fill_keys(first, crowded)
    with connect(first) as connection:
        connection.execute("SET", keys_in([MOVING[1]], 1)[0], b"x" * 2_000_000)
    assert plan_away(own).apply().ok
    assert_clean(own, len(MOVING) * 10 + 4_990)


@pytest.mark.parametrize("own", ["redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1"], indirect=True)
def test_looking_what_is_allowed_cuts_nobody_off(own: LocalCluster) -> None:
    node = own.primaries[0]
    connector = connect_to(own.url)
    with connect(node) as bystander, Wire(connector, Address(node.host, node.port)) as wire:
        number = bystander.execute("CLIENT", "ID")
        assert missing_permission(wire) == ""
        assert bystander.execute("CLIENT", "ID") == number
