"""What a keyspace consists of, added up key by key: types, patterns, biggest keys, slots and hash tags.

Invariant: memory is bounded whatever is added: patterns and tags beyond a limit are merged or forgotten, the
rarest first. Figures of a sample are counts of the sample; `scale` says how many keys one of them stands for.
A single key that outweighs its sample is counted with such a part of its bytes that it stands for itself.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from slotferry._core import SLOTS, key_slot, key_slots
from slotferry.preflight.keyspace.patterns import Pattern, merge_rare, parse_key, render
from slotferry.text import shorten_key, show_part

_MAX_PATTERNS = 20_000
_MAX_TAGS = 100_000
_SHOWN = 10
# What a sample must show of a tag or slot before it is no accident; of a slot also this many times the mean.
_SEEN_OFTEN = 5
_SEEN_ABOVE_MEAN = 8
_OUTLIER = 0.01

_Name = bytes  # which is also what a field of `KeyFacts` is called


@dataclass(frozen=True)
class KeyFacts:
    """A key: its type as TYPE says it, its bytes by MEMORY USAGE (None: not known), whether it has a TTL.

    renamed: what it is called at the target, where that is another name.
    """

    key: bytes
    type: str
    bytes: int | None
    has_ttl: bool
    renamed: _Name | None = None

    @property
    def there(self) -> _Name:
        """Its name at the target, which says its slot."""
        return self.key if self.renamed is None else self.renamed


@dataclass(frozen=True)
class Share:
    """A part of the sample, by type or pattern; `example` is a key of it, escaped."""

    name: str
    keys: int
    bytes: int
    with_ttl: int
    example: str = ""


@dataclass(frozen=True)
class PlacedShare:
    """A part of the sample that is all in one slot, or at one primary; `node` is the primary."""

    name: str
    keys: int
    bytes: int
    node: str
    slot: int | None = None


@dataclass(frozen=True)
class Keyspace:
    """What was found. `keys` is how many the database has, `sampled` how many of them were looked at.

    `by_type` and `by_pattern` are complete, the largest first; `biggest`, `hot_slots` and `hot_tags` are the
    first few. `bytes_known` is False where the user may not run MEMORY USAGE. `sought` is how many keys
    besides the sample were asked for their size alone; `explained`, which share of the memory that the
    source's data takes is accounted for by all of these (None: not known).
    """

    keys: int
    sampled: int
    bytes: int
    bytes_known: bool
    by_type: tuple[Share, ...] = ()
    by_pattern: tuple[Share, ...] = ()
    biggest: tuple[KeyFacts, ...] = ()
    primaries: tuple[PlacedShare, ...] = ()
    hot_slots: tuple[PlacedShare, ...] = ()
    hot_tags: tuple[PlacedShare, ...] = ()
    denied: int = 0
    sought: int = 0
    explained: float | None = None
    patterns: Mapping[Pattern, Pattern] = field(default_factory=dict, repr=False, compare=False)

    @property
    def scale(self) -> float:
        """How many keys of the database one of the sample stands for."""
        return max(1.0, self.keys / self.sampled) if self.sampled else 1.0

    @property
    def full(self) -> bool:
        """Whether every key was looked at."""
        return self.sampled >= self.keys

    def shares(self) -> dict[str, float]:
        """Return each primary's share of the data: of the bytes, or of the keys where those are unknown."""
        total = self.bytes if self.bytes_known else self.sampled
        return {p.name: (p.bytes if self.bytes_known else p.keys) / total for p in self.primaries if total}

    def to_dict(self) -> dict[str, Any]:
        """Return the `data` of the summary; keys and bytes are estimates for the whole database."""
        scale = self.scale

        def share(part: Share) -> dict[str, Any]:
            return {
                "name": part.name,
                "keys": round(part.keys * scale),
                "bytes": round(part.bytes * scale) if self.bytes_known else None,
                "ttl_share": round(part.with_ttl / part.keys, 4) if part.keys else 0.0,
                "example": part.example,
            }

        def placed(part: PlacedShare) -> dict[str, Any]:
            return {
                "name": part.name,
                "keys": round(part.keys * scale),
                "bytes": round(part.bytes * scale) if self.bytes_known else None,
                "node": part.node,
                "slot": part.slot,
            }

        return {
            "keys": self.keys,
            "sampled": self.sampled,
            "bytes": round(self.bytes * scale) if self.bytes_known else None,
            "explained_share": None if self.explained is None else round(self.explained, 3),
            "by_type": [share(part) for part in self.by_type],
            "by_pattern": [share(part) for part in self.by_pattern[:100]],
            "biggest_keys": [
                {"key": shorten_key(key.key), "type": key.type, "bytes": key.bytes} for key in self.biggest
            ],
            "primaries": [placed(part) for part in self.primaries],
            "hot_slots": [placed(part) for part in self.hot_slots],
            "hot_tags": [placed(part) for part in self.hot_tags],
        }


