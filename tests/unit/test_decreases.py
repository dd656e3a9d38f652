"""Keys that a followed source has lost explain that the target has fewer; nothing else does."""

from __future__ import annotations

from slotferry.migrate.account.decreases import Decreases
from slotferry.topology.identity import Doubt


def _fewer(node: str, keys: int) -> Doubt:
    return Doubt("fewer", node, ((0, 5),), f"{node} has fewer", keys)


def test_deletions_explain_as_many_keys_once() -> None:
    decreases = Decreases()
    decreases.add(_fewer("a", 100), 10.0)
    decreases.add(_fewer("b", 50), 10.5)
    assert decreases.judge(150, 11.0) == []
    decreases.add(_fewer("a", 10), 12.0)
    assert decreases.judge(150, 13.0) == [_fewer("a", 10)]
    assert decreases.judge(150, 20.0) == []


def test_answers_that_are_still_on_their_way_are_waited_for() -> None:
    decreases = Decreases()
    decreases.add(_fewer("a", 100), 10.0)
    assert decreases.judge(0, 10.9) == []
    assert decreases.judge(100, 11.0) == []


def test_what_is_not_explained_is_told_of_each_node() -> None:
    decreases = Decreases()
    decreases.add(_fewer("a", 100), 10.0)
    decreases.add(_fewer("b", 50), 10.0)
    assert decreases.judge(149, 11.0) == [_fewer("a", 100), _fewer("b", 50)]
    # They have explained nothing, but are not to explain what comes later either.
    decreases.add(_fewer("a", 9), 12.0)
    assert decreases.judge(149, 13.0) == [_fewer("a", 9)]


def test_another_core_job_counts_from_nothing() -> None:
    decreases = Decreases()
    decreases.add(_fewer("a", 100), 10.0)
    assert decreases.judge(100, 11.0) == []
    decreases.add(_fewer("a", 20), 12.0)
    assert decreases.judge(20, 13.0) == [
        _fewer("a", 20)
    ]  # doubted once too often rather than once too seldom


def test_deletions_of_long_ago_explain_nothing() -> None:
    decreases = Decreases()
    for second in range(60):
        decreases.add(_fewer("a", 1), float(second))
        assert decreases.judge(1000 * (second + 1), second + 1.0) == []
        decreases.lapse(1000 * (second + 1), second + 1.0)
    decreases.add(_fewer("a", 5000), 61.0)
    assert decreases.judge(60_000, 62.0) == [_fewer("a", 5000)]


def test_deletions_lapse_where_nothing_decreases() -> None:
    decreases = Decreases()
    for second in range(60):
        assert decreases.judge(1000 * second, float(second)) == []
        decreases.lapse(1000 * second, float(second))
    decreases.add(_fewer("a", 5000), 60.0)
    assert decreases.judge(59_000, 61.0) == [_fewer("a", 5000)]


def test_deletions_around_the_last_looks_explain_still() -> None:
    decreases = Decreases()
    for tick in range(20):
        decreases.lapse(100 * tick, tick / 2)
    # Done at the target since the look before, though they were counted at once.
    decreases.add(_fewer("a", 300), 10.0)
    assert decreases.judge(1900, 11.0) == []


def test_another_core_job_explains_what_it_has_deleted() -> None:
    decreases = Decreases()
    for second in range(10):
        decreases.lapse(1000 * second, float(second))
    decreases.lapse(0, 10.0)
    decreases.add(_fewer("a", 50), 10.5)
    assert decreases.judge(50, 11.5) == []
