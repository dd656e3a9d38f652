"""The signals that ask a command to end, and what each means.

Invariant: a terminal that is closed (SIGHUP) ends a command as SIGTERM does, with its exit code; a command
that was started to outlive its terminal (nohup) goes on.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from slotferry.jobs.control.cancel import CancelRequest


WHAT_A_SECOND_DOES = (
    "ending: what is in hand is finished and saved; a second Ctrl-C stops at once, and loses nothing"
)


class Interruption:
    """How many signals asked for an end, and whether it was told yet what another one does."""

    def __init__(self) -> None:
        self.received = 0
        self._told = False

    def is_untold(self) -> bool:
        """Whether the first signal has come and nothing was told of it; from then on it counts as told."""
        untold = self.received == 1 and not self._told
        self._told = self._told or self.received > 0
        return untold


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to end; a SIGHUP that is ignored is none."""
    asked = (signal.SIGINT, signal.SIGTERM)
    return asked if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*asked, signal.SIGHUP)


def meaning(number: int) -> int:
    """Return the signal that one of these is taken for."""
    return signal.SIGTERM if number == signal.SIGHUP else number


@contextmanager
def signals(cancel: CancelRequest) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP ask for an orderly end, and the second for one at once.

    They are heard of in a thread: a handler would wait for the main one, which may have begun to wait
    for a node that hangs.
    """
    before = {number: signal.getsignal(number) for number in ending_signals()}
    ear, mouth = socket.socketpair()
    mouth.setblocking(False)

    def listen() -> None:
        while heard := ear.recv(1):
            if heard[0] in before:
                cancel.ask(immediately=cancel.level > 0, signal=meaning(heard[0]))

    listener = threading.Thread(target=listen, name="slotferry-signals", daemon=True)
    listener.start()
    told_before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
    for number in before:
        signal.signal(number, _ignore)  # not SIG_IGN, of which nobody would hear
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(told_before)
        mouth.close()
        listener.join()
        ear.close()


def _ignore(_number: int, _frame: FrameType | None) -> None: ...
