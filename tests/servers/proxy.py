"""A loopback TCP proxy that delays, cuts, stalls and counts what passes through.

Invariant: a delay costs latency, never throughput: bytes wait in a queue with the time they are due, as on a
long wire. What a proxy holds is bounded, so that a peer that stops reading is felt at the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.servers.raw import connect

_WIRE_BYTES = 64 << 20
_BUFFER_BYTES = 1 << 20


class Proxy:
    """Forwards connections to `host:port`; `delay` is in seconds, added each way. A context manager.

    With `delayed_command`, only the connections are delayed over which that command has gone, from then on.

    It runs in a thread with an event loop of its own; a method may be called from any thread and has
    taken effect when it returns.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int, *, delay: float = 0.0) -> None:
        self.server = (host, port)
        self.delay = delay
        self.delayed_command = b""
        self.port = 0
        self.connections = 0
        self.to_server = _Meter()
        self.to_client = _Meter()
        self.stalled = False
        self.held = threading.Event()
        self.marker: bytes | None = None
        self.loop = asyncio.new_event_loop()
        self._wires: set[_Wire] = set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._run(self._all_closed())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    def listen(self) -> None:
        """Accept connections, on a free port the first time and on that one again after `refuse`."""
        self._run(self._listen())

    def refuse(self) -> None:
        """Cut every connection and refuse new ones until `listen`."""
        self._call(self._refuse)

    def cut(self) -> None:
        """Close every connection now; new ones are accepted."""
        self._call(self._cut)

    def cut_after(self, *, commands: int | None = None, replies: int | None = None, times: int = 1) -> None:
        """Close every connection once so many more bytes of commands, or of replies, have been passed on.

        The last piece is passed on up to that byte, so the cut falls in the middle of whatever was there.
        With `times`, it happens again after as many bytes more.
        """

        def arm() -> None:
            self.to_server.cut_after(commands, times)
            self.to_client.cut_after(replies, times)

        self._call(arm)

    def stall(self) -> None:
        """Keep every connection open and pass nothing on, in either direction, until `resume`."""
        self._call(lambda: self._set_stalled(True))

    def hold_at(self, marker: bytes) -> None:
        """`stall` once a piece for the server holds `marker`, before it is passed on; `held` tells of it."""
        self.held.clear()
        self._call(lambda: setattr(self, "marker", marker))

    def resume(self, *, hold_at: bytes | None = None) -> None:
        """Go on after `stall`, up to the next piece that holds `hold_at`."""
        self.held.clear()

        def go_on() -> None:
            self._set_stalled(False)
            self.marker = hold_at

        self._call(go_on)

    def forward_to(self, host: str, port: int) -> None:
        """Cut every connection and lead new ones to another server, as a failover behind one name does."""

        def change() -> None:
            self.server = (host, port)
            self._cut()

        self._call(change)

    def _call(self, action: Callable[[], None]) -> None:
        async def run() -> None:
            action()

        self._run(run())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = await self.loop.create_server(self._accept, self.host, self.port)
            self.port = self._listener.sockets[0].getsockname()[1]

    def _accept(self) -> _Wire:
        self.connections += 1
        client, server = _Wire(self, self.to_server), _Wire(self, self.to_client)
        client.peer, server.peer = server, client
        self._wires |= {client, server}
        self.loop.create_task(self._connect(server))
        return client

    async def _connect(self, wire: _Wire) -> None:
        try:
            await self.loop.create_connection(lambda: wire, *self.server)
        except OSError:
            wire.peer.abort()
            self._wires.discard(wire)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._cut()

    def _cut(self) -> None:
        for wire in list(self._wires):
            wire.abort()

    def _set_stalled(self, stalled: bool) -> None:
        self.stalled = stalled
        for wire in list(self._wires):
            wire.forward_due()
            wire.peer.forward_due()  # it may have lost its own end meanwhile, and that has to be told

    async def _all_closed(self) -> None:
        while self._wires:
            await asyncio.sleep(0)

    def closed(self, wire: _Wire) -> None:
        self._wires.discard(wire)

    def holds(self, data: bytes | None) -> bool:
        """Whether this piece is the one to be held; stalls then."""
        if data is None or self.marker is None or self.marker not in data:
            return False
        self.marker = None
        self.stalled = True
        self.held.set()
        return True

    def cut_now(self) -> None:
        self._cut()


