"""Commands as MONITOR shows them, their keys, and the hash tags that would join these; no server needed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry import key_slot
from slotferry.model.rules import Rewrite, as_bytes
from slotferry.preflight.application.analysis import Application, slow_entries
from slotferry.preflight.application.commands import (
    CommandTable,
    KeyFinder,
    local_keys,
    otherwise_name,
    parse_command_stats,
    unseen_several,
)
from slotferry.preflight.application.crossslot import CommandFollower, CommandUse
from slotferry.preflight.application.hashtags import find_placements, holds, render_tagged, rewrite_rule
from slotferry.preflight.application.monitor import LineSplitter, Observed, OwnClients, parse_line, read_log
from slotferry.preflight.application.tools import without_tools
from slotferry.preflight.keyspace.patterns import parse_key

_NAMED = {10: "\\n", 13: "\\r", 9: "\\t", 7: "\\a", 8: "\\b", 34: '\\"', 92: "\\\\"}


def quoted(argument: bytes) -> bytes:
    """What the server's `sdscatrepr` makes of it."""
    shown = (_NAMED.get(b) or (chr(b) if 32 <= b < 127 else f"\\x{b:02x}") for b in argument)
    return b'"' + "".join(shown).encode() + b'"'


def line(*arguments: bytes, client: bytes = b"127.0.0.1:60866") -> bytes:
    return b"1339518083.107412 [0 %b] %b" % (client, b" ".join(map(quoted, arguments)))


def follow(*commands: tuple[bytes, str], table: CommandTable | None = None) -> CommandFollower:
    follower = CommandFollower(KeyFinder(table or CommandTable()))
    for client, words in commands:
        follower.see(Observed(client, 0, tuple(words.encode().split(b" "))))
    return follower


def uses(*commands: tuple[bytes, str]) -> dict[str, CommandUse]:
    return {use.command: use for use in follow(*commands).result()}


def apply(rule: Rewrite, key: bytes) -> bytes:
    """Apply a rule as the engine does."""
    match = re.fullmatch(rule.match.encode(), key, re.DOTALL)
    assert match is not None

    def part(reference: re.Match[bytes]) -> bytes:
        group = reference[1] or reference[2]
        return match[int(group)] if group else b"$"

    return re.sub(rb"\$\$|\$\{(\d+)\}|\$(\d+)", part, as_bytes(rule.to))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=6))
def test_a_line_gives_back_its_arguments(arguments: list[bytes]) -> None:
    assert parse_line(line(*arguments)) == Observed(b"127.0.0.1:60866", 0, tuple(arguments))
    assert parse_line(b"+" + line(*arguments) + b"\r") == Observed(b"127.0.0.1:60866", 0, tuple(arguments))


@given(st.binary(max_size=80))
def test_any_other_line_is_none(text: bytes) -> None:
    observed = parse_line(text)
    assert observed is None or observed.arguments


@pytest.mark.parametrize("client", [b"lua", b"unix:/run/redis.sock", b"[::1]:6379", b"127.0.0.1:1"])
def test_clients(client: bytes) -> None:
    observed = parse_line(line(b"get", b"a", client=client))

    assert observed is not None
    assert observed.client == client
    assert observed.by_script is (client == b"lua")


@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b), max_size=20), st.data())
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter = LineSplitter()
    found = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += splitter.split(stream[begin:end])

    assert found == lines


def test_a_gap_costs_only_the_line_that_it_is_in() -> None:
    splitter = LineSplitter(amid_line=True)

    assert splitter.split(b"the end of a line\nwhole\nhalf") == [b"whole"]
    assert splitter.split(b" and half\n") == [b"half and half"]


def test_whose_commands_they_are() -> None:
    own = OwnClients("id=3 addr=1.1.1.1:1 name=slotferry db=0\nid=4 addr=1.1.1.1:2 name=app db=0\nnonsense")

    def sent(client: bytes, *arguments: bytes) -> bool:
        return own.sent(Observed(client, 0, arguments))

    assert sent(b"1.1.1.1:1", b"EXISTS", b"a", b"b")
    assert not sent(b"1.1.1.1:2", b"GET", b"a")
    assert not sent(b"1.1.1.1:3", b"GET", b"a")
    assert sent(b"1.1.1.1:3", b"client", b"setname", b"slotferry-reshard:host:1:ab")
    assert sent(b"1.1.1.1:3", b"DUMP", b"a")
    assert sent(b"1.1.1.1:4", b"CLIENT", b"SETNAME", b"sentinel-a61f7e6d-cmd")
    assert sent(b"1.1.1.1:4", b"PUBLISH", b"__sentinel__:hello", b"x")
    assert not sent(b"1.1.1.1:3", b"CLIENT", b"SETNAME", b"app")
    assert not sent(b"1.1.1.1:3", b"GET", b"a")


