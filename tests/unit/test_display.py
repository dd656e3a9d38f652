"""Displays: what a person or a program reads, and silence where the stream is gone."""

import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import TextIO

import pytest

from slotferry.errors import SourceLostError
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.events import (
    CheckpointSaved,
    DryRunResult,
    EngineNews,
    Event,
    FileProgress,
    FollowProgress,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
    TopologyChanged,
)
from slotferry.model.report import Report
from slotferry.report import choose_display, lines, phrases
from slotferry.report.bar import BarDisplay
from slotferry.report.base import Display
from slotferry.report.json_lines import JsonLines
from slotferry.report.lines import LinesDisplay
from slotferry.report.tables import ResultTables

SOURCE = "redis://old:6379/0"
OUTCOMES = "2 pending, 1 failed"
PRIMARIES = "primaries new:7000"
LEFT = "about 2.0s left"
WAITING = "waiting: slot 7 is not served"
STARTED = RunStarted(
    "nightly",
    1,
    False,
    SOURCE,
    "redis+cluster://new:7000/0",
    "old:6379",
    None,
    "Redis 7.0.15",
    ("new:7000",),
    4,
    2000,
    False,
)
PROGRESS = Progress(
    state="waiting",
    reason="slot 7 is not served",
    keys=Keys(scanned=1000, migrated=997, pending=2, failed=1),
    expected_keys=2000,
    bytes=1_500_000,
    keys_per_second=500.0,
    elapsed_seconds=2.0,
    buffered_bytes=10,
    moved=0,
    ask=0,
    retries=0,
    done_keys=1000,
)
KEYS = Keys(scanned=1000, migrated=989, failed=11)
FAILURES = tuple(FailedKey(b"user:\xff\n%d" % n, 7, "conflict", "differs", "new:7000") for n in range(10))
REPORT = Report(
    "nightly",
    "completed_with_failures",
    Totals(KEYS, 1_500_000, 1, 2, 3),
    2.0,
    500.0,
    3,
    True,
    None,
    FAILURES,
)
NEWS = EngineNews("node_lost", "lost the connection to new:7000", "new:7000", None)
EVENTS: list[Event] = [
    STARTED,
    Notice("the cursors are void"),
    PROGRESS,
    NEWS,
    TopologyChanged(("new:7000", "new:7001"), 5),
    CheckpointSaved(KEYS, 1, 4),
    RunEnded(REPORT),
]


def show(display: Display, events: list[Event]) -> str:
    for event in events:
        display.handle(event)
    display.close()
    assert isinstance(display.stream, io.StringIO)
    return display.stream.getvalue()


def test_lines_say_what_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINE_SECONDS", 0)
    printed = show(LinesDisplay(io.StringIO()), EVENTS).splitlines()
    assert printed == [
        f"slotferry: nightly begins: {SOURCE} (Redis 7.0.15, 2,000 keys) to {PRIMARIES}; 4 parallel scans",
        "slotferry: the cursors are void",
        f"slotferry: 1,000 of about 2,000 keys (50%), 500 keys/s, 1.5 MB, {OUTCOMES}, {WAITING}, {LEFT}",
        "slotferry: lost the connection to new:7000",
        "slotferry: the target's topology changed: 2 primaries, 5 slots without a primary",
        "slotferry: completed with failures after 2.0s",
    ]


def test_lines_do_not_tell_all_progress() -> None:
    printed = show(LinesDisplay(io.StringIO()), [STARTED, *[PROGRESS] * 50])
    assert len(printed.splitlines()) == 1


def test_news_of_one_kind_do_not_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("slotferry.report.phrases.time.monotonic", lambda: clock[0])
    news = phrases.News()
    parked = [EngineNews("slot_parked", f"slot {slot} is not served", None, slot) for slot in range(1000)]
    assert [line for event in parked for line in news.lines(event)] == ["slot 0 is not served"]
    assert news.lines(NEWS) == ["lost the connection to new:7000"]  # another kind is told at once
    assert news.lines(PROGRESS) == []
    clock[0] += phrases.NEWS_SECONDS
    assert news.lines(PROGRESS) == ["999 more of the kind slot parked"]
    assert news.lines(parked[1]) == []
    assert news.lines(RunEnded(REPORT)) == [
        "1 more of the kind slot parked",
        "completed with failures after 2.0s",
    ]


def test_a_bar_shows_keys_rate_bytes_state_and_time_left() -> None:
    running = replace(PROGRESS, state="running", reason="")
    printed = show(BarDisplay(io.StringIO()), [running, *EVENTS])
    for text in ("50%", f"1,000/2,000 keys, 500/s, 1.5 MB, {OUTCOMES}, 2.0s left"):
        assert text in printed
    assert f"1,000/2,000 keys, 1.5 MB, {OUTCOMES}, {WAITING}" in printed
    assert "the cursors are void" in printed
    assert "lost the connection" in printed


def test_keys_that_are_compared_differ_and_do_not_fail() -> None:
    compared = replace(
        PROGRESS, state="running", reason="", keys=Keys(scanned=9, unchanged=7, failed=2), purpose="verify"
    )
    assert "1.5 MB, 2 different, 2.0s left" in show(BarDisplay(io.StringIO()), [compared])
    assert "1.5 MB, 2 different, running" in phrases.describe_progress(compared)


