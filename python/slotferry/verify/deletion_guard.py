"""What has to hold before extra keys are deleted from a target.

Invariant: a mistake in a URL or a filter makes every key of a target look extra. So nothing is deleted where
the source has none of the keys that are asked for, beyond `max_delete`, or without somebody's word; and all
of it is counted before the first key is deleted.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from slotferry.errors import RefusedError, SlotferryError, unexpected
from slotferry.topology.databases import Route, keys_elsewhere

if TYPE_CHECKING:
    from slotferry.jobs.control.cancel import CancelRequest
    from slotferry.model.events import RepairPlanned
    from slotferry.topology.discovery import SourceFacts

LEAST_ALLOWED = 1000
ALLOWED_SHARE = 10  # per cent of the target's keys
_WAIT_SECONDS = 0.1

Confirm = Callable[["RepairPlanned"], bool]
"""Asks whether so much may be deleted. Called in a thread of its own, which is left behind at a cancel."""


def default_limit(target_keys: int) -> int:
    """Return how many keys may be deleted of a target with so many, where nothing else was said."""
    return max(LEAST_ALLOWED, target_keys * ALLOWED_SHARE // 100)


def refuse_empty_source(routes: Sequence[Route], facts: SourceFacts) -> RefusedError | None:
    """Return why nothing may be deleted where a database of the source that is compared holds no key."""
    empty = next((route.source for route in routes if not facts.databases.get(route.source)), None)
    if empty is None:
        return None
    return RefusedError(
        f"the source {facts.server.node} has no keys in database {empty}, so that every key of the target "
        f"would be deleted as extra{keys_elsewhere(facts, {empty}, '; ')}",
        hint="name the right database, or leave out --delete-extra",
    )


def refuse_unmatched(scanned: int, planned: RepairPlanned) -> RefusedError | None:
    """Return why nothing may be deleted where the source has none of the keys that the filters ask for."""
    if scanned:
        return None
    return RefusedError(
        "the source has no key that the filters ask for, so that all that match at the target "
        f"({planned.to_delete:,} keys) would be deleted as extra",
        hint="correct the filters, or leave out --delete-extra",
    )


def refuse_too_many(planned: RepairPlanned, most: int | None) -> RefusedError | None:
    """Return why nothing may be deleted where that would be more than `most` keys; None: the default's."""
    limit = default_limit(planned.target_keys) if most is None else most
    if planned.to_delete <= limit:
        return None
    return RefusedError(
        f"{planned.to_delete:,} of the target's {planned.target_keys:,} keys are extra, and {limit:,} "
        "at the most may be deleted; nothing was repaired or deleted",
        hint="look at them with --repair --dry-run --differences FILE; if they may go, give --max-delete "
        f"{planned.to_delete}",
    )


def ask(planned: RepairPlanned, confirm: Confirm, cancel: CancelRequest) -> None:
    """Ask for somebody's word. Raises `RefusedError` where it is not given, and what cancels the run."""
    answers: queue.SimpleQueue[bool | SlotferryError] = queue.SimpleQueue()

    def wait() -> None:
        try:
            answers.put(confirm(planned))
        except SlotferryError as error:
            answers.put(error)
        except Exception as error:  # noqa: BLE001 - whoever waits has to hear of it
            answers.put(unexpected(error))

    # A daemon: who was asked and says nothing must not hold up the end of the process.
    threading.Thread(target=wait, name="slotferry-question", daemon=True).start()
    while True:
        cancel.check()
        try:
            answer = answers.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            continue
        if isinstance(answer, SlotferryError):
            raise answer
        if not answer:
            raise RefusedError(
                "nothing was repaired or deleted: the question was not answered with yes",
                hint="leave out --delete-extra to repair what is missing or different alone",
            )
        return
