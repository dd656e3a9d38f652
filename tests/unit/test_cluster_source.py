"""A source that is a cluster: which slots are in doubt, who reads what, and how several jobs are one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from slotferry._core import EngineError, ErrorKind, key_slots
from slotferry.errors import JournalError
from slotferry.jobs.cluster.source import REREAD, ClusterSource
from slotferry.jobs.job_group import JobGroup, Rates
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Setup
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.topology.cluster_source.look import ClusterLook, NodeLook, in_doubt

_CUTS = (0, 5_000, 10_000, 16_384)


def node(number: int, slots: Iterable[int] | None = None, **changes: Any) -> NodeLook:
    owned = frozenset(range(_CUTS[number], _CUTS[number + 1]) if slots is None else slots)
    made = NodeLook(
        f"id{number}", f"run{number}", Address("h", 7000 + number), number + 1, owned, frozenset()
    )
    return replace(made, **changes)


def look(*nodes: NodeLook, at: float = 10.0) -> ClusterLook:
    return ClusterLook(nodes or tuple(node(number) for number in range(3)), begun=at, ended=at + 0.1)


def source(seen: ClusterLook | None = None) -> ClusterSource:
    return ClusterSource(
        Connector(Endpoint.parse("redis+cluster://h:7000", "source"), "source"), seen or look()
    )


def test_nothing_is_in_doubt_where_nothing_has_changed() -> None:
    assert in_doubt(look(), look()) == set()


def test_a_slot_that_moved_is_in_doubt_and_no_other() -> None:
    after = look(node(0, range(1, 5_000)), node(1, [0, *range(5_000, 10_000)], epoch=9), node(2))
    assert in_doubt(look(), after) == {0}


def test_an_open_slot_is_in_doubt_also_once_it_is_closed() -> None:
    open_now = look(node(0, open=frozenset({7})), node(1), node(2))
    assert in_doubt(look(), open_now) == in_doubt(open_now, look()) == {7}


def test_a_gain_explains_an_epoch_only_between_looks_that_are_close() -> None:
    more = (node(0, range(5_001), epoch=9), node(1, range(5_001, 10_000)), node(2))
    assert in_doubt(look(), look(*more, at=11.0)) == {5_000}
    assert in_doubt(look(), look(*more, at=60.0)) == set(range(5_001))
    of_the_journal = replace(look(), begun=None, ended=None)
    assert in_doubt(of_the_journal, look(*more)) == set(range(5_001))


def test_a_slot_that_came_back_between_two_looks_is_in_doubt() -> None:
    assert in_doubt(look(), look(node(0, epoch=9), node(1), node(2))) == set(range(5_000))


@pytest.mark.parametrize("changed", [{"run_id": "other"}, {"node_id": "replica"}])
def test_all_slots_of_another_process_are_in_doubt(changed: dict[str, Any]) -> None:
    assert in_doubt(look(), look(node(0), node(1, None, **changed), node(2))) == set(range(5_000, 10_000))


def test_of_two_owners_the_newer_epoch_counts_and_a_slot_of_nobody_is_missing() -> None:
    seen = look(node(0, [1, 2]), node(1, [2, 3]))
    assert seen.owned(seen.nodes[0]) == [1]
    assert seen.missing[:2] == [0, 4]


def test_each_node_gets_its_partitions_and_the_keys_of_its_slots() -> None:
    cluster = source()
    works = cluster.split([(0, 0), (1, 640), (5, 5)], 2, [b"foo", b"bar", b"hello"])
    found = {work.node.node_id: (work.first, work.partitions, work.keys) for work in works}
    # Slots: hello 866, bar 5061, foo 12182.
    assert found == {
        "id0": (0, [(0, 0), (1, 640)], [b"hello"]),
        "id2": (4, [(1, 1)], [b"foo"]),
        "id1": (0, [], [b"bar"]),
    }


def test_slots_are_read_again_from_their_owners_under_partitions_that_no_cursor_is_kept_of() -> None:
    works = source().split([], 4, [], reread=frozenset({3, 4, 16_383}))
    assert [(work.node.node_id, work.only) for work in works] == [
        ("id0", [(3, 4)]),
        ("id2", [(16_383, 16_383)]),
    ]
    assert all(work.first >= REREAD and len(work.partitions) == 4 for work in works)


def test_a_doubt_that_comes_while_slots_are_read_again_stays() -> None:
    cluster = source(look(node(0, open=frozenset({1, 2})), node(1), node(2)))
    assert cluster.begin_reading() == frozenset()  # they are still on their way
    cluster.note(look())
    slots = cluster.begin_reading()
    cluster.note(look(node(0, range(2, 5_000)), node(1, [0, 1, *range(5_000, 10_000)], epoch=9), node(2)))
    assert cluster.end_reading(slots) == 1
    assert cluster.doubts == {0, 1}


def test_what_a_killed_run_has_seen_counts_and_a_node_that_is_gone_is_void(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create("job", Setup("s", "t", None, None, "error"), 6, "cluster")
        first = source()
        assert not first.begin(journal, "job")
        first.note(look(node(0, range(1, 5_000)), node(1, [0, *range(5_000, 10_000)], epoch=9), node(2)))

        again = source(
            look(
                node(0, range(1, 5_000)), node(1, [0, *range(5_000, 10_000)], epoch=9), node(2, run_id="new")
            )
        )
        assert again.begin(journal, "job")

        assert again.doubts == {0, *range(10_000, 16_384)}
        assert [mark.done for mark in journal.marks("job")] == [False] * 4 + [True] * 2
        assert [work.first for work in again.split([(0, 0), (4, 4)], 2, [])] == [0]


def test_partitions_of_nodes_that_the_journal_does_not_name_are_refused(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        journal.create("job", Setup("s", "t", None, None, "error"), 4, "cluster")
        with pytest.raises(JournalError, match="which nodes"):
            source().begin(journal, "job")


class _Job:
    """An engine job that ends when it is told to."""

    def __init__(self) -> None:
        self.rates: list[int | None] = []
        self.ended = False
        self.cancelled = False
        self.error: EngineError | None = None

    def wait(self, _: float) -> bool:
        return self.ended

    def result(self) -> None:
        if self.error is not None:
            raise self.error

    def cancel(self, *, immediately: bool) -> None:
        self.cancelled = True

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        self.rates.append(max_keys_per_second)


def test_one_rate_is_shared_and_a_job_that_has_ended_leaves_its_part() -> None:
    jobs = [_Job() for _ in range(3)]
    group = JobGroup([(cast(Any, job), 0) for job in jobs], Rates(900, None))
    jobs[0].ended = True
    assert not group.wait(0.0)
    assert [job.rates for job in jobs] == [[], [450], [450]]
    group.set_rate(max_keys_per_second=100, max_bytes_per_second=None)
    jobs[1].ended = jobs[2].ended = True
    assert group.wait(0.0)
    assert jobs[2].rates == [450, 50]
    group.result()


def test_what_ends_one_job_lets_the_others_finish_and_is_told() -> None:
    jobs = [_Job(), _Job()]
    group = JobGroup([(cast(Any, job), 0) for job in jobs], Rates(None, None))
    jobs[0].ended, jobs[0].error = True, EngineError(ErrorKind.SOURCE_LOST, "gone")
    assert not group.wait(0.0)
    assert jobs[1].cancelled
    jobs[1].ended, jobs[1].error = True, EngineError(ErrorKind.INTERRUPTED, "cancelled")
    assert group.wait(0.0)
    with pytest.raises(EngineError, match="gone"):
        group.result()


def test_a_position_in_a_slot_in_doubt_is_not_gone_on_with() -> None:
    reading = source()
    key = b"{x}"
    (slot,) = key_slots([key])
    (before,) = (part for part in reading.split([], 1, [key]) if slot in part.node.slots)
    assert before.positions_of([(key, "place")]) == [(key, "place")]
    reading.doubts.add(slot)
    (after,) = (part for part in reading.split([], 1, [key]) if slot in part.node.slots)
    assert after.positions_of([(key, "place")]) == []
