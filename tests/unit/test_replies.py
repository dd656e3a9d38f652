"""Replies: read within bounds of size, depth and time, and parsed to what they say or refused."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from slotferry.net import replies
from slotferry.net.replies import ErrorReply, MalformedReplyError, NotRespError, ReplyReader


def read(data: bytes, *, timeout: float = 5.0) -> Any:
    """Read one reply of a peer that sends `data` and hangs up."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        with theirs:
            try:
                theirs.sendall(data)
            except OSError:
                return  # the reader had enough

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with ours:
            return ReplyReader(ours, timeout).read()
    finally:
        sender.join()


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-7\r\n", -7),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
        (b"*2\r\n*1\r\n:1\r\n$1\r\nx\r\n", [[1], b"x"]),
        (b"-ERR no\r\n", ErrorReply("ERR no")),
        (b"$200000\r\n" + b"x" * 200_000 + b"\r\n", b"x" * 200_000),
        (b"*3000\r\n" + b"$100\r\n%b\r\n" % (b"y" * 100) * 3000, [b"y" * 100] * 3000),
    ],
)
def test_replies_come_as_they_are(data: bytes, reply: object) -> None:
    assert read(data) == reply


@pytest.mark.parametrize(
    "data",
    [
        b"*1\r\n" * 10_000,
        b"*2\r\n" * 17 + b":1\r\n",
        b"$9223372036854775807\r\n",
        b"$9223372036854775808\r\n",
        b"$-2\r\n",
        b"*-7\r\n",
        b"*1x\r\n",
        b":\r\n",
        b":1_0\r\n",
        b": 1\r\n",
        b"$2\r\nabcd\r\n",
        b"+" + b"x" * 100_000,
        b"-" + b"x" * 100_000,
        b"*2000000\r\n" + b":1\r\n" * 1_100_000,
        b"$%d\r\n" % (64 << 20),
        (b"*%d\r\n" % 40) + b"$1000000\r\n%b\r\n" % (b"z" * 1_000_000) * 40,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_out_of_bounds_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedReplyError):
        read(data)


def test_a_reply_that_is_cut_off_is_a_lost_connection() -> None:
    with pytest.raises(EOFError):
        read(b"$10\r\nabc")
    with pytest.raises(NotRespError):
        read(b"HTTP/1.1 400 Bad Request\r\n")


def test_an_error_is_shortened_and_without_control_characters() -> None:
    reply = read(b"-ERR \x1b[2J\x07" + b"x" * 60_000 + b"\r\n")
    assert isinstance(reply, ErrorReply)
    assert len(reply.text) < 400
    assert reply.text.isprintable()
    assert "60,009 characters" in reply.text


def test_a_peer_that_sends_a_byte_now_and_then_does_not_hold_up_for_longer_than_the_time_out() -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def drip() -> None:
        with theirs:
            theirs.sendall(b"$1000000\r\n")
            while not ended.wait(0.01):
                theirs.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    with ours:  # until nobody sends to it any more
        try:
            with pytest.raises(TimeoutError):
                ReplyReader(ours, 0.2).read()
        finally:
            ended.set()
            dripping.join()


_SLOTS = [[0, 16383, [b"h", 1, b"id"]]]
_ODD: list[Any] = [
    None,
    b"",
    b"text",
    -1,
    1 << 62,
    [],
    [None],
    [[]],
    [[0, 99999, [b"h", 1, b"id"]]],
    [[-1, 5, [b"h", 1, b"id"]]],
    [[9, 5, [b"h", 1, b"id"]]],
    [[0, 5, [b"h", 70_000, b"id"]]],
    [[0, 5, [b"h", -1, b"id"]]],
    [[0, 5, [b"h", 0, b"id"]]],
    [[0, 5, [b"h", b"x", b"id"]]],
    [[0, 5, [b"h" * 300, 1, b"id"]]],
    [[0, 5, [b"\xff\xfe", 1, b"id"]]],
    [[0, 5, [b"a b", 1, b"id"]]],
    [[0, 5, [[], 1, b"id"]]],
    [[0, 5, [7, 1, b"id"]]],
    [[0, 5, None]],
    [[0, 5]],
    [[0, 5, [b"h"]]],
    [*_SLOTS, *_SLOTS],
    ErrorReply("ERR"),
]


@pytest.mark.parametrize("odd", _ODD, ids=repr)
def test_odd_cluster_slots_are_refused_with_a_reason(odd: Any) -> None:
    if odd == []:
        assert replies.cluster_slots(odd) == []  # a cluster without slots: judged elsewhere
        return
    with pytest.raises(MalformedReplyError):
        replies.cluster_slots(odd)


def test_a_replica_without_an_address_is_left_out() -> None:
    (entry,) = replies.cluster_slots([[0, 1, [b"", 1, b"id"], [b"h", 0, b"new"], [b"?", 2, b"r"]]])
    assert (entry.primary.host, [(node.host, node.port) for node in entry.replicas]) == ("", [("", 2)])


_PARSERS: list[Callable[[Any], object]] = [
    replies.integer,
    replies.text,
    replies.texts,
    replies.info,
    replies.pairs,
    replies.clock,
    replies.scan_page,
    replies.cluster_slots,
]


def _random_reply(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(8 if depth < 4 else 6)
    if kind == 0:
        return None
    if kind == 1:
        return ErrorReply("ERR odd")
    if kind == 2:
        return chance.choice([0, -1, 5, 16383, 16384, 1 << 62, -(1 << 63)])
    if kind in (3, 4):
        return chance.choice([b"", b"0", b"17", b"-3", b"\xff", b"x" * 5000, b"a:b\r\nc:d", b"9" * 5000])
    if kind == 5:
        return [0, 5, [b"h", 1, b"id"]]
    return [_random_reply(chance, depth + 1) for _ in range(chance.randrange(5))]


@pytest.mark.parametrize("parse", _PARSERS, ids=lambda parse: parse.__name__)
def test_a_parser_parses_or_refuses_and_never_fails_otherwise(parse: Callable[[Any], object]) -> None:
    chance = random.Random(parse.__name__)
    complaints = [_complaint(parse, _random_reply(chance)) for _ in range(5_000)]
    assert any(complaints)
    assert max(map(len, complaints)) < 300


def _complaint(parse: Callable[[Any], object], reply: Any) -> str:
    """Return why a reply is refused; empty where it is not. Any other exception is the parser's fault."""
    try:
        parse(reply)
    except MalformedReplyError as error:
        return str(error)
    return ""


def test_numbers_of_info_are_numbers_or_the_default() -> None:
    fields = replies.info(b"a:5\r\nb:\r\nc:9" + b"9" * 5000 + b"\r\nd:x\r\nno line\r\ne:-3")
    assert [replies.number_of(fields, name, 7) for name in "abcdef"] == [5, 7, 7, 7, -3, 7]
