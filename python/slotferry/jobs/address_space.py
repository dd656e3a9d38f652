"""Whether a run gets the address space that it needs (RLIMIT_AS: `ulimit -v`, LimitAS= of systemd).

Invariant: what can't be had is refused before anything is begun. Out of address space, threads can't start
and an allocation that fails ends the process in the middle of its work.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from slotferry.errors import RefusedError

_BESIDES = 300 << 20
"""Buffers, and what allocators set aside for each thread; with the stacks, 350 MB were seen."""

_THREADS = 8
_MOST_STACK = 8 << 20
_MB = 1_000_000


def check_address_space(memory_limit: int) -> None:
    """Raise `RefusedError` where this process may not take what a run with this budget needs."""
    try:
        import resource
    except ImportError:  # no such limit on this system
        return
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    if stack == resource.RLIM_INFINITY:
        stack = _MOST_STACK
    needed = _taken() + memory_limit + _BESIDES + _THREADS * stack
    if limit < needed:
        raise RefusedError(
            f"the address space is limited to {limit // _MB} MB (ulimit -v), and this run may need "
            f"{-(-needed // _MB)} MB with its memory limit of {memory_limit // _MB} MB",
            hint="raise the limit (ulimit -v unlimited) or lower --memory-limit",
            kind="address_space",
        )


def _taken() -> int:
    """Return how many bytes of address space this process has taken; 0 where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 0
