"""Every command that writes, by the source's own COMMAND table, while the source is followed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.following import Following
from tests.servers.changes import CHANGES, OTHERWISE, PREPARED, Change, changes, writing_commands
from tests.servers.compare import assert_equal
from tests.servers.raw import RawConnection, connect, encode

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "redis-8.6", "valkey-8.1", "valkey-9.1")
_NAMES = ("K", "K2", "K3")
_FLUSHES = {"FLUSHALL", "FLUSHDB"}
# No replica hears of these (seen on each server): the delivery times of what is pending already are the
# primary's own, and Redis 8 does not replicate another vector for an element that is there.
_UNHEARD = (
    ("XREADGROUP", "GROUP", "g", "alice", "STREAMS", "K", "0"),
    ("VADD", "K", "VALUES", "2", "1", "1", "a"),
)


@pytest.mark.parametrize(("source", "cluster"), [(name, name) for name in SOURCES], indirect=True)
def test_what_any_command_changes_reaches_the_target(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        every = _changes(connection)
        for number, change in enumerate(every):
            _run(connection, number, [command.split() for command in PREPARED[change.prepared]])
        with Following(source, cluster) as following:
            following.wait_event("follow_attached")
            following.wait_copied()
            following.wait_clean()
            assert_equal(source, cluster)
            for number, change in enumerate(every):
                _run(connection, number, change.commands)
            following.wait_clean()
            assert_equal(source, cluster)
            # Each named its keys: nothing had to be found by comparing both sides.
            assert not following.progress.in_doubt
            assert following.progress.comparisons == 0


@pytest.mark.parametrize(("source", "cluster"), [(name, name) for name in SOURCES], indirect=True)
def test_changes_of_keys_that_are_on_their_way_reach_the_target(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with connect(source) as connection, Following(source, cluster) as following:
        following.wait_event("follow_attached")
        every = _changes(connection)
        for number, change in enumerate(every):
            _run(connection, number, [command.split() for command in PREPARED[change.prepared]])
            _run(connection, number, change.commands)
        following.wait_clean()
        assert_equal(source, cluster)
        assert not following.progress.in_doubt


def _changes(connection: RawConnection) -> list[Change]:
    known = writing_commands(connection)
    assert known - CHANGES.keys() - OTHERWISE.keys() == set()
    connection.execute("SET", "another", "value")
    payload = connection.execute("DUMP", "another")
    return list(_replicated(changes(known, payload)))


def _replicated(every: Iterator[Change]) -> Iterator[Change]:
    """Leave out what a replica does not hear of, and what empties the database: `on_flush` is for that."""
    for change in every:
        if not any(command[0] in _FLUSHES or command in _UNHEARD for command in change.commands):
            yield change


def _run(connection: RawConnection, number: int, commands: object) -> None:
    assert isinstance(commands, (list, tuple))
    keys = {name: f"{number}:{name}" for name in _NAMES}
    encoded = [
        encode(*(keys.get(word, word) if isinstance(word, str) else word for word in command))
        for command in commands
    ]
    connection.pipeline_checked(encoded)
