"""Key patterns and sums over a keyspace: what holds for any keys, and what a person expects of usual ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry import key_slot
from slotferry.preflight.keyspace.patterns import (
    is_placeholder,
    is_separator,
    merge_rare,
    parse_key,
    part_regex,
    render,
)
from slotferry.preflight.keyspace.summary import KeyFacts, KeyspaceSums, hash_tag

KEYS = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b"user", b":", b"42", b"{", b"}", b".", b"deadbeef01", b"alice", b"-", b"\x00", b"\xff"]
        ),
        max_size=60,
    ).map(b"".join),
)


@pytest.mark.parametrize(
    ("key", "pattern"),
    [
        (b"user:42:cart", "user:*:cart"),
        (b"{user:42}:profile", "{user:*}:profile"),
        (b"user42", "user*"),
        (b"session:6f1c8e0a-5b1d-4f0e-9a55-0242ac120002", "session:*"),
        (b"cache:9e107d9d372bb6826bd81d3542a419d6:html", "cache:*:html"),
        (b"stats.2024-01-31.views", "stats.*-*-*.views"),
        (b"token:aB3xK9pQ", "token:*"),
        (b"queue:high", "queue:high"),
        (b"v2:config", "v*:config"),
        (b"", ""),
        (b"\x00\xff", "\\x00\\xff"),
    ],
)
def test_usual_keys(key: bytes, pattern: str) -> None:
    assert render(parse_key(key).parts) == pattern


@given(KEYS)
def test_a_parsed_key_is_the_key(key: bytes) -> None:
    parsed = parse_key(key)

    assert b"".join(parsed.values) == key
    assert len(parsed.parts) == len(parsed.values)
    for part, value in zip(parsed.parts, parsed.values, strict=True):
        assert is_placeholder(part) or part == value
        assert value
        if is_separator(part):
            assert not re.search(rb"[0-9A-Za-z\x80-\xff]", value)


@given(KEYS)
def test_the_regex_of_a_pattern_matches_its_keys(key: bytes) -> None:
    parsed = parse_key(key)
    regex = "".join(part_regex(part) for part in parsed.parts).encode("latin-1")
    if len(parsed.parts) <= 40:  # what is beyond is one placeholder for all
        assert re.fullmatch(regex, key, re.DOTALL)


@given(st.lists(KEYS, max_size=60), st.integers(0, 5))
def test_merging_only_makes_words_vary(keys: list[bytes], limit: int) -> None:
    counts = {parse_key(key).parts: 1 for key in keys}
    merged = merge_rare(counts, limit)

    assert merged.keys() == counts.keys()
    for before, after in merged.items():
        assert len(before) == len(after)
        for old, new in zip(before, after, strict=True):
            assert new == old or (is_placeholder(new) and not is_separator(old))


def test_names_become_a_pattern_and_namespaces_stay() -> None:
    names = [b"user:%s:cart" % name for name in (b"ann", b"bob", b"eve")]
    names += [b"user:n%sx:cart" % bytes([97 + i // 5, 97 + i % 5]) for i in range(100)]
    spaces = {parse_key(b"%s:%d" % (b"space" + bytes([97 + i]), 1)).parts: 500 for i in range(26)}
    merged = merge_rare({**{parse_key(key).parts: 1 for key in names}, **spaces})

    assert {render(merged[parse_key(key).parts]) for key in names} == {"user:*:cart"}
    assert len({merged[pattern] for pattern in spaces}) == 26


def test_sums_of_a_keyspace() -> None:
    sums = KeyspaceSums()
    sums.add([KeyFacts(b"user:%d" % i, "string", 100, i % 4 == 0) for i in range(60)])
    sums.add([KeyFacts(b"{hot}:%d" % i, "hash", 1000, False) for i in range(40)])
    owners = {slot: "low" if slot < 8192 else "high" for slot in range(16384)}

    found = sums.result(1000, owners)

    assert (found.sampled, found.bytes, found.scale, found.full) == (100, 46_000, 10.0, False)
    assert [(share.name, share.keys) for share in found.by_pattern] == [("{hot}:*", 40), ("user:*", 60)]
    assert {share.name: share.with_ttl for share in found.by_type} == {"hash": 0, "string": 15}
    assert found.biggest[0].bytes == 1000
    (tag,) = found.hot_tags
    assert (tag.name, tag.keys, tag.slot) == ("hot", 40, key_slot(b"{hot}"))
    assert tag.node == ("low" if key_slot(b"hot") < 8192 else "high")
    assert sum(found.shares().values()) == pytest.approx(1.0)
    assert found.shares()[tag.node] > 40_000 / 46_000
    assert found.to_dict()["by_pattern"][1]["ttl_share"] == 0.25


def test_a_single_big_key_of_a_sample_stands_for_itself() -> None:
    sums = KeyspaceSums()
    sums.add(KeyFacts(b"user:%d" % i, "string", 100, False) for i in range(1000))
    sums.add([KeyFacts(b"{t}:huge", "hash", 10_000_000, False)])

    found = sums.result(100_100, dict.fromkeys(range(16384), "one"))

    assert found.scale == 100.0
    assert found.bytes * found.scale == 20_000_000
    estimates = {share.name: share.bytes * found.scale for share in found.by_pattern}
    assert estimates == {"user:*": 10_000_000, "{t}:huge": 10_000_000}
    assert found.biggest[0].bytes == 10_000_000
    assert {share.bytes * found.scale for share in found.primaries} == {20_000_000}


@given(st.lists(KEYS, min_size=1, max_size=40, unique=True))
def test_sums_lose_no_key(keys: list[bytes]) -> None:
    sums = KeyspaceSums()
    sums.add(KeyFacts(key, "string", len(key), False) for key in keys)
    found = sums.result(len(keys), dict.fromkeys(range(16384), "one"))

    assert found.full
    for shares in (found.by_type, found.by_pattern, found.primaries):
        assert sum(share.keys for share in shares) == len(keys)
        assert sum(share.bytes for share in shares) == sum(map(len, keys))


@given(KEYS)
def test_hash_tags_are_those_of_the_engine(key: bytes) -> None:
    tag = hash_tag(key)

    assert tag is None or (tag and key_slot(b"{%b}" % tag if b"}" not in tag else tag) == key_slot(key))
