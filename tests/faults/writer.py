"""A client that goes on changing, deleting and expiring keys of the source while a migration runs.

Invariant: a key is in `touched` before the first command about it is sent, so whatever is not there was left
alone.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable, Iterator

from slotferry.testing.servers import LocalServer
from tests.servers.raw import RawConnection, connect, encode

_PACE = 0.01
_AT_ONCE = 10


class Writer:
    """Writes to whatever `server` returns, from `with` to its end; outages are waited out."""

    def __init__(self, server: Callable[[], LocalServer], rng: random.Random) -> None:
        self.touched: set[bytes] = set()
        self._server = server
        self._rng = random.Random(rng.random())
        self._names = self._sample()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._write, name="writer", daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End; from then on nothing changes."""
        self._stop.set()
        self._thread.join()

    def _sample(self) -> list[bytes]:
        with connect(self._server()) as connection:
            _, names = connection.execute("SCAN", self._rng.getrandbits(8), "COUNT", 1_000)
        return [name for name in names if len(name) < 100]

    def _write(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Exception), self._connection() as connection:
                while not self._stop.wait(_PACE):
                    connection.pipeline(list(self._commands()))
            self._stop.wait(0.2)  # the source is away: come back later

    def _connection(self) -> RawConnection:
        server = self._server()
        return RawConnection(server.host, server.port, timeout=5)

    def _commands(self) -> Iterator[bytes]:
        for _ in range(_AT_ONCE):
            draw = self._rng.randrange(10)
            name = self._rng.choice(self._names) if draw else b"new:%d" % self._rng.randrange(10_000)
            self.touched.add(name)
            if draw < 6:
                yield encode("SET", name, self._rng.randbytes(self._rng.randrange(100)))
            elif draw < 8:
                yield encode("PEXPIRE", name, self._rng.randrange(1, 3_000))
            else:
                yield encode("DEL", name)
