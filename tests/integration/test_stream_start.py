"""From where the proof of a cut-over reads: from earlier where the backlog surely reaches so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from slotferry.migrate.cutover.stream_watch import choose_start
from slotferry.testing.servers import LocalServer, wait_until
from tests.integration.cutting_over import connector
from tests.servers.kinds import embedded

BACKLOG = 1 << 20


@pytest.fixture
def primary() -> Iterator[LocalServer]:
    """A source with a backlog of its own, which a replica keeps open."""
    binary = embedded().binary
    with ExitStack() as stack:
        server = stack.enter_context(LocalServer(binary, config={"repl-backlog-size": str(BACKLOG)}))
        replica = stack.enter_context(stack.enter_context(LocalServer(binary)).client())
        replica.replicaof(server.host, server.port)
        wait_until(lambda: replica.info("replication")["master_link_status"] == "up", "no replication")
        yield server


def _fill(server: LocalServer, size: int) -> dict[str, int]:
    """Write until the backlog holds at least `size` bytes; return what INFO tells then."""
    with server.client() as client:
        while client.info("replication")["repl_backlog_histlen"] < size:
            client.set("filler", b"x" * 10_000)
        info: dict[str, int] = client.info("replication")
    return info


def _starts_at(server: LocalServer, offset: int) -> bool:
    """Whether it would begin at `offset`."""
    with server.client() as client:
        info = client.info("replication")
    earlier = (info["master_replid"], offset, 0)
    now = (info["master_replid"], info["master_repl_offset"], 0)
    chosen = choose_start(connector(server), earlier, now)
    assert chosen in (earlier, now)
    return chosen == earlier


def test_of_a_full_backlog_a_quarter_may_be_gone_before_it_is_read(primary: LocalServer) -> None:
    first = _fill(primary, BACKLOG)["repl_backlog_first_byte_offset"]
    assert not _starts_at(primary, first + 1)
    assert not _starts_at(primary, first + BACKLOG // 4 - 40_000)
    assert _starts_at(primary, first + BACKLOG // 4 + 40_000)


def test_of_a_backlog_with_room_nothing_is_dropped_soon(primary: LocalServer) -> None:
    first = _fill(primary, BACKLOG // 4)["repl_backlog_first_byte_offset"]
    assert _starts_at(primary, first + 1)


def test_another_history_is_not_gone_back_to(primary: LocalServer) -> None:
    info = _fill(primary, BACKLOG // 4)
    now = (str(info["master_replid"]), info["master_repl_offset"], 0)
    assert choose_start(connector(primary), ("f" * 40, 1, 0), now) == now
    assert choose_start(connector(primary), None, now) == now
