"""A process that follows and cuts over, and stays in a named step, so that a test can kill it there.

Invariant: it prints one line when it is in that step, and ends only when it is killed.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import NoReturn

from slotferry.jobs.control.cancel import CancelRequest
from slotferry.migrate.cutover.border import CheckRequest
from slotferry.migrate.cutover.machine import Cutover
from slotferry.model.cutover import Checked, CutoverOptions, CutoverStep
from slotferry.model.notices import Event
from tests.integration.cutting_over import HarnessFollower, make_records
from tests.integration.following import Following


class _Server:
    """As much of a `LocalServer` as is asked for, in a process that did not start it."""

    password = None

    def __init__(self, url: str) -> None:
        self.url = url
        self.host, port = url.removeprefix("redis://").split(":")
        self.port = int(port)


def main() -> NoReturn:
    """Arguments: the sides' URLs, the journal, how writes are stopped, the step, and its state."""
    source, target, journal, stop_writes, step, state = sys.argv[1:]

    def stay(event: Event) -> None:
        if isinstance(event, CutoverStep) and (event.step, event.state) == (step, state):
            sys.stdout.write("there\n")
            sys.stdout.flush()
            threading.Event().wait()

    def check(request: CheckRequest) -> Checked:
        return Checked(len(request.touched), 0)

    with Following(_Server(source), _Cluster(target)) as following:  # type: ignore[arg-type]
        following.wait_event("follow_attached")
        following.wait_copied()
        follower = HarnessFollower(following, _Server(source))  # type: ignore[arg-type]
        options = CutoverOptions(stop_writes=stop_writes, run="true", hold=60.0)  # type: ignore[arg-type]
        records = make_records(Path(journal))
        report = Cutover(follower, options, records, check, stay, CancelRequest()).perform()
        sys.exit(f"not in the step {step}: {report}")


class _Cluster:
    def __init__(self, url: str) -> None:
        self.url = url


if __name__ == "__main__":
    main()
