"""Peers that no real server can be made to be on demand: one that speaks HTTP, one that never answers.

Invariant: they only listen on loopback and are gone when their context ends.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

_HTTP = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@contextlib.contextmanager
def http_peer() -> Iterator[int]:
    """Yield the port of a peer that answers whatever it is sent with an HTTP error."""
    with _peer(_HTTP) as port:
        yield port


@contextlib.contextmanager
def saying_peer(answer: bytes) -> Iterator[int]:
    """Yield the port of a peer that answers whatever it is sent first with `answer`, and hangs up."""
    with _peer(answer) as port:
        yield port


@contextlib.contextmanager
def mute_peer() -> Iterator[int]:
    """Yield the port of a peer that accepts connections, reads nothing and says nothing."""
    with _peer(None) as port:
        yield port


@contextlib.contextmanager
def _peer(answer: bytes | None) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):  # the listener was closed: the end
            while True:
                connection, _ = listener.accept()
                accepted.append(connection)
                if answer is not None:
                    threading.Thread(target=_answer, args=(connection, answer), daemon=True).start()

    thread = threading.Thread(target=serve, name="fake peer", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Only a shutdown wakes the thread in accept; closing the descriptor alone would not.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for connection in accepted:
            connection.close()


def _answer(connection: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(OSError):  # the client hung up first
        if connection.recv(1 << 16):
            connection.sendall(answer)
        connection.shutdown(socket.SHUT_RDWR)
