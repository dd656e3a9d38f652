"""The report page: what it says, what it may not run, and how large it can get."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from slotferry.errors import SourceLostError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, PendingKey, Setup
from slotferry.jobs.journal.series import SeriesRow, add_row, keep_owners, series
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.history import HistoryEntry
from slotferry.report.page.charts import WIDTH, Axis, rate_chart
from slotferry.report.page.content import Page, Table, clean
from slotferry.report.page.jobs import MOST_KEYS, job_page
from slotferry.report.page.render import html
from slotferry.report.page.resharding import plan_page
from slotferry.report.page.slot_map import cells, slot_map
from slotferry.reshard.plan.model import Holding, Plan, PlannedNode, Policy, Transfer
from slotferry.verify.jobs import extra_job

_SETUP = Setup("redis://old:6379/0", "redis+cluster://new:7000/0", "user:*", None, "error")
_MOST_BYTES = 500_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with Journal.open(path) as opened:
        opened.create("job", _SETUP, 2, "id")
        yield opened


def page_of(journal: Journal, name: str = "job") -> Page:
    record = journal.job(name)
    assert record is not None
    return job_page(journal, journal.path, record, None)


def end(journal: Journal, status: str, keys: Keys, name: str = "job", **lists: object) -> None:
    number = journal.begin_run(name, resumed=False)
    journal.record(name, Advance(totals=Totals(keys, 1000, 2, 1, 3), **lists))  # type: ignore[arg-type]
    journal.end_run(name, number, status, 2.0, None)


def failed(key: bytes, message: str = "differs") -> FailedKey:
    return FailedKey(key, 7, "conflict", message, "n:1")


class _Structure(HTMLParser):
    """Notes what a browser would make of the text: tags, and attributes that run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name.startswith("on") or name in ("src", "href", "style", "action"):
                self.loads.append(f"{tag} {name}={value}")


def test_the_outcome_is_a_sentence_and_counts_add_up(journal: Journal) -> None:
    keys = Keys(scanned=100, migrated=90, unchanged=6, expired=1)
    waiting = [PendingKey(b"p", 8, "slot 8 is not served")]
    end(journal, "completed_with_failures", keys, failures=[failed(b"a"), failed(b"b")], pending=waiting)
    page = page_of(journal)
    assert page.tone == "warning"
    assert page.sentence.endswith("came to its end, but 2 failed and 1 are pending, of 100 keys.")
    assert sum(count.count for count in page.counts) == 100
    assert page.sum == "90 + 6 + 1 + 1 + 2 = 100 keys scanned."
    assert ("match", "user:*") in page.settings


@pytest.mark.parametrize(
    ("status", "words"),
    [("completed", "is complete: 10 keys"), ("cut_over", "was cut over to the target")],
)
def test_what_went_well_says_so(journal: Journal, status: str, words: str) -> None:
    end(journal, status, Keys(10, 10))
    page = page_of(journal)
    assert (page.tone, words in page.sentence) == ("good", True)


def test_a_run_that_was_killed_and_one_that_lost_its_source(journal: Journal) -> None:
    journal.begin_run("job", resumed=False)
    assert "was interrupted" in page_of(journal).sentence
    journal.end_run("job", 1, "failed", 1.0, SourceLostError("the source is away"))
    page = page_of(journal)
    assert page.tone == "bad"
    assert "ended by an error (the source is away)" in page.sentence


def test_a_job_without_series_has_a_page(journal: Journal) -> None:
    page = page_of(journal)
    assert list(page.charts) == []
    assert "no series of this job over time" in html(page)


_HOSTILE = [
    b"<script>alert(1)</script>",
    b"</table></script><script>alert(2)</script>",
    b"\"'><img src=x onerror=alert(3)>",
    b"{{ 7 * 7 }}{% for x in y %}",
    b"<!-- --> ]]> <style>*{display:none}</style>",
    b"\x00\xff\n\x1b[31m",
    "a \u202e b".encode(),
    "Schlüssel 键".encode(),
]


def test_keys_and_messages_are_text_whatever_they_hold(journal: Journal) -> None:
    failures = [failed(key, key.decode("utf-8", "backslashreplace")) for key in _HOSTILE]
    end(journal, "completed_with_failures", Keys(20, 12), failures=failures)
    journal.tell("job", [HistoryEntry(1, 1.0, 1.0, "notice", "<script>alert(4)</script>")])
    text = html(page_of(journal))
    found = _Structure(text)
    assert found.tags["script"] == found.tags["style"] == 1
    assert "img" not in found.tags
    assert found.loads == ["link href=data:,"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "{{ 7 * 7 }}" in text
    assert "\u202e" not in text
    assert "\x00" not in text
    assert "Schlüssel 键" in text


def test_only_the_page_own_script_and_style_may_run(journal: Journal) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html(page_of(journal)))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert policy.count("sha256-") == 2


