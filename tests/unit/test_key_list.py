"""Lists of keys: what a line means, and what is refused."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.errors import UsageError
from slotferry.key_list import KeyList, read_names
from slotferry.selection import Selection
from slotferry.text import show_key


def read(path: Path) -> list[bytes]:
    with closing(KeyList(path, Selection())) as listed:
        assert [key for key, _ in listed] == list(listed.names())
        return list(listed.names())


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@given(st.lists(st.binary(max_size=20)))
def test_what_is_shown_is_what_is_read(end: str, mark: bytes, keys: list[bytes]) -> None:
    text = "".join(show_key(key) + end for key in keys).encode()
    assert list(read_names((mark + text).splitlines(keepends=True), "the list")) == keys


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (b"a\r\nb\r\n", [b"a", b"b"]),
        (b"a\r\r\nb\r", [b"a\r", b"b"]),
        (b"a\\r\n", [b"a\r"]),
        (b"\n\r\n \n", [b" "]),
        (b'""\n\n', [b""]),
        (b'\\x22"\n', [b'""']),
        (b"\xff\\xFf\\\\\n", [b"\xff\xff\\"]),
        (b"", []),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", [b"a", b"\xef\xbb\xbfb"]),
    ],
)
def test_lines(content: bytes, keys: list[bytes], tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_bytes(content)
    assert read(path) == keys


def test_a_stray_backslash_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_bytes(b"a\n\nC:\\Users\nb\n")
    with pytest.raises(
        UsageError, match=r"line 3 of the key list .* the backslash at byte 3 begins no"
    ) as caught:
        KeyList(path, Selection())
    assert r"write a backslash as \\\\" in repr(caught.value.hint)


def test_a_list_without_lines_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.key_list._LONGEST_LINE", 8 << 20)
    with pytest.raises(UsageError, match="the key list /dev/zero has a line of more than"):
        KeyList("/dev/zero", Selection())
