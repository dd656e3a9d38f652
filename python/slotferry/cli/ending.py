"""The signals that ask a command to end, and what each means.

Invariant: a terminal that is closed (SIGHUP) ends a command as SIGTERM does, with its exit code; a command
that was started to outlive its terminal (nohup) goes on.
"""

from __future__ import annotations

import signal


def ending_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to end; a SIGHUP that is ignored is none."""
    asked = (signal.SIGINT, signal.SIGTERM)
    return asked if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*asked, signal.SIGHUP)


def meaning(number: int) -> int:
    """Return the signal that one of these is taken for."""
    return signal.SIGTERM if number == signal.SIGHUP else number
