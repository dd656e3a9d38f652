"""Which part of their names keys that are used together have in common: the hash tag that would join them.

Invariant: pure. A placement says for each pattern which run of a key's parts to put in braces; it is a
candidate only as long as that run is the same text in all keys of every call. A key that has a hash tag
already can only be joined by that one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

from slotferry.model.rules import Rewrite
from slotferry.preflight.keyspace.patterns import (
    ANY,
    ParsedKey,
    Pattern,
    is_placeholder,
    is_separator,
    parse_key,
    part_regex,
    render,
)
from slotferry.preflight.keyspace.summary import hash_tag
from slotferry.text import show_key, show_part

Span = tuple[int, int]
"""Parts from the first up to but without the second."""

Placement = Mapping[Pattern, Span]

_MAX_WORDS = 3
_MAX_PLACEMENTS = 64


def spans(key: ParsedKey) -> dict[bytes, list[Span]]:
    """Return what could be the tag of `key`: each text with the runs of parts that it is at."""
    whole = b"".join(key.values)
    tag = hash_tag(whole)
    found: dict[bytes, list[Span]] = defaultdict(list)
    if tag is not None:
        span = _span_of_tag(key, whole.index(b"{") + 1, len(tag))
        return {tag: [span]} if span else {}
    if b"{" in whole:
        return {}  # another brace in front of ours would decide
    words = [index for index, part in enumerate(key.parts) if not is_separator(part)]
    for at, first in enumerate(words):
        for last in words[at : at + _MAX_WORDS]:
            text = b"".join(key.values[first : last + 1])
            if b"}" in text:
                break
            found[text].append((first, last + 1))
    return found


def _span_of_tag(key: ParsedKey, begin: int, length: int) -> Span | None:
    at, first, last = 0, None, None
    for index, value in enumerate(key.values):
        if at == begin:
            first = index
        at += len(value)
        if first is not None and at == begin + length:
            last = index + 1
            break
    return None if first is None or last is None else (first, last)


def find_placements(keys: Sequence[ParsedKey]) -> list[dict[Pattern, Span]]:
    """Return the placements that would bring these keys of one call into one slot."""
    by_pattern: dict[Pattern, list[ParsedKey]] = defaultdict(list)
    for key in keys:
        by_pattern[key.parts].append(key)
    options: dict[Pattern, dict[bytes, list[Span]]] = {}
    for pattern, members in by_pattern.items():
        first, *others = members
        options[pattern] = {
            text: kept
            for text, places in spans(first).items()
            if (kept := [span for span in places if all(_text(key, span) == text for key in others)])
        }
    shared = set.intersection(*(set(texts) for texts in options.values())) if options else set()
    found: list[dict[Pattern, Span]] = []
    for text in sorted(shared):
        for places in product(*(options[pattern][text] for pattern in options)):
            if len(found) >= _MAX_PLACEMENTS:
                return found
            found.append(dict(zip(options, places, strict=True)))
    return found


def holds(placement: Placement, keys: Iterable[ParsedKey]) -> bool:
    """Whether `placement` would bring these keys of one call into one slot, too."""
    return len({_text(key, placement[key.parts]) for key in keys}) == 1


def _text(key: ParsedKey, span: Span) -> bytes:
    return b"".join(key.values[span[0] : span[1]])


def varies(pattern: Pattern, span: Span) -> bool:
    """Whether different keys of the pattern get different tags by this run."""
    return any(is_placeholder(part) for part in pattern[span[0] : span[1]])


def gathers(pattern: Pattern, span: Span) -> bool:
    """Whether many keys of the pattern would all get one and the same tag by this run."""
    return any(map(is_placeholder, pattern)) and not varies(pattern, span)


def rank(placement: Placement) -> tuple[bool, int, int]:
    """Return what placements are sorted by, the best first: spreading, short, to the left."""
    return (
        any(gathers(pattern, span) for pattern, span in placement.items()),
        sum(end - begin for begin, end in placement.values()),
        sum(begin for begin, _ in placement.values()),
    )


def is_tagged(pattern: Pattern) -> bool:
    """Whether keys of the pattern have a hash tag already."""
    return hash_tag(b"".join(pattern)) is not None


def render_tagged(pattern: Pattern, span: Span) -> str:
    """Return the pattern with its tag in braces, as a person reads it: `user:{*}:cart`."""
    if is_tagged(pattern):
        return render(pattern)
    begin, end = span
    return f"{render(pattern[:begin])}{{{render(pattern[begin:end])}}}{render(pattern[end:])}"


def constant_tag(pattern: Pattern, span: Span) -> bytes:
    """Return the tag that all keys of the pattern would get; for a run that does not vary."""
    return b"".join(pattern[span[0] : span[1]])


def rewrite_rule(pattern: Pattern, span: Span, note: str) -> Rewrite:
    """Return the rule that puts the braces into keys of this pattern (see rewrite.py)."""
    match, to, groups = ["^"], [], 0
    for index, part in enumerate(pattern):
        if index == span[1]:
            to.append("}")
        if index == span[0]:
            to.append("{")
        # What is not ASCII is carried over by a group, too: in a rule file there is no other way to write it.
        if is_placeholder(part) or not part.isascii():
            groups += 1
            match.append(f"({part_regex(part)})")
            to.append(f"${{{groups}}}" if _needs_braces(pattern, index, span) else f"${groups}")
        else:
            match.append(part_regex(part))
            to.append(part.decode("ascii").replace("$", "$$"))
    if span[1] == len(pattern):
        to.append("}")
    match.append("$")
    return Rewrite("".join(match), "".join(to), last=True, note=note)


def _needs_braces(pattern: Pattern, index: int, span: Span) -> bool:
    """Whether what follows a group's number would be read as a part of its name."""
    if index + 1 in span or index + 1 == len(pattern):
        return False
    following = pattern[index + 1][:1]
    return following.isalnum() or following in (b"_", b"<")


def specificity(pattern: Pattern) -> tuple[int, int]:
    """Return what rules are sorted by, so that a rule for names does not take what one for numbers is for."""
    return (pattern.count(ANY), sum(map(is_placeholder, pattern)))


def describe_key(key: bytes, span: Span) -> str:
    """Return the key with its tag in braces: `user:{42}:cart`."""
    parsed = parse_key(key)
    if hash_tag(key) is not None:
        return show_key(key)
    begin, end = span
    before, tag, after = (b"".join(parsed.values[a:b]) for a, b in ((0, begin), (begin, end), (end, None)))
    return f"{show_part(before)}{{{show_part(tag)}}}{show_part(after)}"