def test_many_failures_are_bounded_and_the_rest_is_told(journal: Journal) -> None:
    count = MOST_KEYS + 500
    failures = [failed(b"%d:%b" % (number, b"k" * 5000), "m" * 5000) for number in range(count)]
    end(journal, "completed_with_failures", Keys(count), failures=failures)
    scattered = [(slot, slot, f"node-{slot % 100}:7000") for slot in range(16384)]
    keep_owners(journal, "job", scattered)
    for number in range(2000):
        add_row(journal, "job", row(1e9 + number, number * number))
    page = page_of(journal)
    (table,) = page.keys
    assert table.caption == "Failed keys (1,500)"
    assert f"{count - len(table.rows):,} more are not shown: 'slotferry jobs failures job'" in table.more
    assert len(html(page).encode()) <= _MOST_BYTES


def row(at: float, done: int, **more: object) -> SeriesRow:
    plain = SeriesRow(at, 1, "copy", "running", done, done * 100, 0, 0, None, None)
    return replace(plain, **more)  # type: ignore[arg-type]


def test_thinned_rows_say_the_same_on_average() -> None:
    rows = [row(1000.0 + n, n * 50) for n in range(101)]
    thinned = rows[::2]
    for some in (rows, thinned):
        chart = rate_chart("done", "Keys", some, Axis(some), [], "keys")
        assert chart is not None
        assert chart.description == "On average 50 keys/s, at most 50 keys/s between two rows."


def test_the_time_between_two_runs_is_left_out() -> None:
    rows = [row(0.0, 0), row(10.0, 10), row(100_000.0, 10, run=2), row(100_010.0, 20, run=2)]
    axis = Axis(rows)
    assert axis.place(10.0) - axis.place(0.0) > WIDTH / 3
    assert axis.place(50_000.0) in (axis.place(10.0), axis.place(100_000.0))
    assert len(axis.gaps) == 1
    chart = rate_chart("done", "Keys", rows, axis, [(5.0, 1)], "keys")
    assert chart is not None
    assert chart.path.count("M") == 2


def test_pauses_are_bands(journal: Journal) -> None:
    states = ["running", "paused", "paused", "running"]
    for number, state in enumerate(states):
        add_row(journal, "job", row(1e9 + number, number * 10, state=state, lag_seconds=1.5, lag_bytes=9))
    journal.begin_run("job", resumed=False)
    page = page_of(journal)
    assert [chart.name for chart in page.charts] == ["keys", "bytes", "lag"]
    for chart in page.charts:
        assert [band.state for band in chart.bands] == ["paused"]
    assert page.charts[2].description == "At most 1.5 s behind the source, 1.5 s at last."


def covered(path: str) -> list[int]:
    """Return the slots that a path covers, each as often as it does."""
    slots, row, column = [], 0, 0
    for kind, x, y, width in re.findall(r"([Mm])(\d+) ([\d.]+)h(\d+)", path):
        column = int(x) if kind == "M" else column + int(x)
        row = int(float(y)) if kind == "M" else row
        slots += [row * 256 + column + right for right in range(int(width))]
        column += int(width)
    return slots


@pytest.mark.parametrize(
    "ranges", [[(0, 16383)], [(0, 0)], [(255, 256)], [(3, 3), (5, 6), (9, 300)], [(100, 5000), (7000, 7001)]]
)
def test_a_path_covers_its_slots_once(ranges: list[tuple[int, int]]) -> None:
    assert sorted(covered(cells(ranges))) == [s for first, last in ranges for s in range(first, last + 1)]


def test_every_slot_of_a_map_is_inked_by_its_owner() -> None:
    shown = slot_map("Slots", [(0, 5460, "a:1"), (5461, 10922, "b:1"), (10923, 16383, "a:1")], {7: 2})
    assert shown is not None
    assert sorted(slot for owner in shown.owners for slot in covered(owner.path)) == list(range(16384))
    assert [(owner.name, owner.slots) for owner in shown.owners] == [("a:1", 10922), ("b:1", 5462)]
    assert covered(shown.marked) == [7]
    assert slot_map("Slots", []) is None


def test_the_most_scattered_cluster_makes_a_small_picture() -> None:
    ranges = [(slot, slot, f"{'ab'[slot % 2]}:1") for slot in range(16384)]
    shown = slot_map("Slots", ranges, dict.fromkeys(range(0, 16384, 2), 1))
    assert shown is not None
    assert sum(len(owner.path) for owner in shown.owners) < 120_000
    assert len(shown.marked) < 60_000
    for number, owner in enumerate(shown.owners):
        assert covered(owner.path) == list(range(number, 16384, 2))


