"""What a hostile server makes of a reply: one way a name, all that is random from the caller's generator.

Invariant: for the same generator, arguments and own reply the result is the same. `WAYS` may be withheld from
the server or not; `OF_OWN` change the server's own reply, so the command must reach it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.servers.forger import Arguments, Forgery
from tests.servers.resp import Value, array, bulk, parse


@dataclass(frozen=True)
class Chance:
    """What a way may draw on: the generator, the command, and addresses that a redirect may name."""

    rng: random.Random
    arguments: Arguments
    addresses: Sequence[str]


ERRORS = (
    b"",
    b"ERR",
    b"ERR unknown command 'X', with args beginning with: ",
    b"ERR Bad data format",
    b"ERR DUMP payload version or checksum are wrong",
    b"ERR value is not an integer or out of range",
    b"ERR max number of clients reached",
    b"ERR invalid DB index",
    b"ERR This instance has cluster support disabled",
    b"ERR " + b"x" * 60_000,
    b"ERR \x1b[31m\x07\x9b\xff",
    b"ERR Protocol error: invalid bulk length",
    b"OOM command not allowed when used memory > 'maxmemory'.",
    b"MISCONF Redis is configured to save RDB snapshots",
    b"LOADING Redis is loading the dataset in memory",
    b"BUSY Redis is busy running a script.",
    b"BUSYKEY Target key name already exists.",
    b"BUSYGROUP Consumer Group name already exists",
    b"READONLY You can't write against a read only replica.",
    b"MASTERDOWN Link with MASTER is down",
    b"NOREPLICAS Not enough good replicas to write.",
    b"CLUSTERDOWN The cluster is down",
    b"CLUSTERDOWN Hash slot not served",
    b"TRYAGAIN Multiple keys request during rehashing of slot",
    b"CROSSSLOT Keys in request don't hash to the same slot",
    b"NOAUTH Authentication required.",
    b"NOPERM this user has no permissions to run the command",
    b"WRONGPASS invalid username-password pair or user is disabled.",
    b"DENIED Redis is running in protected mode",
    b"WRONGTYPE Operation against a key holding the wrong kind of value",
    b"EXECABORT Transaction discarded because of previous errors.",
    b"NOGROUP No such key",
    b"NOSCRIPT No matching script",
    b"IOERR error or timeout writing to target instance",
    b"NOMASTERLINK",
    b"UNBLOCKED",
    b"MOVED",
    b"MOVED 5",
    b"MOVED x y",
    b"MOVED 99999 127.0.0.1:1",
    b"MOVED -1 127.0.0.1:1",
    b"MOVED 5 :0",
    b"MOVED 5 127.0.0.1:70000",
    b"MOVED 5 \xff\xfe:1",
    b"ASK",
    b"ASK 5 127.0.0.1",
    b"ASK 16384 127.0.0.1:1",
)
_ODD = (
    b":5\r\n",
    b":0\r\n",
    b":-5\r\n",
    b"$5\r\nhello\r\n",
    b"$0\r\n\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"*0\r\n",
    b"+OK\r\n",
    b"+QUEUED\r\n",
    b"+\r\n",
    b"*3\r\n$-1\r\n*-1\r\n$-1\r\n",
    b"*2\r\n$1\r\n0\r\n*1\r\n:1\r\n",
    b"$4\r\n\xff\xfe\x00\r\r\n",
)
_HUGE = (
    b":9223372036854775807\r\n",
    b":99999999999999999999999\r\n",
    b"$9223372036854775807\r\n",
    b"$536870912\r\n",
    b"*9223372036854775808\r\n",
    b"*1000000000\r\n",
    b"$x\r\n",
    b"*x\r\n",
    b":\r\n",
    b":1.5\r\n",
    b"*1\r\n" * 10_000,
    b"*1\r\n" * 30 + b":1\r\n",
    b"+" + b"x" * 100_000 + b"\r\n",
)
_STRAY = (
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x50",
    b"%1\r\n+a\r\n:1\r\n",
    b"\r\n",
    b"_\r\n",
)
_LEAVES = (
    b"",
    b"-1",
    b"0",
    b"1",
    b"99999999999999999999",
    b"9223372036854775807",
    b"nan",
    b"x",
    b"\xff\xfe",
    b"1.5",
)


def _odd(chance: Chance, _: bytes) -> Forgery:
    return Forgery(chance.rng.choice(_ODD))


def _huge(chance: Chance, _: bytes) -> Forgery:
    reply = chance.rng.choice(_HUGE)
    return Forgery(reply, close=chance.rng.random() < 0.7)


def _error(chance: Chance, _: bytes) -> Forgery:
    return Forgery(b"-%b\r\n" % chance.rng.choice(ERRORS))


def _redirect(chance: Chance, _: bytes) -> Forgery:
    from slotferry import key_slot

    arguments = chance.arguments
    slot = key_slot(arguments[1]) if len(arguments) > 1 else 0
    if chance.rng.random() < 0.2:
        slot = chance.rng.randrange(16_384)
    where = chance.rng.choice(chance.addresses)
    return Forgery(f"-{chance.rng.choice(['MOVED', 'ASK'])} {slot} {where}\r\n".encode())


def _garbage(chance: Chance, _: bytes) -> Forgery:
    noise = chance.rng.randbytes(chance.rng.choice([1, 10, 1_000]))
    return Forgery(chance.rng.choice([*_STRAY, noise, noise]), close=chance.rng.random() < 0.5)


def _missing(_: Chance, __: bytes) -> Forgery:
    return Forgery(b"")


def _closed(_: Chance, __: bytes) -> Forgery:
    return Forgery(b"", close=True)


def _silence(_: Chance, __: bytes) -> Forgery:
    return Forgery(b"", deaf=True)


def _truncated(chance: Chance, own: bytes) -> Forgery:
    kept = own[: chance.rng.randrange(len(own) + 1)]
    return Forgery(kept, close=True) if chance.rng.random() < 0.8 else Forgery(kept, deaf=True)


def _split(_: Chance, own: bytes) -> Forgery:
    return Forgery(own, drip=1e-6) if len(own) < 3_000 else Forgery(own)


def _extra(chance: Chance, own: bytes) -> Forgery:
    return Forgery(own + chance.rng.choice([own, *_ODD, b"-ERR extra\r\n"]))


def _flipped(chance: Chance, own: bytes) -> Forgery:
    changed = bytearray(own)
    for _ in range(chance.rng.choice([1, 1, 3, 10])):
        if changed:
            changed[chance.rng.randrange(len(changed))] = chance.rng.randrange(256)
    return Forgery(bytes(changed))


def _wrong_length(chance: Chance, own: bytes) -> Forgery:
    line_end = own.index(b"\r\n")
    size = own[1:line_end]
    if own[:1] not in (b"$", b"*") or not size.isdigit():
        return _extra(chance, own)
    other = int(size) + chance.rng.choice([-5, -1, 1, 2, 7, 1_000])
    return Forgery(b"%b%d%b" % (own[:1], other, own[line_end:]))


def _text(chance: Chance, own: bytes) -> Forgery:
    """Change a bulk string's text in words or lines, with the right length."""
    value = parse(own)
    texts = [each for each in value.walk() if each.kind == b"$" and each.text]
    if not texts:
        return _tree(chance, own)
    rng, one = chance.rng, chance.rng.choice(texts)
    assert one.text is not None
    for _ in range(rng.choice([1, 1, 2, 5])):
        cut = rng.choice([b"\r\n", b"\n", b" ", b":", b",", b"="])
        parts = one.text.split(cut)
        at = rng.randrange(len(parts))
        how = rng.randrange(4)
        if how == 0:
            parts[at] = rng.choice(_LEAVES)
        elif how == 1:
            del parts[at]
        elif how == 2:
            parts.insert(at, parts[rng.randrange(len(parts))])
        else:
            parts = parts[:at]
        one.text = cut.join(parts)
    return Forgery(value.encode())


