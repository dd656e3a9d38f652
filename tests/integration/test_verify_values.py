"""Random values, written by the same commands to servers of two versions with other limits for encodings.

Invariant: what the commands make equal is equal for a verification, whatever the encoding; and what one more
command changes is different.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slotferry import Verification, VerifyOptions
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.kinds import available, embedded
from tests.servers.raw import RawConnection, connect, encode

_TINY = {
    "hash-max-ziplist-entries": "3",
    "list-max-ziplist-size": "2",
    "set-max-intset-entries": "2",
    "zset-max-ziplist-entries": "3",
    "stream-node-max-entries": "3",
}

Command = tuple[bytes | str | int, ...]

_text = st.one_of(
    st.binary(max_size=40),
    st.integers(-(2**63), 2**63 - 1).map(lambda number: str(number).encode()),
    st.sampled_from([b"", b"0", b"-0", b"007", b"1" * 30, b"ab" * 200, b"\x00\xff\r\n"]),
)
_score = st.floats(allow_nan=False).map(lambda score: repr(score).encode())
_ids = st.lists(st.integers(1, 50), min_size=1, max_size=12, unique=True).map(sorted)


def _stream(key: str, ids: list[int], delivered: int, acknowledged: int, deleted: int) -> list[Command]:
    commands: list[Command] = [("XADD", key, f"{i}-{i}", "f", i, "g", "x" * (i % 5)) for i in ids]
    commands.append(("XGROUP", "CREATE", key, "group", "0"))
    # XCLAIM with TIME and not XREADGROUP, which would note another time of delivery on each side.
    commands += [
        ("XCLAIM", key, "group", f"c{i % 2}", 0, f"{i}-{i}", "TIME", 1_000 + i, "RETRYCOUNT", i, "FORCE")
        for i in ids[:delivered]
    ]
    commands += [("XACK", key, "group", f"{i}-{i}") for i in ids[:acknowledged]]
    commands += [("XDEL", key, f"{i}-{i}") for i in ids[-deleted:] if deleted]
    return commands


def _values(key: str) -> st.SearchStrategy[list[Command]]:
    texts = st.lists(_text, min_size=1, max_size=12)
    pairs = st.lists(st.tuples(_text, _text), min_size=1, max_size=10)
    scored = st.lists(st.tuples(_score, _text), min_size=1, max_size=10)
    few = st.integers(0, 4)
    return st.one_of(
        _text.map(lambda value: [("SET", key, value)]),
        texts.map(lambda values: [("RPUSH", key, *values)]),
        texts.map(lambda values: [("SADD", key, *values)]),
        pairs.map(lambda values: [("HSET", key, *(part for pair in values for part in pair))]),
        scored.map(lambda values: [("ZADD", key, *(part for pair in values for part in pair))]),
        st.tuples(_ids, few, few, few).map(lambda given: _stream(key, *given)),
    )


_keyspace = st.integers(1, 25).flatmap(lambda keys: st.tuples(*(_values(f"key:{i}") for i in range(keys))))


@pytest.fixture(scope="module")
def sides() -> Iterator[tuple[LocalServer, LocalCluster]]:
    with ExitStack() as stack:
        old = available().get("redis-6.2") or embedded()
        source = stack.enter_context(LocalServer(old.binary, config=_TINY))
        yield source, stack.enter_context(LocalCluster(embedded().binary))


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(keyspace=_keyspace, quick=st.booleans(), small=st.booleans())
def test_equal_commands_make_equal_values(
    sides: tuple[LocalServer, LocalCluster],
    tmp_path_factory: pytest.TempPathFactory,
    keyspace: tuple[list[Command], ...],
    quick: bool,
    small: bool,
) -> None:
    source, cluster = sides
    nodes = _open(cluster)
    with connect(source) as connection:
        for each in (connection, *nodes):
            each.execute("FLUSHALL")
        for commands in keyspace:
            connection.pipeline_checked([encode(*command) for command in commands])
            _at_owner(cluster, nodes, commands)
        options: dict[str, Any] = {
            "journal": tmp_path_factory.mktemp("journal") / "journal.db",
            "recheck": 0,
            "quick": quick,
            **({"memory_limit": 1 << 20} if small else {}),
        }

        report = Verification(source.url, cluster.url, VerifyOptions(**options)).run()
        assert report.ok, report.examples

        # Longer than anything that is written above, so that a quick look sees it too.
        _at_owner(cluster, nodes, [("SET", "key:0", "x" * 1_000)])
        changed = Verification(source.url, cluster.url, VerifyOptions(**options)).run()
        assert sum(changed.differences.values()) == 1, changed.examples
    for node in nodes:
        node.close()


def _open(cluster: LocalCluster) -> list[RawConnection]:
    return [connect(node) for node in cluster.primaries]


def _at_owner(cluster: LocalCluster, nodes: list[RawConnection], commands: list[Command]) -> None:
    """Run commands on one key at the primary that owns it."""
    for node in nodes:
        replies = node.pipeline([encode(*command) for command in commands])
        if not any(str(reply).startswith("MOVED") for reply in replies):
            assert not any(isinstance(reply, Exception) for reply in replies), replies
            return
    raise AssertionError("no node owns the key")
