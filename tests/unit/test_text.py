"""Keys as text: any bytes become one printable line, and different keys different lines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.text import escape_key, format_bytes, format_duration, shorten_key


@given(st.binary(max_size=100))
def test_an_escaped_key_is_printable_and_can_be_read_back(key: bytes) -> None:
    text = escape_key(key)
    assert text.isascii()
    assert text.isprintable()
    assert text.encode().decode("unicode_escape").encode("latin-1") == key


def test_a_plain_key_stays_as_it_is() -> None:
    assert escape_key(b'user:{1000}\'s "x"') == 'user:{1000}\'s "x"'
    assert escape_key(b"\x00\r\n\t\xff\\") == r"\x00\r\n\t\xff" + "\\\\"


@given(st.binary(max_size=300))
def test_a_shortened_key_is_short(key: bytes) -> None:
    text = shorten_key(key, 80)
    assert len(text) <= 110
    if len(escape_key(key)) <= 80:
        assert text == escape_key(key)
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
