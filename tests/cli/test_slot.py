"""`slotferry slot`: keys from arguments and stdin, as bytes."""

from __future__ import annotations

import io
import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry import key_slot
from slotferry.cli.slot import hash_tag
from tests.cli.conftest import Invoke


def test_shows_slot_and_hash_tag(invoke: Invoke) -> None:
    result = invoke("slot", "foo", "{user1000}.following", "{}x", "a b")
    assert result.code == 0
    assert result.out.splitlines() == [
        "12182  foo",
        " 3443  {user1000}.following  (hash tag user1000)",
        f"{key_slot(b'{}x'):5}  {{}}x",
        f"{key_slot(b'a b'):5}  a b",
    ]


def test_reads_stdin_as_bytes(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO(b'foo\n\xff{t}\x01\r\n\n""\nk\xc3\xa4se\\r\nlast')
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=raw))
    result = invoke("slot", "--json", "first", "-")
    assert [json.loads(line) for line in result.out.splitlines()] == [
        {"type": "slot", "key": "first", "slot": key_slot(b"first"), "hash_tag": None},
        {"type": "slot", "key": "foo", "slot": 12182, "hash_tag": None},
        {"type": "slot", "key": r"\xff{t}\x01", "slot": key_slot(b"t"), "hash_tag": "t"},
        {"type": "slot", "key": '""', "slot": 0, "hash_tag": None},
        {"type": "slot", "key": "käse\\r", "slot": key_slot("käse\r".encode()), "hash_tag": None},
        {"type": "slot", "key": "last", "slot": key_slot(b"last"), "hash_tag": None},
    ]


def test_a_stray_backslash_on_stdin(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"foo\n\\Users\n")))
    result = invoke("slot", "-")
    assert result.code == 2
    assert "line 2 of stdin is not a key: the backslash at byte 1 begins no escape" in result.err


def test_an_argument_that_is_no_utf8_is_hashed_as_its_bytes(invoke: Invoke) -> None:
    assert invoke("slot", "k\udcff").out == f"{key_slot(b'k' + bytes([255])):5}  k\\xff\n"


@given(st.binary(max_size=30) | st.lists(st.sampled_from([b"{", b"}", b"a", b"b"])).map(b"".join))
def test_the_hash_tag_is_what_the_engine_hashes(key: bytes) -> None:
    tag = hash_tag(key)
    if tag is None:
        # Nothing but the whole key: another byte at its end hashes to another slot.
        assert key_slot(key + b"\x01") != key_slot(key)
    else:
        # The tag in braces has the slot that the key has, and what stands around them does not count.
        assert key_slot(key) == key_slot(b"{" + tag + b"}") == key_slot(key + b"\x01")