def test_a_log_in_another_format() -> None:
    entries = list(read_log([b"OK\n", line(b"GET", b"a") + b"\n", b"\n", b"GET a\n", b'{"cmd": "GET"}\n']))

    assert entries[0] == Observed(b"127.0.0.1:60866", 0, (b"GET", b"a"))
    assert entries[1:] == [b"GET a", b'{"cmd": "GET"}']


@pytest.mark.parametrize(
    ("call", "keys"),
    [
        ("MGET a b c", "a b c"),
        ("mset a 1 b 2", "a b"),
        ("GET a", "a"),
        ("PING", ""),
        ("EVAL script 2 a b arg", "a b"),
        ("EVALSHA sha 0 arg", ""),
        ("FCALL f 1 a arg", "a"),
        ("EVAL script many a", ""),
        ("ZUNIONSTORE out 2 a b WEIGHTS 1 2", "out a b"),
        ("BLPOP a b 0.5", "a b"),
        ("BLMPOP 1 2 a b LEFT", "a b"),
        ("XREAD COUNT 2 STREAMS a b 0 0", "a b"),
        ("XREADGROUP GROUP streams c COUNT 1 STREAMS a >", "a"),
        ("SORT a BY w_* STORE out", "a out"),
        ("GEORADIUS a 1 2 3 km STORE out", "a out"),
        ("BITOP AND out a b", "out a b"),
        ("RENAME a b", "a b"),
        ("MIGRATE host 6379 a 0 100", "a"),
        ("SMOVE a b member", "a b"),
    ],
)
def test_keys_of_usual_calls(call: str, keys: str) -> None:
    assert local_keys(call.encode().split(), CommandTable()) == keys.encode().split()


@given(
    st.lists(st.binary(max_size=8), min_size=1, max_size=8),
    st.sampled_from(
        ["mget", "mset", "eval", "blpop", "zunionstore", "xread", "sort", "bitop", "migrate", "lmpop", "get"]
    ),
)
def test_keys_of_any_call_are_arguments(rest: list[bytes], name: str) -> None:
    keys = local_keys([name.encode(), *rest], CommandTable())

    assert keys is not None
    assert all(key in rest for key in keys)


def test_the_server_has_the_last_word() -> None:
    table = CommandTable.parse(
        [
            [b"mget", -2, [b"readonly"], 1, -1, 1],
            [b"mod.pair", -3, [b"movablekeys"], 0, 0, 0],
            [b"object", -2, [], 0, 0, 0, [], [], [], [[b"object|freq", 3, [], 2, 2, 1]]],
            [b"broken"],
            None,
        ]
    )
    asked = []

    def ask(call: object) -> list[bytes]:
        asked.append(call)
        return [b"only this"]

    finder = KeyFinder(table, ask)
    assert finder.keys([b"mod.pair", b"x", b"y"]) == [b"only this"]
    assert finder.keys([b"OBJECT", b"freq", b"a"]) == [b"a"]
    assert finder.keys([b"mget", b"a", b"b"]) == [b"only this"]
    assert finder.corrected == {"mget"}
    assert finder.keys([b"mget", b"c", b"d"]) == [b"only this"]
    assert len(asked) == 3
    assert KeyFinder(table, lambda _: None).keys([b"mget", b"a", b"b"]) == [b"a", b"b"]


JUNK = st.recursive(
    st.none() | st.integers(-5, 5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6),
    max_leaves=30,
)


@given(st.lists(JUNK, max_size=5), st.lists(st.binary(max_size=6), min_size=1, max_size=5))
def test_replies_that_make_no_sense_do_no_harm(reply: list[object], call: list[bytes]) -> None:
    table = CommandTable.parse(reply)
    keys = local_keys(call, table)

    assert keys is None or set(keys) <= set(call)
    assert all(all(isinstance(part, bytes) for part in entry) for entry in slow_entries(reply))


CALLS = st.tuples(
    st.sampled_from([b"1", b"2", b"lua"]),
    st.sampled_from(
        [
            "MULTI",
            "EXEC",
            "DISCARD",
            "WATCH a:1",
            "MGET a:1 a:2",
            "EVAL x 1 a:1",
            "INCR b:1",
            "RESET",
            "EVAL x many",
        ]
    ),
)


@given(st.lists(CALLS, max_size=40))
def test_whatever_order_commands_come_in(commands: list[tuple[bytes, str]]) -> None:
    for use in follow(*commands).result():
        assert use.calls >= use.crossing >= 0
        assert len(use.patterns) == len(use.tagged) or not use.tagged


