"""How many partitions a scan is split into, and how far a partition has come.

Invariant: the number is a power of two, as partitioned SCAN needs it (docs/protocol.md, SCAN), and it is part
of every cursor: chosen once, at the start of a job.
"""

from __future__ import annotations

MAX_PARTITIONS = 1024
PAGE_KEYS = 1000
"""Keys asked for with one SCAN."""

_WANTED_KEYS_PER_SECOND = 500_000  # more than servers on one machine have been seen to deliver
_MAX_PLANNED = 64
_LARGE, _SMALL = 100_000, 10_000
_LARGE_COUNT = 16
_LEAST_KEYS = 64  # of a partition: the last page of one brings some keys of the next


def plan_partitions(round_trip: float, keys: int) -> int:
    """Return the number of partitions for a source `round_trip` seconds away that holds `keys` keys.

    A partition delivers at most one page of `PAGE_KEYS` per round trip, so P partitions deliver at most
    P * PAGE_KEYS / round_trip keys/s: P is the smallest power of two that makes this 500,000. At 50 ms:
    500,000 * 0.05 / 1000 = 25, so 32. A large source gets at least 16, however near it is: on a machine that
    is busy with servers the engine waits for a core for longer than the source needs for four pages, and a
    source that runs dry meanwhile costs a tenth of the rate. Each has two pages or more; 64 are the most.
    """
    if keys < _SMALL:
        return 1
    pages = keys // PAGE_KEYS
    needed = max(_WANTED_KEYS_PER_SECOND * round_trip / PAGE_KEYS, _LARGE_COUNT if keys >= _LARGE else 1)
    count = 1
    while count < needed and count * 2 <= min(pages // 2, _MAX_PLANNED):
        count *= 2
    return count


def useful_partitions(wanted: int, keys: int) -> int:
    """Return `wanted`, or the largest power of two below with which a partition has 64 keys or more."""
    count = wanted
    while count > 1 and keys < count * _LEAST_KEYS:
        count //= 2
    return count


def is_partition_count(number: int) -> bool:
    """Whether `number` is a power of two from 1 to `MAX_PARTITIONS`."""
    return 1 <= number <= MAX_PARTITIONS and number & (number - 1) == 0


def scanned_fraction(index: int, cursor: int, count: int) -> float:
    """Return which part of partition `index` of `count` lies before `cursor`, from 0.0 to 1.0.

    SCAN counts in reverse-binary order, so the cursor's bits read backwards, as a fraction of 2^64, are the
    part of the whole keyspace that lies before it, whatever the size of the hash table. A partition fixes
    the lowest bits of its cursors, the highest of the fraction; the rest is how far it has come.
    """
    reversed_bits = int(f"{cursor:064b}"[::-1], 2)
    start = int(f"{index:064b}"[::-1], 2)
    return max(0.0, min(1.0, (reversed_bits - start) * count / 2**64))
