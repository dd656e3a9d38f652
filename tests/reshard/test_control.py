"""A reshard from Python that another thread pauses, lets go on, limits and ends."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from slotferry.errors import UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.controls import Controls, Rates
from slotferry.model.notices import Event, Notice
from slotferry.reshard import Control, Limits
from slotferry.reshard.events import ReshardProgress
from slotferry.testing.servers import LocalCluster, wait_until
from tests.reshard.client import open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean, plan_away


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def gone(cluster: LocalCluster) -> int:
    owned = slots_owned(cluster)
    return sum(owned[slot] is not cluster.primaries[0] for slot in MOVING)


def test_what_is_asked_before_a_run_and_during_it() -> None:
    control, controls = Control(), Controls(CancelRequest(), Rates(), counts_keys=False)
    control.pause()
    control.set_rate(max_bytes_per_second=5)
    with pytest.raises(UsageError, match="max_bytes_per_second is 0"):
        control.set_rate(max_bytes_per_second=0)
    control.attach(controls)
    assert (controls.paused, controls.rates.max_bytes_per_second) == (True, 5)
    control.resume()
    control.set_rate(max_bytes_per_second=None)
    assert (controls.paused, controls.rates.max_bytes_per_second) == (False, None)
    with pytest.raises(UsageError, match="steers one run"):
        control.attach(controls)


@pytest.mark.parametrize("own", ["redis-7.0", "valkey-8.1", "valkey-9.1"], indirect=True)
def test_another_thread_steers_a_reshard(own: LocalCluster, pool: ThreadPoolExecutor) -> None:
    plan, control, events = plan_away(own), Control(), list[Event]()
    control.pause()
    limits = Limits(max_bytes_per_second=1_000_000)
    run = pool.submit(plan.apply, control=control, limits=limits, on_event=events.append)
    try:
        wait_until(
            lambda: any(isinstance(event, ReshardProgress) and event.state == "paused" for event in events),
            "the run to pause",
            timeout=60,
        )
        assert gone(own) == 0
        assert open_slots(own) == []
        control.set_rate(max_bytes_per_second=40_000)
        control.resume()
        wait_until(lambda: gone(own) > 0, "the first slots to move", timeout=60)
    finally:
        control.cancel()
    report = run.result(60)

    assert (report.status, report.exit_code) == ("interrupted", 130)
    assert 0 < report.moved < 400
    assert open_slots(own) == []
    told = [event.message for event in events if isinstance(event, Notice)]
    assert {text for text in told if "operator" in text} == {
        "paused by the operator",
        "the operator's rate is 40,000 bytes/s now",
        "resumed by the operator",
    }
    with pytest.raises(UsageError, match="steers one run"):
        plan.apply(control=control)
    assert plan.apply(control=Control()).ok
    assert_clean(own)
