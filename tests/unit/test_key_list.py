"""Lists of keys: what a line means, and what is refused."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.errors import MigrationInterrupted, UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.migrate.key_list import KeyList, in_chunks, read_names
from slotferry.model.key_filter import Selection
from slotferry.text import show_key


def read(path: Path) -> list[bytes]:
    with closing(KeyList(path, Selection())) as listed:
        assert [key for key, _ in listed] == list(listed.names())
        return list(listed.names())


@pytest.mark.parametrize("length", [0, 10, 1 << 20, 3 << 20])
def test_chunks_of_names_are_bounded_in_number_and_size(length: int) -> None:
    names = [b"x" * length] * (120_000 if length < 100 else 7)
    chunks = list(in_chunks(names))
    assert [name for chunk in chunks for name in chunk] == names
    for chunk in chunks:
        assert 0 < len(chunk) <= 50_000
        assert sum(map(len, chunk[:-1])) < 2 << 20


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


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.migrate.key_list._LONGEST_LINE", 8_000_000)
    with pytest.raises(UsageError, match="line 1 of the key list /dev/zero is longer than 8"):
        KeyList("/dev/zero", Selection())


def test_the_number_of_the_line_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.migrate.key_list._LONGEST_LINE", 4_000_000)
    (path := tmp_path / "keys").write_bytes(b"a\n" * 999_999 + b"x" * (7 << 20))
    with pytest.raises(UsageError, match="line 1,000,000 of the key list"):
        KeyList(path, Selection())


@contextmanager
def writing(path: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Let a process write into a FIFO."""
    pipe = os.open(path, os.O_RDWR)  # which waits for no reader
    try:
        process = subprocess.Popen(command, stdout=pipe)
    finally:
        os.close(pipe)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_list_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slotferry.migrate.key_list._LONGEST_LIST", 40_000_000)
    os.mkfifo(path := tmp_path / "keys")
    with (
        writing(path, "yes", "key"),
        pytest.raises(UsageError, match=r"is longer than 40.0 MB \([0-9,]+ lines so far\)") as caught,
    ):
        KeyList(path, Selection())
    assert "an end" in caught.value.hint


def test_a_pipe_is_read_as_it_comes(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "keys")
    with writing(path, "seq", "300000"):
        assert read(path) == [b"%d" % number for number in range(1, 300_001)]


def test_a_pipe_that_nobody_writes_to_is_waited_for_until_the_end_is_asked_for(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "keys")
    cancel = CancelRequest()
    cancel.ask()
    with pytest.raises(MigrationInterrupted):
        KeyList(path, Selection(), cancel)


def test_keys_are_counted_once_each(tmp_path: Path) -> None:
    (path := tmp_path / "keys").write_bytes(b"a\nb\na\n{a}x\n")
    with closing(KeyList(path, Selection())) as listed:
        assert sorted(listed.distinct()) == [b"a", b"b", b"{a}x"]
