"""RESP2 values as trees, for whoever forges replies.

Invariant: what was parsed is encoded to the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Value:
    """One RESP2 value: a line (`+`, `-`, `:`), a bulk string (`$`) or an array (`*`); nil: neither."""

    kind: bytes
    text: bytes | None = None
    items: list[Value] | None = None

    def encode(self) -> bytes:
        if self.kind == b"$":
            return b"$-1\r\n" if self.text is None else b"$%d\r\n%b\r\n" % (len(self.text), self.text)
        if self.kind == b"*":
            if self.items is None:
                return b"*-1\r\n"
            return b"*%d\r\n%b" % (len(self.items), b"".join(item.encode() for item in self.items))
        return b"%b%b\r\n" % (self.kind, self.text or b"")

    def walk(self) -> Iterator[Value]:
        """Yield this value and all below it."""
        yield self
        for item in self.items or ():
            yield from item.walk()


def bulk(text: bytes | None) -> Value:
    return Value(b"$", text)


def array(*items: Value) -> Value:
    return Value(b"*", items=list(items))


def parse(data: bytes) -> Value:
    """Return the one value that `data` is. Raises `ValueError` where it is none, or more than one."""
    value, at = _parse(data, 0)
    if at != len(data):
        raise ValueError("more than one value")
    return value


def is_whole(data: bytes) -> bool:
    """Whether `data` is exactly one value."""
    try:
        parse(data)
    except (ValueError, RecursionError):
        return False
    return True


def _parse(data: bytes, at: int) -> tuple[Value, int]:
    line_end = data.index(b"\r\n", at)
    kind, rest, at = data[at : at + 1], data[at + 1 : line_end], line_end + 2
    if kind in (b"+", b"-", b":"):
        return Value(kind, rest), at
    if kind not in (b"$", b"*"):
        raise ValueError("no RESP2")
    size = int(rest)
    if size < 0:
        return Value(kind), at
    if kind == b"$":
        if data[at + size : at + size + 2] != b"\r\n":
            raise ValueError("cut off")
        return Value(kind, data[at : at + size]), at + size + 2
    items = []
    for _ in range(size):
        item, at = _parse(data, at)
        items.append(item)
    return Value(kind, items=items), at