def _tree(chance: Chance, own: bytes) -> Forgery:
    """Change one node of the reply: another value, one element less, one twice."""
    value, rng = parse(own), chance.rng
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        one = rng.choice(list(value.walk()))
        how = rng.randrange(6)
        if how == 0 and one.items:
            del one.items[rng.randrange(len(one.items))]
        elif how == 1 and one.items:
            one.items.insert(rng.randrange(len(one.items)), rng.choice(one.items))
        elif how == 2 and one.items:
            rng.shuffle(one.items)
        elif how == 3:
            one.kind, one.text, one.items = b"$", None, None
        elif how == 4:
            one.kind, one.text, one.items = (
                b"*",
                None,
                [bulk(rng.choice(_LEAVES)) for _ in range(rng.randrange(3))],
            )
        else:
            one.kind, one.text, one.items = rng.choice([b":", b"$", b"$", b"+"]), rng.choice(_LEAVES), None
    return Forgery(value.encode())


def _nested(_: Chance, own: bytes) -> Forgery:
    return Forgery(array(parse(own)).encode())


def _other_kind(chance: Chance, own: bytes) -> Forgery:
    """The same text as another kind of value."""
    value = parse(own)
    text = value.text if value.items is None else b"%d" % len(value.items)
    kind = chance.rng.choice([kind for kind in (b"+", b":", b"$", b"-") if kind != value.kind])
    if kind != b"$":
        text = (text or b"").replace(b"\r", b" ").replace(b"\n", b" ")
    return Forgery(Value(kind, text).encode())


Way = Callable[[Chance, bytes], Forgery]
WAYS: dict[str, Way] = {
    "odd": _odd,
    "huge": _huge,
    "error": _error,
    "redirect": _redirect,
    "garbage": _garbage,
    "missing": _missing,
    "closed": _closed,
    "silence": _silence,
}
OF_OWN: dict[str, Way] = {
    "truncated": _truncated,
    "split": _split,
    "extra": _extra,
    "flipped": _flipped,
    "wrong length": _wrong_length,
    "text": _text,
    "tree": _tree,
    "nested": _nested,
    "other kind": _other_kind,
}
_COMMON = {"error": 5, "odd": 4, "huge": 2, "redirect": 3, "text": 4, "tree": 5, "silence": 0.4, "missing": 1}


def choose(rng: random.Random) -> str:
    """Return the name of a way; those that take long, or of which all are alike, come seldom."""
    names = [*WAYS, *OF_OWN]
    return rng.choices(names, [_COMMON.get(name, 1.0) for name in names])[0]
