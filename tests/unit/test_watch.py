"""What `jobs show --watch` shows of a run, on terminals of any kind."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections import deque
from typing import Any

import pytest

from slotferry.cli.jobs.watch import Screen, live_lines, sparkline
from slotferry.text import format_age

_LIVE: dict[str, Any] = {
    "run": 2,
    "state": "paused",
    "reason": "by the operator, 3 s",
    "max_keys_per_second": None,
    "max_bytes_per_second": 50_000_000,
    "keys_per_second": 1234.5,
    "elapsed_seconds": 12.0,
    "follow": None,
    "keys": {"pending": 2, "failed": 1},
    "done_keys": 1000,
    "expected_keys": 2000,
    "bytes": 5_000_000,
    "keys_by_primary": [["new:7000", 600], ["new:7001", 400]],
}


class Terminal(io.StringIO):
    """A stdout that is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_run_is_shown_with_all_that_can_be_said() -> None:
    text = "\n".join(live_lines("nightly", _LIVE, deque([0.0, 500.0, 1000.0])))
    for part in (
        "nightly, run 2",
        "paused: by the operator",
        "1,000 of about 2,000, 5.0 MB",
        "2 pending, 1 failed",
        "new:7001  ",
        "400 keys",
    ):
        assert part in text


def test_slots_of_a_reshard_are_shown() -> None:
    live = {
        **{
            name: _LIVE[name] for name in ("run", "state", "reason", "max_keys_per_second", "elapsed_seconds")
        },
        "max_bytes_per_second": None,
        "keys_per_second": None,
        "slots_done": 5,
        "slots": 10,
        "keys_moved": 50,
        "keys": 100,
        "bytes_moved": 0,
    }
    text = "\n".join(live_lines("nightly", live, deque([0.0])))
    assert "5 of 10" in text
    assert "50 of 100" in text


def test_bars_are_in_characters_that_stdout_has(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = deque([0.0, 5.0, 10.0])
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert sparkline(rates) == "▁▅█"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert sparkline(rates) == "_+#"
    assert sparkline(deque([0.0])) == "_"


def test_lines_fit_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((40, 10)))
    screen = Screen()
    screen.show(["x" * 100] * 20)
    screen.show(["y"])
    first, _, second = terminal.getvalue().partition("\x1b[9A\r\x1b[J")
    assert [len(line) for line in first.splitlines()] == [39] * 9
    assert second == "y\n"


def test_a_dumb_terminal_gets_lines_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    screen = Screen()
    screen.show(["one"])
    screen.show(["two"])
    assert terminal.getvalue() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (5.9, "5 s"), (60, "1 min"), (7200, "2 h"), (86_400 * 40, "40 d")],
)
def test_ages_are_in_their_largest_unit(seconds: float, text: str) -> None:
    assert format_age(seconds) == text
