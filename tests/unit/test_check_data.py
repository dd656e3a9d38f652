"""The judgement of the data: what a target can't load, can't hold, or can't spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from slotferry import CheckOptions
from slotferry.preflight.compatibility import takes_rdb
from slotferry.preflight.keyspace.data import describe_place, judge_data, judge_placement
from slotferry.preflight.keyspace.summary import KeyFacts, Keyspace, KeyspaceSums
from slotferry.preflight.rows import Row
from slotferry.preflight.survey import Survey
from slotferry.topology.product import Product
from tests.unit.test_check_rows import GB, ONE, SURVEY, TWO, with_info

OWNERS = {slot: "new:1" if slot < 4096 else "new:2" for slot in range(16384)}


def _keyspace(*facts: KeyFacts, keys: int = 0) -> Keyspace:
    sums = KeyspaceSums()
    sums.add(facts)
    return sums.result(keys or len(facts), OWNERS)


def _row(
    name: str, keyspace: Keyspace, survey: Survey = SURVEY, rdb_types: Mapping[int, bytes] | None = None
) -> Row:
    types = {0: b"a"} if rdb_types is None else rdb_types
    rows = [*judge_data(keyspace), *judge_placement(keyspace, survey, types)]
    (row,) = [row for row in rows if row.name == name]
    return row


PLAIN = _keyspace(*(KeyFacts(b"key:%d" % i, "string", 100, False) for i in range(400)))


def test_plain_data_needs_nothing() -> None:
    for name in ("sample", "biggest-keys", "types", "value-size", "hot-slots", "hash-tags"):
        assert _row(name, PLAIN).status == "ok", name
    # Three quarters of the slots are at one of two primaries.
    assert _row("balance", PLAIN).status == "ok"
    tilted = {slot: "new:1" if slot < 1024 else "new:2" for slot in range(16384)}
    sums = KeyspaceSums()
    sums.add(KeyFacts(b"key:%d" % i, "string", 100, False) for i in range(400))
    assert _row("balance", sums.result(400, tilted)).status == "warning"


def test_an_empty_database() -> None:
    for name in ("sample", "biggest-keys", "types", "balance", "hot-slots", "hash-tags"):
        assert _row(name, _keyspace()).status == "ok", name


def test_module_types_that_the_target_lacks() -> None:
    documents = _keyspace(KeyFacts(b"doc:1", "ReJSON-RL", 100, False))
    survey = replace(SURVEY, source=replace(SURVEY.source, modules=frozenset({"ReJSON"})))

    row = _row("types", documents, survey)
    assert (row.status, row.side) == ("error", "target")
    assert "ReJSON" in row.message
    loaded = tuple(replace(view, modules=frozenset({"ReJSON"})) for view in survey.primaries)
    assert _row("types", documents, replace(survey, primaries=loaded)).status == "ok"


def test_field_ttls_and_late_streams_need_a_target_that_knows_them() -> None:
    new = tuple(replace(view, product=Product("redis", "8.8.0")) for view in (ONE, TWO))

    for kind, says in ((24, "--field-ttl drop"), (27, "newer target")):
        row = _row("types", PLAIN, rdb_types={0: b"a", kind: b"odd:key"})
        assert (row.status, "odd:key" in row.message) == ("warning", True)
        assert says in row.advice
        assert _row("types", PLAIN, replace(SURVEY, primaries=new), {kind: b"odd:key"}).status == "ok"


def test_big_keys_and_the_limit_of_the_target() -> None:
    big = _keyspace(KeyFacts(b"huge", "hash", 300 << 20, False), KeyFacts(b"small", "hash", 100, False))
    narrow = replace(SURVEY, primaries=(ONE, replace(TWO, max_value=100 << 20)))

    assert "huge (hash, 314.6 MB)" in _row("biggest-keys", big).message
    assert _row("biggest-keys", big).status == "warning"
    assert _row("value-size", big).status == "ok"
    assert _row("value-size", big, narrow).status == "warning"
    assert "copied in parts" in _row("value-size", big, narrow).message
    text = KeyFacts(b"text", "string", 200 << 20, False)
    both = _keyspace(KeyFacts(b"huge", "hash", 300 << 20, False), text)
    assert "text (string) takes" in (message := _row("value-size", both, narrow).message)
    assert "can't be written" in message


def test_sizes_that_may_not_be_asked_for() -> None:
    unknown = _keyspace(*(KeyFacts(b"{t}:%d" % i, "string", None, False) for i in range(10)))

    assert _row("sample", unknown).status == "warning"
    assert _row("biggest-keys", unknown).message.startswith("not checked")
    assert _row("value-size", unknown).message.startswith("not checked")
    assert _row("hash-tags", unknown).status == "warning"
    assert max(unknown.shares().values()) == 1.0
    assert unknown.to_dict()["bytes"] is None


def test_a_tag_or_key_beyond_a_fair_share() -> None:
    tagged = _keyspace(
        *(KeyFacts(b"{hot}:%d" % i, "string", 100, False) for i in range(60)),
        *(KeyFacts(b"key:%d" % i, "string", 100, False) for i in range(40)),
    )

    for name in ("hash-tags", "hot-slots"):
        row = _row(name, tagged)
        assert row.status == "warning"
        assert "60.0% of the data, more than a primary's fair share of 50%" in row.message


def test_where_a_constant_tag_would_be() -> None:
    assert describe_place(b"user", 0.2, SURVEY) == " at new:2"
    assert describe_place(b"user", 0.7, SURVEY) == " at new:2, beyond its fair share of 50%"
    full = replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=1_000_000)))
    assert describe_place(b"user", 0.2, full) == " at new:2, which would overflow"
    roomy = replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=GB)))
    assert describe_place(b"user", 0.2, roomy) == " at new:2"


def test_what_a_primary_says_that_it_takes_goes_before_the_table() -> None:
    assert takes_rdb(replace(ONE, rdb_versions=frozenset({9, 12})), 12)
    assert not takes_rdb(replace(ONE, rdb_versions=frozenset({9})), 10)


def test_how_many_keys_a_sample_is() -> None:
    assert CheckOptions(sample=500).wanted(10_000) == 500
    assert CheckOptions(sample="5%").wanted(10_000) == 500
    assert CheckOptions(sample="0.5%").wanted(10) == 1
    assert CheckOptions(full=True).wanted(10_000) == 10_000
    assert CheckOptions(sample=0).wanted(10_000) == 0