class _Meter:
    """Counts the bytes of one direction and says where a cut falls."""

    def __init__(self) -> None:
        self.bytes = 0
        self.cuts = 0
        self._step = 0
        self._cuts_left = 0
        self._cut_at = 0

    def cut_after(self, count: int | None, times: int) -> None:
        self._step = count or 0
        self._cuts_left = 0 if count is None else times
        self._cut_at = self.bytes + self._step

    def take(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of `data` is to be passed on, and whether the connection ends there."""
        cut = self._cuts_left > 0 and self.bytes + len(data) >= self._cut_at
        if cut:
            data = data[: self._cut_at - self.bytes]
            self.cuts += 1
            self._cuts_left -= 1
            self._cut_at += self._step
        self.bytes += len(data)
        return data, cut


class _Wire(asyncio.Protocol):
    """What one end of a connection sends, on its way to `peer`; None in the queue is the end of it."""

    peer: _Wire

    def __init__(self, proxy: Proxy, meter: _Meter) -> None:
        self._proxy = proxy
        self._meter = meter
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes | None]] = deque()
        self._held = 0
        self._delayed = False
        self._blocked = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        self.peer.forward_due()

    def connection_lost(self, error: Exception | None) -> None:
        self._enqueue(None)
        self._proxy.closed(self)

    def data_received(self, data: bytes) -> None:
        self._held += len(data)
        if self._proxy.delayed_command and self._proxy.delayed_command in data:
            self._delayed = self.peer._delayed = True
        if self._held > _WIRE_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._enqueue(data)

    def pause_writing(self) -> None:
        self.peer._blocked = True

    def resume_writing(self) -> None:
        self.peer._blocked = False
        self.peer.forward_due()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def forward_due(self) -> None:
        """Pass on what is due, and come back when the next piece is."""
        target = self.peer._transport
        now = self._proxy.loop.time()
        while self._queue and target and not self._blocked and not self._proxy.stalled:
            due, data = self._queue[0]
            if due > now:
                self._wake_at(due)
                return
            if self._meter is self._proxy.to_server and self._proxy.holds(data):
                return
            self._queue.popleft()
            self._pass_on(data, target)

    def _enqueue(self, data: bytes | None) -> None:
        is_delayed = self._delayed or not self._proxy.delayed_command
        due = self._proxy.loop.time() + (self._proxy.delay if is_delayed else 0.0)
        self._queue.append((due, data))
        self.forward_due()

    def _pass_on(self, data: bytes | None, target: asyncio.Transport) -> None:
        if data is None or target.is_closing():
            target.close()
            return
        self._held -= len(data)
        if self._held <= _WIRE_BYTES and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        data, cut = self._meter.take(data)
        target.write(data)
        if cut:
            target.close()
            self._proxy.cut_now()

    def _wake_at(self, due: float) -> None:
        if self._timer is None:
            self._timer = self._proxy.loop.call_at(due, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self.forward_due()


def put_behind_proxies(
    cluster: LocalCluster, stack: contextlib.ExitStack, *, delay: float = 0.0
) -> list[Proxy]:
    """Put a proxy before each node and let the nodes announce the proxies' ports; return the proxies.

    From then on every client that believes CLUSTER SLOTS goes through them; the nodes' bus does not.
    """
    proxies = []
    for node in cluster.nodes:
        proxies.append(stack.enter_context(Proxy(node.host, node.port, delay=delay)))
        with node.client() as client:
            client.config_set("cluster-announce-port", proxies[-1].port)
    announced = {proxy.port for proxy in proxies[: len(cluster.primaries)]}
    wait_until(
        lambda: all(_announced_ports(node) == announced for node in cluster.nodes),
        "the cluster's nodes to announce the proxies",
    )
    return proxies


def _announced_ports(node: LocalServer) -> set[int]:
    with connect(node) as connection:
        return {primary[1] for _, _, primary, *_ in connection.execute("CLUSTER", "SLOTS")}