class _Sum:
    __slots__ = ("bytes", "example", "example_there", "keys", "with_ttl")

    def __init__(self) -> None:
        self.keys = self.bytes = self.with_ttl = 0
        self.example = self.example_there = b""

    def add(self, other: _Sum) -> None:
        self.keys += other.keys
        self.bytes += other.bytes
        self.with_ttl += other.with_ttl
        self.example = self.example or other.example
        self.example_there = self.example_there or other.example_there

    def count(self, facts: KeyFacts) -> None:
        self.keys += 1
        self.bytes += facts.bytes or 0
        self.with_ttl += facts.has_ttl
        self.example = self.example or facts.key
        self.example_there = self.example_there or facts.there


class KeyspaceSums:
    """Adds keys up."""

    def __init__(self) -> None:
        self.sampled = 0
        self.denied = 0
        self._bytes_known = True
        self._total = _Sum()
        self._types: dict[str, _Sum] = defaultdict(_Sum)
        self._patterns: dict[Pattern, _Sum] = defaultdict(_Sum)
        self._slots: dict[int, _Sum] = defaultdict(_Sum)
        self._tags: dict[bytes, _Sum] = defaultdict(_Sum)
        self._biggest: list[tuple[int, bytes, KeyFacts]] = []
        self._sought = 0
        self._found: dict[bytes, KeyFacts] = {}

    def add(self, page: Iterable[KeyFacts]) -> None:
        """Add keys that were not added before."""
        keys = list(page)
        for facts, slot in zip(keys, key_slots([facts.there for facts in keys]), strict=True):
            self.sampled += 1
            if facts.bytes is None:
                self._bytes_known = False
            for part in (self._total, self._types[facts.type], self._slots[slot]):
                part.count(facts)
            self._patterns[parse_key(facts.key).parts].count(facts)
            tag = hash_tag(facts.there)
            if tag is not None:
                self._tags[tag].count(facts)
            size = facts.bytes or 0
            if len(self._biggest) < _SHOWN:
                heapq.heappush(self._biggest, (size, facts.key, facts))
            elif size > self._biggest[0][0]:
                heapq.heapreplace(self._biggest, (size, facts.key, facts))
        if len(self._patterns) > _MAX_PATTERNS:
            self._merge_patterns()
        if len(self._tags) > _MAX_TAGS:
            kept = heapq.nlargest(_MAX_TAGS // 2, self._tags.items(), key=lambda item: item[1].keys)
            self._tags = defaultdict(_Sum, kept)

    def add_sizes(self, page: Iterable[KeyFacts]) -> None:
        """Look for big keys beyond the sample: only the biggest are kept, and nothing is counted."""
        keys = list(page)
        self._sought += len(keys)
        for facts in keys:
            self._found[facts.key] = facts
        largest = heapq.nlargest(_SHOWN, self._found.values(), key=lambda facts: facts.bytes or 0)
        self._found = {facts.key: facts for facts in largest}

    def unexplained(self, keys: int, data_bytes: int) -> int:
        """Return how many of `data_bytes`, which `keys` keys take, are not accounted for by what was seen."""
        sampled = {facts.key for _, _, facts in self._biggest}
        total = sum(size for size, _, _ in self._biggest)
        rest = (self._total.bytes - total) * max(1.0, keys / max(1, self.sampled))
        beyond = sum(facts.bytes or 0 for key, facts in self._found.items() if key not in sampled)
        return max(0, data_bytes - round(rest) - total - beyond)

    def _merge_patterns(self) -> dict[Pattern, Pattern]:
        merged = merge_rare({pattern: part.keys for pattern, part in self._patterns.items()})
        sums: dict[Pattern, _Sum] = defaultdict(_Sum)
        for pattern, part in self._patterns.items():
            sums[merged[pattern]].add(part)
        if len(sums) > _MAX_PATTERNS // 2:
            sums = defaultdict(
                _Sum, heapq.nlargest(_MAX_PATTERNS // 2, sums.items(), key=lambda item: item[1].keys)
            )
        self._patterns = sums
        return merged

    def examples(self, limit: int) -> list[bytes]:
        """Return a key of each of the most frequent patterns, as the target names it."""
        first = heapq.nlargest(limit, self._patterns.values(), key=lambda part: part.keys)
        return [part.example_there for part in first]

    def result(self, keys: int, owners: Mapping[int, str], data_bytes: int = 0) -> Keyspace:
        """Return what was found in a database of `keys` keys; `owners` names the primary of each slot.

        `data_bytes` is the memory that all of the data takes, 0 where that is not known. To be asked for
        once, at the end.
        """
        unexplained = self.unexplained(keys, data_bytes)
        biggest = {facts.key: facts for _, _, facts in self._biggest} | self._found
        self._count_outliers_once(max(1.0, keys / max(1, self.sampled)))
        merged = self._merge_patterns()
        primaries: dict[str, _Sum] = {owner: _Sum() for owner in owners.values()}
        for slot, part in self._slots.items():
            if slot in owners:
                primaries[owners[slot]].add(part)
        tag_slots = key_slots([b"{%b}" % tag for tag in self._tags])
        tags = [
            PlacedShare(show_part(tag), part.keys, part.bytes, owners.get(slot, ""), slot)
            for (tag, part), slot in zip(self._tags.items(), tag_slots, strict=True)
        ]
        slots = [
            PlacedShare(str(slot), part.keys, part.bytes, owners.get(slot, ""), slot)
            for slot, part in self._slots.items()
        ]
        full = self.sampled >= keys
        return Keyspace(
            keys=max(keys, self.sampled),
            sampled=self.sampled,
            bytes=self._total.bytes,
            bytes_known=self._bytes_known,
            by_type=_shares(self._types),
            by_pattern=_shares({render(pattern): part for pattern, part in self._unique_names().items()}),
            biggest=tuple(heapq.nlargest(_SHOWN, biggest.values(), key=lambda facts: facts.bytes or 0)),
            primaries=tuple(
                PlacedShare(node, part.keys, part.bytes, node) for node, part in sorted(primaries.items())
            ),
            hot_slots=_hottest(slots, 0 if full else _SEEN_OFTEN + _SEEN_ABOVE_MEAN * self.sampled / SLOTS),
            hot_tags=_hottest(tags, 0 if full else _SEEN_OFTEN),
            denied=self.denied,
            sought=self._sought,
            explained=1 - unexplained / data_bytes if data_bytes and self._bytes_known else None,
            patterns=merged,
        )

    def _count_outliers_once(self, scale: float) -> None:
        """Let a key that outweighs its sample stand for itself, not for `scale` keys of its size.

        One key of 100 MB that happens to be in a sample of 2 % says nothing of 5 GB; five of them would.
        """
        limit = self._total.bytes * _OUTLIER
        for size, key, facts in self._biggest:
            alike = sum(other * 2 >= size for other, _, _ in self._biggest)
            if size <= limit or scale <= 1.0 or alike >= _SEEN_OFTEN:
                continue
            surplus = size - round(size / scale)
            parts = [self._total, self._types[facts.type], self._slots[key_slot(facts.there)]]
            pattern, tag = parse_key(key).parts, hash_tag(facts.there)
            parts += [self._patterns[pattern]] if pattern in self._patterns else []
            parts += [self._tags[tag]] if tag in self._tags and tag is not None else []
            for part in parts:
                part.bytes -= surplus

    def _unique_names(self) -> dict[Pattern, _Sum]:
        """Return the patterns such that no two of them read the same (`<int>` and `<hex>` are both `*`)."""
        first: dict[str, Pattern] = {}
        sums: dict[Pattern, _Sum] = defaultdict(_Sum)
        for pattern, part in self._patterns.items():
            sums[first.setdefault(render(pattern), pattern)].add(part)
        return sums


def hash_tag(key: bytes) -> bytes | None:
    """Return the part of `key` that is hashed instead of it (Redis Cluster specification), or None."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return tag if opened and closed and tag else None


def _shares(sums: Mapping[str, _Sum]) -> tuple[Share, ...]:
    found = [
        Share(name, part.keys, part.bytes, part.with_ttl, shorten_key(part.example))
        for name, part in sums.items()
    ]
    return tuple(sorted(found, key=lambda share: (-share.bytes, -share.keys, share.name)))


def _hottest(parts: list[PlacedShare], seen: float) -> tuple[PlacedShare, ...]:
    """Return the few with the most bytes, of those that `seen` keys or more were seen of."""
    likely = [part for part in parts if part.keys >= seen]
    return tuple(heapq.nlargest(_SHOWN // 2, likely, key=lambda part: (part.bytes, part.keys)))