def test_a_multi_key_command_whose_keys_share_what_varies() -> None:
    use = uses(
        (b"1", "MGET user:42:cart user:42:profile"), (b"1", "MGET user:7:cart user:7:profile")
    )["MGET"]  # fmt: skip

    assert (use.kind, use.calls, use.crossing) == ("multi-key", 2, 2)
    assert use.patterns == ("user:*:cart", "user:*:profile")
    assert use.tagged == ("user:{*}:cart", "user:{*}:profile")
    assert use.tagged_example == ("user:{42}:cart", "user:{42}:profile")
    assert not use.constant


def test_keys_over_many_users_have_only_a_constant_tag() -> None:
    use = uses((b"1", "MGET user:1 user:2 user:3"))["MGET"]

    assert (use.tagged, use.constant) == (("{user}:*",), True)


def test_fixed_keys_are_joined_by_what_they_share() -> None:
    use = uses((b"1", "BLPOP queue:high queue:low 1"))["BLPOP"]

    assert (use.kind, use.tagged, use.constant) == ("blocking", ("{queue}:high", "{queue}:low"), False)


def test_keys_that_share_nothing() -> None:
    use = uses((b"1", "RENAME draft:1 page:2"))["RENAME"]

    assert (use.crossing, use.tagged) == (1, ())


def test_an_existing_tag_is_what_the_others_have_to_match() -> None:
    use = uses((b"1", "MGET {user:42}:a user:42:b"), (b"1", "MGET {user:7}:a user:7:b"))["MGET"]

    assert use.crossing == 0 or use.tagged == ("{user:*}:a", "{user:*}:b")
    assert use.tagged in ((), ("{user:*}:a", "{user:*}:b"))
    same = uses((b"1", "MGET {user:42}:a {user:42}:b"))["MGET"]
    assert (same.crossing, same.breaks) == (0, False)


def test_a_transaction_with_what_it_watches() -> None:
    found = uses(
        (b"1", "WATCH order:9"), (b"2", "GET x"), (b"1", "MULTI"), (b"1", "INCR stock:9"), (b"2", "MULTI"),
        (b"1", "GET stock:9"), (b"2", "SET a 1"), (b"2", "DISCARD"), (b"1", "EXEC"), (b"1", "EXEC"),
    )  # fmt: skip

    (use,) = found.values()
    assert (use.kind, use.command) == ("transaction", "MULTI INCR GET")
    assert set(use.tagged) == {"order:{*}", "stock:{*}"}


def test_a_script_and_the_keys_that_it_does_not_declare() -> None:
    found = uses(
        (b"1", "EVAL return 2 cart:7 user:7"), (b"lua", "GET cart:7"), (b"lua", "INCR stats:carts"),
        (b"2", "GET other"), (b"lua", "GET not-of-a-script-seen"),
    )  # fmt: skip

    (use,) = found.values()
    assert (use.kind, use.undeclared) == ("script", ("stats:carts",))
    assert use.tagged == ("cart:{*}", "user:{*}")


def test_names_become_one_pattern_across_calls() -> None:
    names = [f"n{chr(97 + i // 6)}{chr(97 + i % 6)}" for i in range(36)]
    found = follow(*((b"1", f"MGET user:{name}:cart user:{name}:wish") for name in names)).result()

    (use,) = found
    assert (use.calls, use.patterns) == (36, ("user:*:cart", "user:*:wish"))
    assert use.tagged == ("user:{*}:cart", "user:{*}:wish")


def test_commands_that_need_different_tags_of_one_pattern_are_told_apart() -> None:
    found = follow(
        *[(b"1", f"MGET pair:{i}:{i + 9} left:{i}") for i in range(5)],
        *[(b"1", f"SINTER pair:{i}:{i + 9} right:{i + 9}") for i in range(3)],
    ).result()
    first, second = found

    assert (first.command, first.tagged) == ("MGET", ("pair:{*}:*", "left:{*}"))
    assert (second.command, second.tagged, second.conflict) == ("SINTER", (), True)


def test_a_gap_forgets_what_was_half_seen() -> None:
    follower = follow((b"1", "MULTI"), (b"1", "SET a 1"))
    follower.lose_track()
    follower.see(Observed(b"1", 0, (b"EXEC",)))

    assert follower.result() == ()


KEYS = st.lists(
    st.sampled_from([b"user", b"cart", b":", b"42", b"7", b"{", b"}", b".", b"$", b"alice", b"_", b"\xe9"]),
    max_size=9,
).map(b"".join)


