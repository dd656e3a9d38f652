"""A key that is changed between its copy and the switch, by whichever command: nothing acknowledged is lost.

WATCH alone does not see it all: no server counts XGROUP, XREADGROUP, XACK, XCLAIM and XAUTOCLAIM as a change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from slotferry import _core
from slotferry.testing.servers import LocalCluster, wait_until
from tests.reshard.client import tags
from tests.reshard.moving import MOVING, assert_clean, importing, plan_away
from tests.reshard.test_handover import REDIS, handover
from tests.servers.changes import CHANGES, OTHERWISE, PREPARED, Change, changes, writing_commands
from tests.servers.kinds import available
from tests.servers.proxy import Proxy
from tests.servers.raw import RawConnection, ServerError, connect, encode

_SWITCH = b"MIGRATING"  # what goes to the source when all is copied, whatever the slot holds
_NAMES = ("K", "K2", "K3")


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_no_change_by_any_command_is_lost(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    problems = []
    with (
        connect(first) as source,
        connect(second) as target,
        Proxy(first.host, first.port) as proxy,
    ):
        known = writing_commands(source)
        assert known - CHANGES.keys() - OTHERWISE.keys() == set()
        mover = handover(proxy, own, workers=1)
        source.execute("SET", f"{{{tags()[0]}}}", "another value")
        payload = source.execute("DUMP", f"{{{tags()[0]}}}")
        every = list(changes(known, payload))
        importing(own, *range(1, 1 + len(every)))
        for slot, change in enumerate(every, start=1):
            slot_keys = {name: f"{{{tags()[slot]}}}:{name}" for name in _NAMES}
            _run(source, slot_keys, [command.split() for command in PREPARED[change.prepared]])
            before = _values(source, slot_keys)
            after: list[Any] = []

            def act(change: Change = change, keys: dict[str, str] = slot_keys, to: Any = after) -> None:
                _run(source, keys, change.commands)
                to.append(_values(source, keys))

            fate = _carry(mover, proxy, slot, act)
            assert fate == "handed_over", f"{change}: {fate}"
            assert after[0] != before, f"{change} changes nothing"
            if (found := _served(source, target, slot_keys)) != after[0]:
                problems.append(f"{change}: {found} instead of {after[0]}")
    assert problems == []


@pytest.mark.parametrize("own", [name for name in REDIS if available()[name].has_field_ttls], indirect=True)
def test_fields_that_expire_before_the_switch_are_gone_on_both_nodes(own: LocalCluster) -> None:
    """No expiry of a field counts as a change; with the last one, the key goes."""
    first, second, _ = own.primaries
    importing(own, 1)
    names = {name: f"{{{tags()[1]}}}:{name}" for name in _NAMES}
    with (
        connect(first) as source,
        connect(second) as target,
        Proxy(first.host, first.port) as proxy,
    ):
        mover = handover(proxy, own, workers=1)
        _run(source, names, [("HSET", "K", "f", 1, "g", 2), ("HSET", "K2", "f", 1), ("SET", "K3", "x")])
        _run(source, names, [("HPEXPIRE", key, 1_500, "FIELDS", 1, "f") for key in ("K", "K2")])

        def outlive() -> None:
            wait_until(lambda: source.execute("EXISTS", names["K2"]) == 0, "the only field to expire")

        fate = _carry(mover, proxy, 1, outlive)
        seen = _served(source, target, names)
    assert fate in ("handed_over", "refused")  # refused: the source keeps it all
    assert seen.keys() == {"K", "K3"}
    assert seen["K"][2][0] == "[b'g', b'2']"


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_a_key_that_is_evicted_before_the_switch_does_not_keep_the_others(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    importing(own, 1)
    names = {name: f"{{{tags()[1]}}}:{name}" for name in _NAMES}
    with (
        connect(first) as source,
        connect(second) as target,
        Proxy(first.host, first.port) as proxy,
    ):
        mover = handover(proxy, own, workers=1)
        _run(
            source,
            names,
            [("SET", "K", "x", "EX", 10_000), ("SET", "K2", "y"), ("XADD", "K3", "*", "f", "v")],
        )

        def evict() -> None:
            source.execute("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            source.execute("CONFIG", "SET", "maxmemory", 1)
            with suppress(ServerError):
                source.execute("SET", names["K2"], "refused")
            source.execute("CONFIG", "SET", "maxmemory", 0)
            assert source.execute("EXISTS", names["K"]) == 0

        fate = _carry(mover, proxy, 1, evict)
        seen = _served(source, target, names)
    assert fate == "handed_over"
    assert seen.keys() == {"K2", "K3"}


@pytest.mark.parametrize("own", REDIS, indirect=True)
def test_groups_that_are_made_and_used_while_slots_move_are_all_there(own: LocalCluster) -> None:
    slots = MOVING[:40]
    streams = [f"{{{tags()[slot]}}}:stream" for slot in slots]
    with connect(own.primaries[0]) as connection:
        for stream in streams:
            connection.pipeline_checked([encode("XADD", stream, f"{i}-1", "f", "v") for i in range(1, 101)])
            connection.execute("XGROUP", "CREATE", stream, "workers", 0)
    made: list[tuple[str, str]] = []
    acknowledged: list[tuple[str, str]] = []
    moved = threading.Event()

    def work() -> None:
        with own.client() as client:
            number = 0
            while not moved.is_set():
                for stream in streams:
                    number += 1
                    client.xgroup_create(stream, f"group {number}", "0")
                    made.append((stream, f"group {number}"))
                    for _, entries in client.xreadgroup("workers", "one", {stream: ">"}, count=1):
                        for entry, _ in entries:
                            client.xack(stream, "workers", entry)
                            acknowledged.append((stream, entry.decode()))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        report = plan_away(own).apply()
    finally:
        moved.set()
        worker.join(30)
    assert report.ok, report
    assert made
    assert acknowledged
    assert_clean(own, len(MOVING) * 10 + len(streams))
    with own.client() as client:
        for stream in streams:
            groups = {group["name"].decode(): group for group in client.xinfo_groups(stream)}
            assert {name for key, name in made if key == stream} <= groups.keys()
            assert groups["workers"]["pending"] == 0
            last = [entry for key, entry in acknowledged if key == stream][-1]
            assert groups["workers"]["last-delivered-id"].decode() == last


def _carry(mover: _core.Handover, proxy: Proxy, slot: int, action: Callable[[], None]) -> str:
    """Hand a slot over, and run an action once all is copied; return what became of the slot."""
    outcome: list[Any] = []
    proxy.hold_at(_SWITCH)
    thread = threading.Thread(target=lambda: outcome.extend(mover.hand_over([slot])))
    thread.start()
    try:
        assert proxy.held.wait(30)
        action()
    finally:
        proxy.resume()
        thread.join(30)
    fate: str = outcome[0][1]
    return fate


def _run(connection: RawConnection, keys: dict[str, str], commands: Any) -> None:
    encoded = [
        encode(*(keys.get(word, word) if isinstance(word, str) else word for word in command))
        for command in commands
    ]
    connection.pipeline_checked(encoded)


def _served(source: RawConnection, target: RawConnection, keys: dict[str, str]) -> dict[str, Any]:
    """Return what clients see in the open slot: what the source has, else what the target has."""
    here, there = _values(source, keys), _values(target, keys)
    assert not here.keys() & there.keys(), "on both nodes"
    return {**here, **there}


def _values(connection: RawConnection, keys: dict[str, str]) -> dict[str, Any]:
    """Return type, rounded expiry and value of those keys that the node holds, whoever owns the slot."""
    found = {}
    for name, key in keys.items():
        kind, ttl = _ask(connection, ("TYPE", key), ("PTTL", key))
        if isinstance(kind, ServerError) or kind == b"none":
            continue  # gone, or elsewhere
        value = _ask(connection, *_READS[kind](key))
        if kind == b"set":
            value = [sorted(value[0])]
        found[name] = kind, ttl if ttl < 0 else round(ttl, -5), [str(each) for each in value]
    return found


_Words = tuple[str | int, ...]
_READS: dict[bytes, Callable[[str], list[_Words]]] = {
    b"string": lambda key: [("GET", key)],
    b"list": lambda key: [("LRANGE", key, 0, -1)],
    b"set": lambda key: [("SMEMBERS", key)],
    b"zset": lambda key: [("ZRANGE", key, 0, -1, "WITHSCORES")],
    b"hash": lambda key: [("HGETALL", key), ("HPEXPIRETIME", key, "FIELDS", 3, "f", "g", "h")],
    b"stream": lambda key: [("DUMP", key)],
    b"vectorset": lambda key: [(what, key, name) for what in ("VEMB", "VGETATTR") for name in "abc"],
}


def _ask(connection: RawConnection, *commands: _Words) -> list[Any]:
    asking = [encoded for command in commands for encoded in (encode("ASKING"), encode(*command))]
    return connection.pipeline(asking)[1::2]
