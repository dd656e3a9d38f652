"""Key patterns: `user:42:cart` is one of `user:*:cart`.

Invariant: pure, on bytes; a pattern's parts and a key's values are of one length, and the values joined are
the key. A part is either what every key of the pattern has there or a placeholder for what varies.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from slotferry.text import show_part

# No word or separator of a key can be one of these: words hold no '<', separators no letters.
INT, UUID, HEX, ID, ANY = b"<int>", b"<uuid>", b"<hex>", b"<id>", b"<any>"
_KINDS = frozenset((INT, UUID, HEX, ID, ANY))

Pattern = tuple[bytes, ...]

_MAX_PARTS = 40
_WORD = rb"0-9A-Za-z\x80-\xff"
_TOKEN = re.compile(
    rb"(?<![%b])(?P<uuid>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?![%b])"
    rb"|(?P<separator>[^%b]+)"
    rb"|(?P<int>[0-9]+)(?![%b])"
    rb"|(?P<word>[%b]+)" % (_WORD, _WORD, _WORD, _WORD, _WORD),
    re.DOTALL,
)
_NUMBERED = re.compile(rb"([A-Za-z]{1,24})([0-9]+)")
_HEX = re.compile(rb"(?=.*[0-9])(?=.*[a-fA-F])[0-9a-fA-F]{8,}")
_DIGIT = re.compile(rb"[0-9]")
_LONG_WORD = 24
_LONG_MIXED = 8


@dataclass(frozen=True)
class ParsedKey:
    """A key taken apart: `values[i]` is what the key has where its pattern has `parts[i]`."""

    parts: Pattern
    values: tuple[bytes, ...]


def parse_key(key: bytes) -> ParsedKey:
    """Take `key` apart into words, numbers and what separates them."""
    parts: list[bytes] = []
    values: list[bytes] = []
    for match in _TOKEN.finditer(key):
        if len(parts) >= _MAX_PARTS:
            parts.append(ANY)
            values.append(key[match.start() :])
            break
        text, kind = match[0], match.lastgroup
        if kind == "word":
            numbered = _NUMBERED.fullmatch(text)
            if numbered and not _HEX.fullmatch(text):
                parts += (numbered[1], INT)
                values += (numbered[1], numbered[2])
                continue
            parts.append(_word_part(text))
        else:
            parts.append(INT if kind == "int" else UUID if kind == "uuid" else text)
        values.append(text)
    return ParsedKey(tuple(parts), tuple(values))


def _word_part(word: bytes) -> bytes:
    if _HEX.fullmatch(word):
        return HEX
    if len(word) >= _LONG_WORD or (len(word) >= _LONG_MIXED and _DIGIT.search(word)):
        return ID
    return word


def is_placeholder(part: bytes) -> bool:
    """Whether a part stands for what varies."""
    return part in _KINDS


def is_separator(part: bytes) -> bool:
    """Whether a part is neither a word nor a placeholder."""
    return part not in _KINDS and re.fullmatch(rb"[^%b]+" % _WORD, part, re.DOTALL) is not None


def render(pattern: Pattern) -> str:
    """Return the pattern as a person reads it, `*` for what varies."""
    return "".join("*" if part in _KINDS else show_part(part) for part in pattern)


def merge_rare(counts: Mapping[Pattern, int], limit: int = 20) -> dict[Pattern, Pattern]:
    """Return for each pattern the one it belongs to once rare words are taken for what varies.

    `user:alice` and `user:bob` are patterns of their own to `parse_key`, which sees one key at a time. Where
    more than `limit` words occur at one place behind the same beginning, and each in a few keys only, they
    are names: they become `ANY` there. Words that many keys share stay.
    """
    merged: dict[Pattern, Pattern] = {}
    # Each entry: what the result has so far, and the patterns that have it, from that position on.
    groups: list[tuple[Pattern, list[Pattern]]] = [((), list(counts))]
    while groups:
        begun, members = groups.pop()
        at = len(begun)
        weights: Counter[bytes] = Counter()
        for pattern in members:
            if len(pattern) > at:
                weights[pattern[at]] += counts[pattern]
        rare = _rare_words(weights, limit)
        following: dict[bytes, list[Pattern]] = defaultdict(list)
        for pattern in members:
            if len(pattern) == at:
                merged[pattern] = begun
            else:
                part = pattern[at]
                following[ANY if part in rare else part].append(pattern)
        groups += [((*begun, part), patterns) for part, patterns in following.items()]
    return merged


def _rare_words(weights: Mapping[bytes, int], limit: int) -> frozenset[bytes]:
    words = {part: weight for part, weight in weights.items() if not is_separator(part)}
    few = max(2, sum(words.values()) // 200)
    rare = frozenset(part for part, weight in words.items() if weight <= few and part not in _KINDS)
    if len(rare) <= limit:
        return frozenset()
    return rare | (words.keys() & _KINDS)  # numbers among names are names


_REGEXES = {
    INT: r"[0-9]+",
    UUID: r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    HEX: r"[0-9a-fA-F]+",
    ID: r"[0-9A-Za-z\x80-\xff]+",
    ANY: r"[0-9A-Za-z\x80-\xff]+",
}


def part_regex(part: bytes) -> str:
    """Return a regular expression (of Rust's regex crate as of Python's re, on bytes) for one part."""
    if part in _REGEXES:
        return _REGEXES[part]
    return "".join(_escape(byte) for byte in part)


def _escape(byte: int) -> str:
    character = chr(byte)
    if character.isascii() and (character.isalnum() or character in "_:/-,;@ "):
        return character
    return f"\\{character}" if character in ".*+?()[]{}|^$\\#&~" else f"\\x{byte:02x}"
