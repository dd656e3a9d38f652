"""A shop: the data set and the application that the check is for, as they are before a migration.

Invariant: the application never writes a key that `fill_shop` has not made but its sessions and counters, and
each of its round of calls is the same for the same number.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from slotferry.testing.servers import LocalServer
from tests.servers.raw import connect, encode

CHECKOUT = "local n = redis.call('LLEN', KEYS[1]) redis.call('HSET', KEYS[2], 'bought', n) return n"
"""A script over two keys: the cart and the profile of one user."""


def fill_shop(server: LocalServer, users: int = 300) -> int:
    """Write the data of so many users; return how many keys there are."""
    commands = []
    for i in range(users):
        commands += [
            encode("SET", f"user:{i}", f"name {i} " + "x" * 400),
            encode("HSET", f"user:{i}:profile", "mail", f"user{i}@example.org", "visits", i),
            encode("RPUSH", f"user:{i}:cart", "apple", "pear", i),
            encode("HSET", f"order:{i}", "total", i * 7, "state", "new"),
            encode("SET", f"stock:{i}", 100),
            encode("SET", f"session:{i:08x}-0000-4000-8000-0242ac120002", "s" * 40, "EX", 86_400),
        ]
    with connect(server) as connection:
        connection.pipeline_checked(commands)
        return int(connection.execute("DBSIZE"))


def one_round(number: int, users: int = 300) -> list[bytes]:
    """Return what the application does for one visit: MGET over users, a script over two keys, a MULTI."""
    i = number % users
    return [
        encode("MGET", *(f"user:{(i * step) % users}" for step in (1, 3, 5))),
        encode("EVAL", CHECKOUT, 2, f"user:{i}:cart", f"user:{i}:profile"),
        encode("MULTI"),
        encode("HSET", f"order:{i}", "state", "paid"),
        encode("DECR", f"stock:{i}"),
        encode("EXEC"),
        encode("BLPOP", "queue:mail", "queue:parcel", "0.01"),
        encode("GET", f"session:{i:08x}-0000-4000-8000-0242ac120002"),
        encode("PUBLISH", "visits", i),
    ]


@contextmanager
def open_shop(server: LocalServer, users: int = 300) -> Iterator[None]:
    """Let the application serve visitors, one after the other, until the end of the context."""
    closing = threading.Event()

    def serve() -> None:
        number = 0
        with connect(server) as connection:
            while not closing.wait(0.002):
                connection.pipeline_checked(one_round(number, users))
                number += 1

    thread = threading.Thread(target=serve, name="shop", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closing.set()
        thread.join()
