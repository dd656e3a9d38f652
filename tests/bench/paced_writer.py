"""Writes random keys to a server at a steady rate: `python paced_writer.py HOST:PORT RATE SECONDS [options]`.

Invariant: commands are encoded before the clock starts, so that what is measured beside it is not slowed by
its making them. It prints one JSON line: how many writes were made, in how many seconds, and its CPU seconds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers.raw import RawConnection, chunked, encode

_POOL = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("rate", type=float, help="writes a second; 0: as fast as it goes")
    parser.add_argument("seconds", type=float, help="0: once each key, in their order")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--pipeline", type=int, default=16)
    parser.add_argument("--distribution", choices=["uniform", "zipf"], default="uniform")
    parser.add_argument("--value-size", type=int, default=100)
    given = parser.parse_args()
    host, port = given.address.rsplit(":", 1)
    value = b"x" * given.value_size
    with RawConnection(host, int(port)) as connection:
        if given.seconds:
            written, took = _write(connection, given, value)
        else:
            began = time.perf_counter()
            for commands in chunked(encode("SET", f"key:{n}", value) for n in range(given.keys)):
                connection.pipeline_checked(commands)
            written, took = given.keys, time.perf_counter() - began
    print(json.dumps({"writes": written, "seconds": took, "cpu": time.process_time()}))


def _write(connection: RawConnection, given: argparse.Namespace, value: bytes) -> tuple[int, float]:
    names = _names(given.distribution, given.keys)
    pool = [b"".join(encode("SET", next(names), value) for _ in range(given.pipeline)) for _ in range(_POOL)]
    began = time.perf_counter()
    written = 0
    for commands in itertools.cycle(pool):
        now = time.perf_counter() - began
        if now >= given.seconds:
            return written, now
        due = written / given.rate if given.rate else 0.0
        if due > now:
            time.sleep(due - now)
        connection.send(commands)
        left = given.pipeline * len(b"+OK\r\n")
        while left > 0:
            left -= len(connection.receive())
        if left:
            raise SystemExit("the server answers SET with something else than OK")
        written += given.pipeline
    raise AssertionError("a cycle has an end")


def _names(distribution: str, keys: int) -> Iterator[bytes]:
    chosen = random.Random(1)
    if distribution == "uniform":
        while True:
            yield b"key:%d" % chosen.randrange(keys)
    while True:  # the inverse of Zipf's law with exponent 1, by its continuous form
        yield b"key:%d" % int(keys ** chosen.random() - 1)


if __name__ == "__main__":
    main()