def test_two_pictures_of_the_largest_clusters_fit_on_a_page() -> None:
    rng = random.Random(7)
    nodes = [f"10.100.100.{node}:7000" for node in range(500)]
    maps = [slot_map("Slots", [(slot, slot, rng.choice(nodes)) for slot in range(16384)]) for _ in "ab"]
    page = Page("t", "Reshard", "s", "good", [], "", "", maps=[shown for shown in maps if shown is not None])
    assert len(page.maps) == 2
    assert len(html(page).encode()) <= _MOST_BYTES


def test_slots_without_an_owner_are_told() -> None:
    shown = slot_map("Slots", [(0, 99, "a:1")])
    assert shown is not None
    assert shown.unserved == 16284
    assert "16,284 have no owner" in shown.description


def test_a_plan_shows_its_slots_before_and_after() -> None:
    nodes = [
        PlannedNode(name, f"{name}:7000", (name,), 0.5, slots, Holding(slots=count), Holding(slots=8192))
        for name, slots, count in (("a", "0-9999", 10000), ("b", "10000-16383", 6384))
    ]
    plan = Plan(
        "redis+cluster://a:7000/0",
        1.0,
        Policy(),
        "",
        tuple(nodes),
        (Transfer("a", "b", "0-1807", 1, 2),),
        (),
        False,
    )
    page = plan_page(plan)
    assert [[owner.slots for owner in shown.owners] for shown in page.maps] == [[10000, 6384], [8192, 8192]]
    assert "1,808 slots" in page.sentence
    assert html(page)


def test_texts_are_printable_and_bounded() -> None:
    assert clean("a\x00b\u202ec") == "a\\x00b\\u202ec"
    assert len(clean("x" * 5000)) == 400


@pytest.fixture
def verification(journal: Journal) -> Journal:
    setup = replace(_SETUP, purpose="verify")
    for name in ("compared", extra_job("compared")):
        journal.create(name, setup, 1, "id")
    return journal


def test_extra_and_misplaced_keys_are_differences_though_one_direction_found_none(
    verification: Journal,
) -> None:
    end(verification, "completed", Keys(3, unchanged=3), "compared")
    extra = FailedKey(b"x", 5, "extra", "", "n:1")
    astray = FailedKey(b"m", 9, "misplaced", "", "n:2")
    more = {"failures": [extra], "notes": [astray]}
    end(verification, "completed_with_failures", Keys(5, unchanged=4), extra_job("compared"), **more)
    keep_owners(verification, "compared", [(0, 16383, "n:1")])
    page = page_of(verification, "compared")
    assert (page.tone, "2 keys of both sides differ" in page.sentence) == ("bad", True)
    assert ("Status", "completed with differences") in page.facts
    assert covered(page.maps[0].marked) == [5, 9]
    assert [table.caption for table in page.keys] == ["Differences (2)"]


def test_keys_of_the_target_that_could_not_be_read_are_told(verification: Journal) -> None:
    end(verification, "completed", Keys(3, unchanged=3), "compared")
    waiting = [PendingKey(b"p", 8, "slot 8 is not served")]
    end(verification, "completed_with_failures", Keys(4, unchanged=3), extra_job("compared"), pending=waiting)
    page = page_of(verification, "compared")
    assert (page.tone, page.sentence.endswith("but 1 could not be read.")) == ("warning", True)
    assert [table.caption for table in page.keys] == ["Pending keys (1)"]


def test_a_verification_of_equal_sides_says_so(verification: Journal) -> None:
    for name in ("compared", extra_job("compared")):
        end(verification, "completed", Keys(3, unchanged=3), name)
    page = page_of(verification, "compared")
    assert (page.tone, "both sides are the same" in page.sentence) == ("good", True)


def test_keys_that_a_policy_gave_up_something_of_are_told(journal: Journal) -> None:
    count = MOST_KEYS + 5
    notes = [FailedKey(b"%d" % n, 3, "field_ttl", "TTLs", "") for n in range(count)]
    end(journal, "completed", Keys(count, count), notes=notes)
    page = page_of(journal)
    assert (page.tone, "Of 1,005 keys a policy gave up something" in page.sentence) == ("warning", True)
    assert [(c.name, c.count, c.tone) for c in page.counts][-1] == ("in part", count, "warning")
    (table,) = page.keys
    assert table.caption == "Keys that were copied in part (1,005)"
    assert table.more.startswith("5 more are not shown")


def test_every_run_is_drawn_to_its_end_however_many_rows_there_are() -> None:
    rows = [row(1e9, 0), row(1e9 + 10, 1000)]
    rows += [row(2e9 + number, 1000 + number, run=2) for number in range(2000)]
    chart = rate_chart("keys", "Keys", rows, Axis(rows), [], "keys")
    assert chart is not None
    assert chart.path.count("M") == 2
    assert "at most 100 keys/s" in chart.description
    assert chart.path.endswith(f"H{WIDTH:g}")


