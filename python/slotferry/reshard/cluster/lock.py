"""One process at a time moves slots of a cluster, or mends them: a lock for each of its primaries.

Invariant: any two looks at the same cluster share a primary, and so a lock, whatever changed in between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slotferry.errors import JobLockedError
from slotferry.jobs.lock import JobLock
from slotferry.reshard.cluster.members import Cluster


@contextmanager
def cluster_lock(journal: Path, cluster: Cluster) -> Iterator[None]:
    """Hold the cluster's lock: that of each of its primaries, so that any two looks at it share one."""
    with ExitStack() as stack:
        for member in sorted(cluster.primaries, key=lambda member: member.id):
            try:
                stack.enter_context(JobLock(journal, f"reshard-{member.id}"))
            except JobLockedError as error:  # noqa: PERF203 - a handful of nodes
                holder = error.message.rpartition(" by ")[2]
                raise JobLockedError(
                    f"slots of this cluster are being moved by {holder}",
                    hint="wait until it has ended, or stop it",
                ) from None
        yield
