"""The threads that move slots: what they take from others on the same machine."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from slotferry.reshard.move.mover import lower_priority


def _niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority of its own")
def test_a_moving_thread_gives_way_and_no_other_does() -> None:
    before = _niceness()
    with ThreadPoolExecutor(1, initializer=lower_priority) as pool:
        moving = pool.submit(_niceness).result()
    assert moving == min(19, before + 10)
    assert _niceness() == before
