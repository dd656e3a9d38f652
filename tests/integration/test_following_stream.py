"""The stream: sources that ask for ACKs, refuse, are replicas or fail over; a target that stalls."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from functools import partial

import pytest

from slotferry._core import Access, EngineError, ErrorKind
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.integration.following import Following, Writer
from tests.servers.compare import assert_equal
from tests.servers.kinds import ServerKind, available

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_was_received_is_acknowledged_when_the_source_asks(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, Following(source, cluster) as following:
        following.wait_event("follow_attached")
        for number in range(20):
            client.set("a", number)
            # WAIT sends GETACK: without an answer to it, only the next second's ACK would end it.
            assert client.wait(1, 20_000) == 1


def test_the_stream_is_read_whatever_the_target_does(
    source: LocalServer, cluster: LocalCluster, stack: contextlib.ExitStack
) -> None:
    """While the target answers nothing, the source holds nothing back for us, and memory stays bounded."""
    limit, value = 8 << 20, b"x" * 10_000
    client = stack.enter_context(source.client())
    nodes = [stack.enter_context(node.client()) for node in cluster.primaries]
    following = stack.enter_context(Following(source, cluster, memory_limit=limit))
    following.wait_event("follow_attached")
    following.wait_copied()
    for node in nodes:
        node.client_pause(60_000, all=False)
    for number in range(4000):
        client.set(f"stalled:{number}", value)
    offset = client.info("replication")["master_repl_offset"]
    wait_until(lambda: following.progress.received >= offset, "the stream is not read")
    (replica,) = (line for line in client.client_list() if "S" in line["flags"])
    assert int(replica["omem"]) < 1 << 20
    snapshot = following.job.snapshot()
    assert snapshot.buffered_bytes <= limit
    assert following.progress.touched > 0
    for node in nodes:
        node.client_unpause()
    following.wait_clean()
    assert_equal(source, cluster)


@pytest.mark.parametrize("source", ["redis-6.2"], indirect=True)
def test_a_script_that_is_replicated_itself_and_names_no_key_is_a_doubt(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client, Following(source, cluster) as following:
        following.wait_event("follow_attached")
        client.config_set("lua-replicate-commands", "no")
        try:
            client.eval("redis.call('SET', 'hidden', 1)", 0)
            client.eval("redis.call('SET', KEYS[1], 1)", 1, "declared")
        finally:
            client.config_set("lua-replicate-commands", "yes")
        event = following.wait_event("comparison_wanted")
        assert "what EVAL changed is not known" in event.message
        assert following.job.begin_comparison() == (True, [])
        following.job.end_comparison([b"hidden"])
        following.wait_clean()
        assert_equal(source, cluster)


@pytest.mark.parametrize("name", SOURCES)
def test_a_replica_can_be_followed_and_so_can_the_primary_that_it_becomes(
    name: str, cluster: LocalCluster, stack: contextlib.ExitStack
) -> None:
    """A replica repeats no SELECT, and the history goes on under another id."""
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    binary = available()[name].binary
    primary, replica = (stack.enter_context(LocalServer(binary)) for _ in range(2))
    client, other = stack.enter_context(primary.client(db=2)), stack.enter_context(replica.client())
    other.replicaof(primary.host, primary.port)
    wait_until(lambda: other.info("replication")["master_link_status"] == "up", "no replication")
    client.set("a", 1)
    access = Access(database=2)
    with Following(replica, cluster, source_access=access) as following, cluster.client() as target:
        following.wait_event("follow_attached")
        following.wait_copied()
        # No SELECT comes before these: the primary's stream is in database 2 already.
        client.set("b", 2)
        client.incr("a")
        wait_until(lambda: target.mget_nonatomic("a", "b") == [b"2", b"2"], "it is not followed")
        following.wait_clean()
        checkpoint = following.job.checkpoint()
    assert checkpoint.follow is not None
    position, _ = checkpoint.follow
    client.set("late", 3)
    wait_until(lambda: replica_has(replica, "late"), "the replica lags")
    primary.kill()
    other.replicaof("no", "one")
    promoted = Following(replica, cluster, source_access=access, position=position, copies=False)
    with promoted as following, cluster.client() as target:
        following.wait_event("follow_attached")
        with replica.client(db=2) as writer:
            writer.set("c", 4)
        following.wait_clean()
        assert following.progress.mark[0] == other.info("replication")["master_replid"]
        assert target.mget_nonatomic("a", "b", "c", "late") == [b"2", b"2", b"4", b"3"]


def replica_has(replica: LocalServer, key: str) -> bool:
    with replica.client(db=2) as client:
        return bool(client.exists(key))


FOLLOWER = "+scan +dump +pexpiretime +pttl +time +info +command +ping +replconf +psync"
WRITER = "+restore +asking +unlink +pexpiretime +pttl +time +info +cluster|slots +cluster|info"


@pytest.mark.parametrize("source", ["redis-6.2", "redis-7.0", "valkey-9.1"], indirect=True)
def test_few_permissions_are_enough_and_a_missing_one_is_named(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        rights = [right for right in FOLLOWER.split() if right != "+pexpiretime" or knows(source, right[1:])]
        client.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "-@all", *rights)
        for node in cluster.primaries:
            with node.client() as admin:
                admin.execute_command("ACL", "SETUSER", "few", "on", ">pw", "~*", "-@all", *WRITER.split())
        access = Access(username="few", password="pw")
        try:
            with Following(source, cluster, source_access=access, target_access=access) as following:
                following.wait_event("follow_attached")
                client.mset({"a": 1, "b": 2})
                client.delete("a")
                following.wait_clean()
                assert_equal(source, cluster)
            for right in ("command", "ping", "replconf", "psync"):
                client.execute_command("ACL", "SETUSER", "few", f"-{right}")
                with Following(source, cluster, source_access=access) as following:
                    wait_until(partial(following.job.wait, 0.1), "the job goes on")
                    with pytest.raises(EngineError, match=rf"{right.upper()}: NOPERM.*\+psync") as error:
                        following.job.result()
                    assert error.value.args[0] == ErrorKind.SOURCE_REFUSED
                client.execute_command("ACL", "SETUSER", "few", f"+{right}")
        finally:
            client.execute_command("ACL", "DELUSER", "few")
            for node in cluster.primaries:
                with node.client() as admin:
                    admin.execute_command("ACL", "DELUSER", "few")


def knows(server: LocalServer, command: str) -> bool:
    with server.client() as client:
        return client.execute_command("COMMAND INFO", command)[0] is not None


def test_keys_whose_slots_are_not_served_are_copied_when_they_are_again(
    source: LocalServer, kind: ServerKind, stack: contextlib.ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary, config={"appendonly": "yes"}))
    client = stack.enter_context(source.client())
    following = stack.enter_context(Following(source, cluster, park_after=0.5))
    following.wait_event("follow_attached")
    following.wait_copied()
    with Writer(lambda number: client.set(f"key:{number % 500}", number)) as writer:
        writer.wait_more(1000)
        cluster.primaries[0].kill()
        following.wait_event("slot_parked")
        writer.wait_more(1000)
        mark = following.progress.mark[1]
        cluster.primaries[0].start()
        cluster.wait_until_healthy()
        following.wait_clean()
    following.wait_clean()
    assert following.progress.mark[1] > mark
    counts = following.job.snapshot().counts
    assert counts.pending == counts.failed == 0
    assert following.job.checkpoint().pending == []
    assert_equal(source, cluster)


def test_a_stream_that_breaks_at_the_same_place_each_time_ends_the_job(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        run_id = client.info("server")["run_id"]
    with BrokenSource(run_id) as broken:
        via = ("127.0.0.1", broken.port)
        with Following(source, cluster, via=via, copies=False, retry_for=1.0) as following:
            wait_until(partial(following.job.wait, 0.1), "the job goes on")
            with pytest.raises(EngineError, match=r"no RESP command.*nonsense") as error:
                following.job.result()
            assert error.value.args[0] == ErrorKind.SOURCE_LOST


class BrokenSource:
    """Attaches replicas, then sends them what is no command: no real server does that on demand."""

    def __init__(self, run_id: str) -> None:
        self._info = f"run_id:{run_id}\r\n".encode()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> BrokenSource:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        peers = []
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                peers.append(threading.Thread(target=self._serve, args=[peer]))
                peers[-1].start()
        for thread in peers:
            thread.join()

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while data := peer.recv(1 << 16):
                for name in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n", data):
                    peer.sendall(self._reply(name, data))

    def _reply(self, name: bytes, data: bytes) -> bytes:
        if name == b"COMMAND":
            return b"*1\r\n*6\r\n$3\r\nset\r\n:-3\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n"
        if name == b"INFO":
            return b"$%d\r\n%b\r\n" % (len(self._info), self._info)
        if name != b"PSYNC":
            return b"" if b"ACK" in data else b"+OK\r\n"
        if b"?" not in data:
            return b"+CONTINUE\r\nnonsense"
        history, end = b"1" * 40, b"2" * 40
        snapshot = b"$EOF:%b\r\n%b" % (end, end)
        return b"+FULLRESYNC %b 7\r\n%b*1\r\n$4\r\nPING\r\nnonsense" % (history, snapshot)
