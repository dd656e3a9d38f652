"""The least that is shown: notices. Other displays show more.

Invariant: `handle` and `close` raise nothing for a stream that is gone.
"""

from __future__ import annotations

import sys
from typing import TextIO

from slotferry.model.notices import Event, Notice


class Silent:
    """Shows nothing."""

    def handle(self, event: Event) -> None:
        """Take the next event."""

    def close(self) -> None:
        """Leave the stream as it is."""


class Display:
    """Prints notices to `stream`; a subclass overrides `show`, `say` and `finish`."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._gone = False

    def handle(self, event: Event) -> None:
        """Take the next event."""
        if self._gone:
            return
        try:
            self.show(event)
        except (OSError, ValueError):  # a closed pipe or a closed file
            self._gone = True

    def close(self) -> None:
        """Leave the stream as a person expects it; called once, at the end."""
        if self._gone:
            return
        try:
            self.finish()
        except (OSError, ValueError):
            self._gone = True

    def show(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Notice):
            self.say(f"slotferry: {event.message}")

    def say(self, line: str) -> None:
        """Print one line."""
        print(line, file=self.stream, flush=True)

    def finish(self) -> None:
        """Take down what stands."""


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows widgets."""
    shell = sys.modules.get("IPython")
    return shell is not None and getattr(shell.get_ipython(), "kernel", None) is not None
