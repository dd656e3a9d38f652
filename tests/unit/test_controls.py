"""What is asked of a run: handed on to the engine once, and refused where it makes no sense."""

from __future__ import annotations

import pytest

from slotferry.errors import MigrationInterrupted, UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.controls import Controls, Rates, Steering
from tests.unit.fakes import FakeJob


def test_a_change_is_handed_on_once() -> None:
    controls, fake = Controls(CancelRequest(), Rates(max_keys_per_second=10)), FakeJob([])
    steering = Steering(controls)
    steering.begin(fake.as_job())
    assert steering.steer(fake.as_job()) == []

    controls.paused = True
    controls.rates = Rates(max_bytes_per_second=5)
    assert steering.steer(fake.as_job()) == [
        "paused by the operator",
        "the operator's rate is 5 bytes/s now",
    ]
    assert steering.steer(fake.as_job()) == []
    controls.paused = False
    assert steering.steer(fake.as_job()) == ["resumed by the operator"]
    assert fake.asked == ["pause", (None, 5), "resume"]


def test_the_next_engine_job_of_a_run_begins_with_what_was_asked_before() -> None:
    controls, first, second = Controls(CancelRequest(), Rates()), FakeJob([]), FakeJob([])
    steering = Steering(controls)
    controls.paused, controls.rates = True, Rates(7)
    assert len(steering.steer(first.as_job())) == 2
    steering.begin(second.as_job())
    assert second.asked == first.asked == ["pause", (7, None)]
    assert steering.steer(second.as_job()) == []  # and nothing is told twice


def test_a_hold_and_a_pause_of_the_operator_do_not_end_each_other() -> None:
    controls, fake = Controls(CancelRequest(), Rates()), FakeJob([])
    steering, job = Steering(controls), fake.as_job()
    steering.begin(job)
    controls.hold(job)
    assert fake.asked.pop() == "pause"  # at once
    controls.release(job)
    assert fake.asked.pop() == "resume"
    assert steering.steer(job) == []

    controls.hold(job)
    controls.paused = True
    assert steering.steer(job) == ["paused by the operator"]
    controls.release(job)
    assert steering.steer(job) == []
    assert set(fake.asked) == {"pause"}  # it is the operator's by now

    controls.hold(job)
    controls.paused = False
    assert steering.steer(job) == ["resumed by the operator"]
    assert set(fake.asked) == {"pause"}
    controls.release(None)
    assert steering.steer(job) == []
    assert fake.asked.pop() == "resume"


def test_an_engine_job_that_begins_while_held_is_held() -> None:
    controls, fake = Controls(CancelRequest(), Rates()), FakeJob([])
    steering, job = Steering(controls), fake.as_job()
    controls.hold(FakeJob([]).as_job())
    steering.begin(job)
    assert fake.asked == ["pause"]


@pytest.mark.parametrize("field", ["max_keys_per_second", "max_bytes_per_second"])
def test_a_rate_below_one_is_refused_by_name(field: str) -> None:
    with pytest.raises(UsageError, match=field):
        Rates(**{field: 0})


def test_a_run_that_counts_no_keys_is_not_limited_by_them() -> None:
    controls = Controls(CancelRequest(), Rates(), counts_keys=False)
    with pytest.raises(UsageError, match="can't be limited by keys"):
        controls.change_rates({"max_keys_per_second": 5, "max_bytes_per_second": 7})
    assert controls.rates == Rates()
    controls.change_rates({"max_keys_per_second": None, "max_bytes_per_second": 7})
    assert controls.rates == Rates(None, 7)


def test_one_of_several_runs_ends_alone_or_with_all_of_them() -> None:
    everything = CancelRequest()
    one, another = CancelRequest(within=everything), CancelRequest(within=everything)
    one.ask(immediately=True)
    assert (one.level, another.level, everything.level) == (2, 0, 0)
    everything.ask(signal=15)
    assert (one.level, another.level) == (2, 1)
    with pytest.raises(MigrationInterrupted) as ended:
        another.check()
    assert ended.value.exit_code == 143


def test_rates_read_well() -> None:
    assert str(Rates()) == "no limit"
    assert str(Rates(20_000, 1_000_000)) == "20,000 keys/s and 1,000,000 bytes/s"