def test_a_run_that_was_killed_while_it_was_paused_shades_no_later_one(journal: Journal) -> None:
    states = [(1, "running"), (1, "paused"), (1, "paused"), (2, "running"), (2, "running"), (2, "running")]
    rows = [row(1e9 + n, n * 10, run=run, state=state) for n, (run, state) in enumerate(states)]
    axis = Axis(rows)
    chart = rate_chart("keys", "Keys", rows, axis, [], "keys")
    assert chart is not None
    (band,) = chart.bands
    assert band.at + band.width <= axis.place(1e9 + 2) + 0.1


def test_a_clock_that_was_set_back_between_two_runs_mixes_nothing(journal: Journal) -> None:
    rows = [row(1e9 + n, n * 10) for n in range(4)] + [row(1e9 + n - 1.5, 30 + n, run=2) for n in range(4)]
    for one in rows:
        add_row(journal, "job", one)
    found = series(journal, "job")
    assert found == rows
    chart = rate_chart("keys", "Keys", found, Axis(found), [], "keys")
    assert chart is not None
    assert chart.path.count("M") == 2


def test_marked_slots_side_by_side_are_one_piece() -> None:
    shown = slot_map("Slots", [(0, 16383, "a:1")], dict.fromkeys(range(16384), 1))
    assert shown is not None
    assert covered(shown.marked) == list(range(16384))
    assert shown.marked.count("M") == 64  # one piece a row


def test_what_has_to_be_escaped_takes_the_room_that_it_takes(journal: Journal) -> None:
    keys = [b"%04d" % number + b"<" * 300 for number in range(MOST_KEYS)]
    end(
        journal, "completed_with_failures", Keys(MOST_KEYS), failures=[failed(key, "<" * 390) for key in keys]
    )
    assert len(html(page_of(journal)).encode()) < 200_000


def test_the_average_is_of_this_pass_and_counts_what_was_killed(journal: Journal) -> None:
    end(journal, "completed", Keys(1000, 1000))
    journal.reset("job", _SETUP, 2, "id")
    journal.begin_run("job", resumed=False)
    for at in (1e9, 1e9 + 8):
        add_row(journal, "job", row(at, 0, run=2))
    number = journal.begin_run("job", resumed=True)
    journal.record("job", Advance(totals=Totals(Keys(100, 100), 1, 0, 0, 0)))
    journal.end_run("job", number, "completed", 2.0, None)
    facts = dict(page_of(journal).facts)
    assert facts["On average"] == "10 keys/s"
    assert facts["Runs"].startswith("2, 10")
    assert facts["Runs"].endswith("; 1 of earlier passes")


def test_an_older_run_s_cause_is_not_that_of_the_last_one(journal: Journal) -> None:
    journal.begin_run("job", resumed=False)
    journal.end_run("job", 1, "failed", 1.0, SourceLostError("the source is away"))
    journal.begin_run("job", resumed=True)
    assert "the source is away" not in page_of(journal).sentence


def test_a_page_is_bounded_whatever_stands_on_it(journal: Journal) -> None:
    failures = [failed(b"%05d" % n + b"&" * 300, "<" * 390) for n in range(MOST_KEYS)]
    waiting = [PendingKey(b"p%05d" % n + b"&" * 300, n, "<" * 390) for n in range(MOST_KEYS)]
    notes = [FailedKey(b"n%05d" % n, 3, "field_ttl", "<" * 390, "") for n in range(MOST_KEYS)]
    keys = Keys(MOST_KEYS * 3, MOST_KEYS)
    lists: dict[str, Any] = {"failures": failures, "pending": waiting, "notes": notes}
    end(journal, "completed_with_failures", keys, **lists)
    keep_owners(journal, "job", [(slot, slot, f"node-{slot % 100}:7000") for slot in range(16384)])
    told = [HistoryEntry(1, 1e9 + n, 1e9 + n, "notice", f"{n}" + "<" * 390) for n in range(300)]
    journal.tell("job", told)
    for number in range(2000):
        add_row(journal, "job", row(1e9 + number, number * number, lag_seconds=number / 7, lag_bytes=1))
    text = html(page_of(journal))
    assert len(text.encode()) <= _MOST_BYTES
    assert "since the page would be too large" in text


def test_a_table_of_a_reshard_is_bounded() -> None:
    rows = [("1-2,4-9" * 50, "<" * 390)] * 5_000
    page = Page("t", "Reshard", "s", "good", [], "", "", keys=[Table("Left", ("Slots", "Why"), rows)])
    assert len(html(page).encode()) <= _MOST_BYTES
