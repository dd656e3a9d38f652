"""Keys as text: any bytes become one printable line, and different keys different lines."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slotferry.text import (
    escape_key,
    format_bytes,
    format_duration,
    format_slots,
    iso_time,
    local_time,
    read_key,
    shorten_key,
    show_key,
)


@given(st.binary(max_size=100))
def test_an_escaped_key_is_printable_and_can_be_read_back(key: bytes) -> None:
    text = escape_key(key)
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape").encode("latin-1") == key


def test_a_plain_key_stays_as_it_is() -> None:
    assert escape_key(b'user:{1000}\'s "x"') == 'user:{1000}\'s "x"'
    assert escape_key(b"\x00\r\n\t\xff\\") == r"\x00\r\n\t\xff" + "\\\\"


KEYS = st.binary(max_size=100) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass"))


@given(KEYS)
@example(b"")
@example(b'""')
@example(b"\r")
def test_a_shown_key_is_one_printable_line_and_is_read_back(key: bytes) -> None:
    text = show_key(key)
    assert text.isprintable()
    assert text
    assert read_key(text.encode()) == key


@given(KEYS.filter(lambda key: key not in (b"", b'""')))
def test_the_ascii_form_is_read_back_too(key: bytes) -> None:
    assert read_key(escape_key(key).encode()) == key


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("käse:日本:🍹".encode(), "käse:日本:🍹"),
        (b"", '""'),
        (b'""', r"\x22\x22"),
        (b'"a"', '"a"'),
        (b"caf\xc3\xa9\xff\r", r"café\xff\r"),
        ("\u202eabc".encode(), r"\xe2\x80\xaeabc"),
        ("a\u200bb\ufeff".encode(), r"a\xe2\x80\x8bb\xef\xbb\xbf"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_what_is_shown(key: bytes, text: str) -> None:
    assert show_key(key) == text


@pytest.mark.parametrize("text", [rb"C:\Users", b"a\\", rb"\x4", rb"\xzz", rb"\0"])
def test_a_backslash_that_begins_no_escape(text: bytes) -> None:
    with pytest.raises(ValueError, match="the backslash at byte"):
        read_key(text)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "replace")))
def test_a_shortened_key_is_short(key: bytes) -> None:
    text = shorten_key(key, 80)
    assert len(text) <= 110
    if len(show_key(key)) <= 80:
        assert text == show_key(key)
    else:
        assert f"({len(key)} bytes)" in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3e12, "3.0 TB")],
)
def test_sizes(number: float, text: str) -> None:
    assert format_bytes(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.44, "0.4s"), (12.4, "12s"), (59.9, "1m00s"), (185, "3m05s"), (7500, "2h05m")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_times_are_iso_8601_with_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (iso_time(None), local_time(None)) == (None, "")
    assert iso_time(1_796_031_989.9) == "2026-11-30T09:46:29Z"
    try:
        for zone, text in (("UTC", "09:46:29+00:00"), ("Asia/Kolkata", "15:16:29+05:30")):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert local_time(1_796_031_989.9) == f"2026-11-30T{text}"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_ranges_of_slots_are_written_as_the_command_line_takes_them() -> None:
    ranges = [(0, 99), (200, 200), (300, 301)]
    assert format_slots(ranges) == "0-99,200,300-301"
    assert format_slots(ranges, 3) == "0-99,200,300-301"
    assert format_slots(ranges, 2) == "0-99,200 and 1 more range"
    assert format_slots(ranges, 1) == "0-99 and 2 more ranges"
    assert format_slots([]) == ""
