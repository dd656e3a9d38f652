"""Reads a sample of the source's keys, or all of them, no faster than it is allowed to.

Invariant: a key is looked at with TYPE, PTTL and MEMORY USAGE (with its default of a few elements), never
read; the rate holds over the whole sample, so that the source serves its application meanwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from slotferry._core import KeyMap
from slotferry.model.key_filter import Selection
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.node import Node
from slotferry.net.replies import ResponseError
from slotferry.preflight.keyspace.summary import KeyFacts, KeyspaceSums
from slotferry.topology.databases import Route
from slotferry.topology.discovery import SourceFacts

_QUICK_KEYS = 4_000
_QUICK_RATE = 50_000.0
_PAGE = 200
_NEAR = 0.005
_MAX_PAGES_AT_ONCE = 16
_DUMPED_PER_TYPE = 20
_DUMPED_BYTES = 32_768
_SEEN_LIMIT = 1 << 18


def quick_shares(source: Connector, facts: SourceFacts, owners: Mapping[int, str]) -> dict[str, float] | None:
    """Return each primary's share of the data, by a small sample; None where the user may not take one.

    Raises `SourceLostError`.
    """
    with source.open(facts.address(source.endpoint)) as node:
        if source.endpoint.database:
            node.need("SELECT", source.endpoint.database)
        sampler = Sampler(node, _QUICK_RATE, facts.round_trip)
        try:
            sampler.run(facts.keys, _QUICK_KEYS)
        except ResponseError:
            return None
    return sampler.sums.result(facts.keys, owners).shares() or None


@dataclass(frozen=True)
class Choice:
    """Which keys of a database are looked at, and what they are called at the target; all, unless told.

    names: `Selection.key_map`, with its globs.
    """

    selection: Selection = field(default_factory=Selection)
    names: KeyMap | None = None

    @classmethod
    def of(cls, selection: Selection, route: Route) -> Choice:
        """Return the choice for the keys of a database that goes this way."""
        return cls(selection, selection.key_map(route.prefix, whole=True))

    def take(self, facts: KeyFacts, ttl_ms: int | None) -> KeyFacts | None:
        """Return a key with its name at the target; None where it is left out.

        What the user may not ask about (its size, its TTL) leaves no key out.
        """
        chosen = self.selection
        if facts.type in chosen.excluded_types or (chosen.types and facts.type not in chosen.types):
            return None
        if facts.bytes is not None:
            most = facts.bytes if chosen.max_size is None else chosen.max_size
            if not (chosen.min_size or 0) <= facts.bytes <= most:
                return None
        if facts.has_ttl and chosen.without_ttl:
            return None
        if facts.has_ttl and chosen.min_ttl is not None and (ttl_ms or 0) < chosen.min_ttl * 1000:
            return None
        if self.names is None:
            return facts
        placed = self.names.place(facts.key)
        if placed is None:
            return None
        return facts if placed[0] == facts.key else replace(facts, renamed=placed[0])


class Sampler:
    """Looks at keys of the database that `node` has selected."""

    def __init__(
        self,
        node: Node,
        rate: float,
        round_trip: float = 0.0,
        *,
        choice: Choice | None = None,
        sums: KeyspaceSums | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
        slots: Sequence[int] = (),
    ) -> None:
        """Look only at keys of `choice`, and add them to `sums`, which others may have begun.

        `on_progress` is told how many keys were asked about so far. `slots` are the server's, where its SCAN
        goes from slot to slot.
        """
        self._slots = slots
        self._node = node
        self._choice = choice or Choice()
        self._on_progress = on_progress
        # Far away several pages go together, so that the rate is what bounds it and not the distance.
        self._pages_at_once = 1 + min(_MAX_PAGES_AT_ONCE - 1, int(round_trip / _NEAR))
        self._rate = rate
        self._begun = time.monotonic()
        self._asked = 0
        self._may_measure = True
        self._may_read_ttl = True
        self.chosen = 0
        """How many of the keys that were looked at are chosen."""
        self.sums = sums or KeyspaceSums()
        self.rdb_types: dict[int, bytes] = {}
        """Payload types that were seen, each with a key that has it."""
        self._dumped: dict[str, int] = {}

    def run(self, keys: int, wanted: int) -> None:
        """Look at about `wanted` of the database's `keys` keys, at all where it has no more.

        Raises `SourceLostError`, and `ResponseError` where SCAN is refused.
        """
        with contextlib.suppress(ResponseError):  # 7.2 on: leaves LRU and LFU alone, which DUMP does not
            self._node.call("CLIENT", "NO-TOUCH", "ON")
        pages = self._every_page() if wanted >= keys else self._some_pages(wanted)
        for page in pages:
            facts = self._look(page)
            self.chosen += len(facts)
            self.sums.add(facts)
            self._note_types(facts)
            self._pace(len(page))

    def estimate(self, keys: int) -> int:
        """Return how many of the database's `keys` keys are chosen, by those that were looked at."""
        return round(keys * self.chosen / self._asked) if self._asked else 0

    def seek(self, keys: int, data_bytes: int, budget: int, enough: float) -> None:
        """Look for big keys beyond the sample: TYPE and MEMORY USAGE of up to `budget` keys.

        It ends where all but the share `enough` of `data_bytes` is accounted for. Raises what `run` raises.
        """
        for page in self._every_page():
            missing = self.sums.unexplained(keys, data_bytes)
            if budget <= 0 or not self._may_measure or missing <= data_bytes * enough:
                return
            budget -= len(page)
            self.sums.add_sizes(self._look(page))
            self._pace(len(page))

    def _every_page(self) -> Iterator[list[bytes]]:
        # SCAN may return a key twice, seldom. Among many keys that is not worth remembering them all.
        seen: set[int] = set()
        cursor = 0
        while True:
            cursor, page = self._scan(cursor)
            if len(seen) < _SEEN_LIMIT:
                fresh = {hash(key): key for key in page if hash(key) not in seen}
                seen.update(fresh)
                page = list(fresh.values())
            if page:
                yield page
            if cursor == 0:
                return

    def _some_pages(self, wanted: int) -> Iterator[list[bytes]]:
        """Yield the first page of each of 2^k partitions of the keyspace (docs/protocol.md, SCAN).

        Which bucket a key is in is decided by a keyed hash, so that this is a fair sample; and each key
        belongs to one partition, so that none is seen twice.
        """
        partitions = 1 << max(0, (wanted // _PAGE - 1).bit_length())
        count = max(1, wanted // partitions)
        cursors: Sequence[int] = range(partitions)
        if self._slots:
            step = max(1, len(self._slots) // partitions)
            cursors = self._slots[::step][:partitions]
        for start in range(0, len(cursors), self._pages_at_once):
            group = cursors[start : start + self._pages_at_once]
            answers = self._node.call_many([("SCAN", cursor, "COUNT", count) for cursor in group])
            for answer in answers:
                if isinstance(answer, ResponseError):
                    raise answer
            pages = [self._node.take(replies.scan_page, answer, "SCAN") for answer in answers]
            page = dict.fromkeys(key for _, keys in pages for key in keys)
            if page:
                yield list(page)

    def _scan(self, cursor: int) -> tuple[int, list[bytes]]:
        return self._node.parsed(replies.scan_page, "SCAN", cursor, "COUNT", _PAGE * self._pages_at_once)

    def _look(self, page: list[bytes]) -> list[KeyFacts]:
        questions: list[tuple[str | bytes, ...]] = [("TYPE", key) for key in page]
        if self._may_read_ttl:
            questions += [("PTTL", key) for key in page]
        if self._may_measure:
            questions += [("MEMORY", "USAGE", key) for key in page]
        answers = self._node.call_many(questions)
        count = len(page)
        types, others = answers[:count], answers[count:]
        ttls, others = (others[:count], others[count:]) if self._may_read_ttl else ([], others)
        sizes = others
        if sizes and all(isinstance(size, ResponseError) for size in sizes):
            self._may_measure, sizes = False, []
        if ttls and all(isinstance(ttl, ResponseError) for ttl in ttls):
            self._may_read_ttl, ttls = False, []
        facts = []
        for index, (key, kind) in enumerate(zip(page, types, strict=True)):
            if isinstance(kind, ResponseError):
                self.sums.denied += 1
            elif (name := self._node.take(replies.text, kind, "TYPE")) != "none":  # deleted meanwhile
                size = sizes[index] if sizes else None
                ttl = ttls[index] if ttls else None
                found = KeyFacts(
                    key,
                    name,
                    size if isinstance(size, int) else None,
                    isinstance(ttl, int) and ttl >= 0,
                )
                if (chosen := self._choice.take(found, ttl if isinstance(ttl, int) else None)) is not None:
                    facts.append(chosen)
        return facts

    def _note_types(self, facts: list[KeyFacts]) -> None:
        """DUMP a few small values of each type: the first byte says how they are encoded."""
        chosen = []
        for key in facts:
            done = self._dumped.get(key.type, 0)
            if done < _DUMPED_PER_TYPE and (key.bytes or 0) <= _DUMPED_BYTES and self._may_measure:
                self._dumped[key.type] = done + 1
                chosen.append(key.key)
        if not chosen:
            return
        for name, payload in zip(
            chosen, self._node.call_many([("DUMP", key) for key in chosen]), strict=True
        ):
            if isinstance(payload, bytes) and payload:
                self.rdb_types.setdefault(payload[0], name)

    def _pace(self, keys: int) -> None:
        self._asked += keys
        self._on_progress(self._asked)
        ahead = self._begun + self._asked / self._rate - time.monotonic()
        if ahead > 0:
            time.sleep(ahead)