def test_what_is_in_hand_is_not_done() -> None:
    keys = Keys(scanned=2000, migrated=1999)
    large = replace(PROGRESS, state="running", reason="", keys=keys, done_keys=1999)
    printed = show(BarDisplay(io.StringIO()), [large])
    assert " 99%|" in printed
    assert "1,999/2,000 keys" in printed
    assert "left" not in printed
    assert phrases.describe_progress(large).startswith("1,999 of about 2,000 keys (99%), ")
    done = replace(large, keys=replace(keys, migrated=2000), done_keys=2000)
    assert "100%|" in show(BarDisplay(io.StringIO()), [done])


def test_a_bar_without_an_estimate_has_no_percentage() -> None:
    event = Progress("connecting", "", Keys(), None, 0, None, 0.0, 0, 0, 0, 0, 0)
    printed = show(BarDisplay(io.StringIO()), [event])
    assert "0 keys" in printed
    assert "%" not in printed


def test_without_progress_only_notices_remain() -> None:
    assert show(choose_display("none", io.StringIO()), EVENTS) == "slotferry: the cursors are void\n"


def test_auto_is_a_bar_on_a_terminal_and_lines_elsewhere() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(choose_display("auto", Terminal()), BarDisplay)
    assert isinstance(choose_display("auto", io.StringIO()), LinesDisplay)


def test_json_lines_each_have_a_type_and_end_with_the_summary() -> None:
    printed = [
        json.loads(line)
        for line in show(JsonLines(io.StringIO()), [*EVENTS[:-1], PROGRESS, EVENTS[-1]]).splitlines()
    ]
    assert [line["type"] for line in printed] == [
        "run_started",
        "notice",
        "progress",
        "engine",
        "topology",
        "checkpoint",
        "summary",
    ]
    assert printed[-1] == REPORT.to_dict()
    assert printed[2]["keys"]["scanned"] == 1000


def test_another_state_is_a_json_line_at_once() -> None:
    paused = replace(PROGRESS, state="paused")
    shown = show(JsonLines(io.StringIO()), [PROGRESS, PROGRESS, paused, paused, PROGRESS])
    assert [json.loads(line)["state"] for line in shown.splitlines()] == [
        PROGRESS.state,
        "paused",
        PROGRESS.state,
    ]


def test_the_table_shows_failed_keys_escaped_and_where_to_look() -> None:
    printed = show(ResultTables(io.StringIO()), EVENTS)
    assert "job nightly: completed with failures" in printed
    assert r"user:\xff\n0  slot 7  conflict  new:7000  differs" in printed
    assert "and 1 more" in printed
    assert "slotferry jobs show nightly" in printed
    assert "skipped" not in printed


def test_a_run_that_was_refused_has_no_table() -> None:
    refused = Report("nightly", "failed", Totals(), 0.1, 0.0, 0, False, SourceLostError("gone"))
    assert show(ResultTables(io.StringIO()), [RunEnded(refused)]) == ""


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (
            "error",
            "the target has 34 of them already; those with another value would be recorded as conflicts",
        ),
        ("replace", "already; they would be overwritten"),
        ("skip", "already; they would be left as they are"),
    ],
)
def test_a_dry_run_says_what_would_be_done(policy: str, says: str) -> None:
    result = DryRunResult(1235, (("a:1", 1000), ("b:2", 234)), policy, 4, existing=34, absent=1)
    printed = show(ResultTables(io.StringIO()), [result])
    assert "1,234 keys would be copied in 4 parallel scans" in printed
    assert "1 listed key more: not at the source" in printed
    assert says in printed
    assert "  b:2    234  keys" in printed
    assert printed.endswith("nothing was written\n")


class ClosedPipe(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("display", [BarDisplay, LinesDisplay, JsonLines, ResultTables, Display])
def test_a_stream_that_is_gone_is_no_error(display: type[Display]) -> None:
    stream: TextIO = ClosedPipe()
    shown = display(stream)
    for event in EVENTS:
        shown.handle(event)
    shown.close()


def test_one_key_is_said_to_be_one() -> None:
    follow = FollowProgress(0, 0.0, 1, 9, 0, 0, connected=True, in_doubt=False, busy_keys=1)
    assert phrases.describe_following(follow) == "0.0 s and 0 B behind, 1 touched key, 1 busy key"
    more = replace(follow, touched=2000, busy_keys=2)
    assert phrases.describe_following(more).endswith("2,000 touched keys, 2 busy keys")


def test_in_a_notebook_the_bar_is_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    assert isinstance(choose_display("auto"), BarDisplay)
    assert not isinstance(choose_display("auto", io.StringIO()), BarDisplay)

    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not isinstance(choose_display("auto"), BarDisplay)


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        (FileProgress(1_500_000, 3_000_000), "1.5 MB of the file's 3.0 MB"),
        (FileProgress(1_500_000, None), "1.5 MB of the file"),
    ],
)
def test_how_far_a_file_is_read_is_shown(file: FileProgress, shown: str) -> None:
    event = replace(PROGRESS, file=file)
    assert f", {shown}, " in phrases.describe_progress(event)
    out = io.StringIO()
    JsonLines(out).show(event)
    assert json.loads(out.getvalue())["file"] == {"bytes": file.bytes, "of": file.of}
