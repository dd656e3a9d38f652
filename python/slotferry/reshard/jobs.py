"""A job that a scheduler runs again and again: it keeps one cluster balanced by one policy.

Invariant: an unfinished plan is finished before a new one is made. Outside of its windows a job does nothing
but close what an earlier run has left open; its result says whether work is left.
"""

from __future__ import annotations

from collections.abc import Callable

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.hangup import looking
from slotferry.model.notices import Event
from slotferry.net.connector import Connector
from slotferry.reshard.apply import apply_plan
from slotferry.reshard.events import ReshardEnded
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.limits import Limits, Scheduler
from slotferry.reshard.options import Options
from slotferry.reshard.plan.model import Plan, Policy
from slotferry.reshard.plan.planner import make_plan
from slotferry.reshard.report import Report

_DONE = ("completed", "balanced", "slots_left")


def run_job(
    connector: Connector,
    name: str,
    policy: Policy,
    limits: Limits,
    options: Options,
    *,
    on_event: Callable[[Event], None] | None = None,
    cancel: CancelRequest | None = None,
) -> Report:
    """Run the job once and return how it ended: `balanced` where there was nothing to do.

    Outside of its windows, with nothing begun, that is `outside_window`.

    Raises `SlotferryError` where the run was refused, or `cancel` was asked for before there was a plan.
    """
    asked = cancel or CancelRequest()
    closed = Scheduler(limits, asked).closed()
    unfinished = _unfinished(name, policy, options, is_closed=closed is not None)
    if closed is not None and unfinished is None:
        report = Report(name, "outside_window", reason=closed.reason, opens_at=closed.until)
        if on_event is not None:
            on_event(ReshardEnded(report))
        return report
    plan = unfinished
    if plan is None:
        with looking(asked, connector):
            plan = make_plan(connector, policy)
    return apply_plan(connector, plan, options, limits=limits, on_event=on_event, cancel=asked)


def _unfinished(name: str, policy: Policy, options: Options, *, is_closed: bool) -> Plan | None:
    """Return the plan that the last run left undone, if it was made by the same policy.

    Where the window is closed, that of a run that may have left slots open: they are closed all the same.
    """
    if not options.journal_path.exists():
        return None
    with ReshardJournal(options.journal_path) as journal:
        record = journal.job(name)
        if record is not None and is_closed and journal.slots(name, "open"):
            return record.plan
    if record is None or record.status in _DONE or record.plan.policy != policy:
        return None
    return record.plan
