"""What a careful engineer writes by hand: SCAN, DUMP + PTTL and RESTORE through pipelines of redis-py.

Invariant: this is the benchmark's yardstick, so it does what such a script does and no more: no resume, no
redirects, no check. Run as `python redis_py_copy.py SOURCE SEED`, both HOST:PORT; prints the seconds it took.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import redis
from redis.crc import key_slot

_PAGE = 1000


def copy(source: Any, primaries: list[Any], owner_by_slot: list[int]) -> None:
    """Copy every key of `source`; `owner_by_slot[slot]` is an index into `primaries`."""
    cursor: int = 0
    while True:
        cursor, keys = source.scan(cursor, count=_PAGE)
        reading: Any = source.pipeline(transaction=False)
        for key in keys:
            reading.dump(key)
            reading.pttl(key)
        replies = reading.execute()
        pipelines: list[Any] = [primary.pipeline(transaction=False) for primary in primaries]
        for key, payload, ttl in zip(keys, replies[::2], replies[1::2], strict=True):
            if payload is not None:
                pipelines[owner_by_slot[key_slot(key)]].restore(key, max(ttl, 0), payload, replace=True)
        for pipeline in pipelines:
            pipeline.execute()
        if cursor == 0:
            return


def main() -> None:
    source, seed = (_client(address) for address in sys.argv[1:])
    primaries: list[Any] = []
    owner_by_slot = [0] * 16384
    rows: Any = seed.execute_command("CLUSTER", "SLOTS")
    for index, (first, last, (host, port, *_), *_) in enumerate(rows):
        primaries.append(_client(f"{host.decode()}:{port}"))
        owner_by_slot[first : last + 1] = [index] * (last + 1 - first)
    began = time.monotonic()
    copy(source, primaries, owner_by_slot)
    print(time.monotonic() - began)


def _client(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return redis.Redis(host=host, port=int(port), protocol=2, socket_timeout=120)


if __name__ == "__main__":
    main()
