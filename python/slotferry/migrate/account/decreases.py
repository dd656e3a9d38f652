"""Whether nodes of the target hold fewer keys since the followed source has lost some.

Invariant: each deletion that was passed on explains one missing key, once, and only one that went between the
looks around it. What is not explained a while later, when the answers to all deletions of that time have
come, is a doubt.
"""

from __future__ import annotations

from collections import deque

from slotferry.topology.identity import Doubt

_SETTLED_SECONDS = 1.0
"""A look may see deletions whose answers are still on their way to us."""


class Decreases:
    """Decreases that were seen and are not judged yet."""

    def __init__(self) -> None:
        self._seen: list[Doubt] = []
        self._since = 0.0
        self._explaining = 0  # deletions that have explained something, or can't any more
        # When all nodes had answered, and how many keys were deleted until then.
        self._looks: deque[tuple[float, int]] = deque()

    def add(self, doubt: Doubt, now: float) -> None:
        """Take a node that holds fewer keys than at the look before; `now` is of `time.monotonic`."""
        if not self._seen:
            self._since = now
        self._seen.append(doubt)

    def judge(self, deleted: int, now: float) -> list[Doubt]:
        """Return what `deleted` keys, of this run so far, do not explain; nothing while it is too early."""
        if not self._seen or now - self._since < _SETTLED_SECONDS:
            return []
        seen, self._seen = self._seen, []
        free = deleted - min(self._explaining, deleted)  # counted from 0 again for each core job
        missing = sum(doubt.keys for doubt in seen)
        self._explaining = deleted - max(0, free - missing)
        return seen if missing > free else []

    def lapse(self, deleted: int, now: float) -> None:
        """Let go of deletions of long ago; to be called after `judge` when a look at all nodes has come.

        The next look tells what went since this one. It was begun after the look before had come, as a rule,
        and what was counted well before that was done at the target by then.
        """
        looks = self._looks
        if looks and deleted < looks[-1][1]:  # counted from 0 again
            looks.clear()
            self._explaining = min(self._explaining, deleted)
        if looks and not self._seen:
            horizon = looks[-1][0] - _SETTLED_SECONDS
            while len(looks) > 1 and looks[1][0] <= horizon:
                looks.popleft()
            if looks[0][0] <= horizon:
                self._explaining = max(self._explaining, looks[0][1])
        looks.append((now, deleted))