@given(st.lists(KEYS, min_size=2, max_size=4))
def test_a_placement_brings_its_keys_into_one_slot(keys: list[bytes]) -> None:
    parsed = [parse_key(key) for key in keys]
    for placement in find_placements(parsed):
        assert holds(placement, parsed)
        tagged = []
        for key in parsed:
            begin, end = placement[key.parts]
            rule = rewrite_rule(key.parts, (begin, end), "")
            whole = b"".join(key.values)
            tagged.append(whole if b"{" in whole else apply(rule, whole))
            assert "{" in render_tagged(key.parts, (begin, end))
        assert len({key_slot(key) for key in tagged}) == 1, tagged


def test_rules_of_the_advice() -> None:
    found = follow(
        (b"1", "MGET user:42:cart price$42"), (b"1", "MGET user:1 user:2"), (b"1", "RENAME {a}:1 {b}:1")
    ).result()
    rules = Application((), 3, found).rules()

    assert [(rule.match, rule.to) for rule in rules] == [
        ("^user:([0-9]+):cart$", "user:{$1}:cart"),
        (r"^price\$([0-9]+)$", "price$${$1}"),
    ]
    assert all(rule.last for rule in rules)


def test_a_group_is_told_from_the_text_behind_it() -> None:
    key = parse_key(b"7up:9")  # a word that begins with a digit stays one
    assert b"".join(key.values) == b"7up:9"
    rule = rewrite_rule((b"<int>", b"_", b"<int>"), (0, 1), "")
    assert (rule.match, rule.to) == ("^([0-9]+)_([0-9]+)$", "{$1}_$2")
    rule = rewrite_rule((b"<int>", b"_", b"<int>"), (2, 3), "")
    assert rule.to == "${1}_{$2}"


def test_commands_that_a_cluster_treats_otherwise() -> None:
    assert otherwise_name([b"SELECT", b"0"]) is None
    assert otherwise_name([b"select", b"2"]) == "select"
    assert otherwise_name([b"SCRIPT", b"LOAD", b"x"]) == "script|load"
    assert otherwise_name([b"SCRIPT", b"EXISTS", b"x"]) is None
    assert otherwise_name([b"GET", b"keys"]) is None
    assert otherwise_name([b"SORT", b"list", b"BY", b"weight_*"]) == "sort|by"
    assert otherwise_name([b"SORT", b"list", b"by", b"nosort", b"GET", b"#"]) is None


def test_command_stats() -> None:
    calls = parse_command_stats(
        {
            "cmdstat_mget": "calls=12,usec=3,usec_per_call=0.25",
            "cmdstat_del": "calls=5,usec=1",
            "cmdstat_exec": "calls=2,usec=1",
            "cmdstat_get": "calls=99,usec=1",
            "cmdstat_config|get": "calls=1,usec=1",
            "cmdstat_odd": "nothing",
        }
    )

    assert calls["config|get"] == 1
    assert unseen_several(calls, CommandTable(), []) == {"mget": 12, "exec": 2}
    assert unseen_several(calls, CommandTable(), ["mget"]) == {"exec": 2}


def test_slow_log_entries_that_were_cut_off() -> None:
    entries = [
        [1, 2, 3, [b"MGET", b"a", b"b", b"... (7 more arguments)"], b"127.0.0.1:1", b""],
        [1, 2, 3, [b"GET", b"a"]],
        [1, 2, 3, [b"EXISTS", b"a", b"b"], b"127.0.0.1:1", b"slotferry"],
        [1, 2, 3],
        b"nonsense",
        [1, 2, 3, []],
    ]

    assert list(slow_entries(entries)) == [(b"MGET", b"a", b"b"), (b"GET", b"a")]


def test_statistics_without_what_tools_have_sent() -> None:
    calls = {"exec": 6, "unwatch": 6, "publish": 9, "get": 1}
    app, sentinels = "id=1 addr=a:1 name= db=0", "id=2 addr=a:2 name=sentinel-a61f7e6d-cmd db=0"

    left, note = without_tools(calls, app)
    assert left == {"exec": 0, "unwatch": 6, "publish": 9, "get": 1}
    assert note == "EXEC 6 times, as Slotferry copies large keys (by as many UNWATCH)"
    assert unseen_several(left, CommandTable(), []) == {}
    assert without_tools(calls, f"{app}\n{sentinels}") == (
        {"exec": 0, "unwatch": 6, "get": 1},
        f"{note}; PUBLISH 9 times, as Sentinels do",
    )
    assert without_tools({"exec": 7, "unwatch": 5}, app)[0]["exec"] == 2
    assert without_tools({"exec": 7}, app) == ({"exec": 7}, "")
