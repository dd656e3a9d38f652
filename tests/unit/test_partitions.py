"""How many partitions, and how far they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.jobs.partitions import (
    is_partition_count,
    plan_partitions,
    scanned_fraction,
    useful_partitions,
)


@pytest.mark.parametrize(
    ("round_trip", "keys", "count"),
    [
        (0.050, 5_000_000, 32),  # 500,000/s * 0.05 s / 1000 = 25
        (0.050, 20_000, 8),  # two pages each at least
        (0.050, 9_999, 1),  # not worth it
        (0.0001, 1_000_000, 16),  # large: at least 16
        (0.0001, 99_999, 1),
        (0.5, 5_000_000, 64),  # at most 64
        (0.032, 1_000_000, 16),
        (0.0321, 1_000_000, 32),
        (0.001, 0, 1),
    ],
)
def test_plan(round_trip: float, keys: int, count: int) -> None:
    assert plan_partitions(round_trip, keys) == count


@given(st.floats(0, 10), st.integers(0, 10**10))
def test_a_plan_is_a_power_of_two_within_bounds(round_trip: float, keys: int) -> None:
    count = plan_partitions(round_trip, keys)
    assert is_partition_count(count)
    assert count <= 64


@pytest.mark.parametrize(
    ("wanted", "keys", "count"),
    [(1024, 150_000, 1024), (1024, 65_535, 512), (1024, 100, 1), (4, 0, 1), (4, 256, 4), (16, 10**9, 16)],
)
def test_a_partition_has_some_keys(wanted: int, keys: int, count: int) -> None:
    assert useful_partitions(wanted, keys) == count


def test_powers_of_two() -> None:
    assert [number for number in range(-1, 1030) if is_partition_count(number)] == [2**k for k in range(11)]


def next_cursor(cursor: int, bits: int) -> int:
    """SCAN's own step through a table of 2^bits buckets (dict.c, dictScan)."""
    mask = 2**bits - 1
    value = cursor | ~mask & (2**64 - 1)
    value = int(f"{value:064b}"[::-1], 2)
    value = (value + 1) % 2**64
    return int(f"{value:064b}"[::-1], 2)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_the_fraction_follows_scan_through_a_partition(count: int) -> None:
    bits, per_partition = 10, 2**10 // count
    for index in range(count):
        cursor = index
        for step in range(per_partition):
            assert scanned_fraction(index, cursor, count) == pytest.approx(step / per_partition)
            cursor = next_cursor(cursor, bits)
        assert cursor == 0 or cursor & (count - 1) != index
