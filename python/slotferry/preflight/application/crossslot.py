"""Which commands of an application a cluster would refuse with CROSSSLOT, and the hash tags against that.

Invariant: memory is bounded by the number of command shapes, not of commands; values are never kept, and of
keys only an example for each shape. A shape is a command with the patterns of its keys.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from slotferry._core import key_slots
from slotferry.preflight.application.commands import (
    BLOCKING,
    SCRIPTS,
    Arguments,
    CommandTable,
    KeyFinder,
    command_name,
    otherwise_name,
)
from slotferry.preflight.application.hashtags import (
    Placement,
    Span,
    describe_key,
    find_placements,
    gathers,
    holds,
    rank,
    render_tagged,
)
from slotferry.preflight.application.monitor import Observed
from slotferry.preflight.keyspace.patterns import ParsedKey, Pattern, merge_rare, parse_key, render
from slotferry.text import shorten_key

Kind = Literal["multi-key", "blocking", "transaction", "script"]

_MAX_SHAPES = 5_000
_MAX_PATTERNS = 8
_MAX_CLIENTS = 20_000
_MAX_QUEUED = 1_000
_EXAMPLE_KEYS = 4
_SHOWN_COMMANDS = 4


@dataclass(frozen=True)
class CommandUse:
    """A shape: a command, transaction or script with its keys' patterns, and what became of it.

    calls: how often it was seen; crossing: in how many of those the keys were in more than one slot.
    patterns: as they are; tagged: with the hash tag that would join them, in the same order, empty where
    none would. constant: that tag is the same for all keys of a pattern, which then are all in one slot.
    undeclared: patterns of keys that a script used without being given them.
    """

    kind: Kind
    command: str
    patterns: tuple[str, ...]
    calls: int
    crossing: int
    example: tuple[str, ...] = ()
    tagged: tuple[str, ...] = ()
    tagged_example: tuple[str, ...] = ()
    constant: bool = False
    conflict: bool = False
    undeclared: tuple[str, ...] = ()
    placement: Placement = field(default_factory=dict, repr=False, compare=False)

    @property
    def breaks(self) -> bool:
        """Whether a cluster would refuse some of these calls."""
        return self.crossing > 0 or bool(self.undeclared)

    def to_dict(self) -> dict[str, Any]:
        """Return it as the summary has it."""
        return {
            "kind": self.kind,
            "command": self.command,
            "patterns": list(self.patterns),
            "calls": self.calls,
            "crossing": self.crossing,
            "example": list(self.example),
            "tagged": list(self.tagged),
            "tagged_example": list(self.tagged_example),
            "constant_tag": self.constant,
            "conflict": self.conflict,
            "undeclared": list(self.undeclared),
        }


@dataclass
class _Shape:
    calls: int = 0
    crossing: int = 0
    example: tuple[bytes, ...] = ()
    placements: list[dict[Pattern, Span]] | None = None
    undeclared: Counter[Pattern] = field(default_factory=Counter)

    def add(self, keys: Sequence[ParsedKey], raw: Sequence[bytes]) -> None:
        self.calls += 1
        crossing = len(set(key_slots(raw))) > 1
        self.crossing += crossing
        if not self.example or (crossing and self.crossing == 1):
            self.example = tuple(raw[:_EXAMPLE_KEYS])
        if self.placements is None:
            self.placements = find_placements(keys)
        else:
            self.placements = [placement for placement in self.placements if holds(placement, keys)]


@dataclass
class _Transaction:
    commands: list[str] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)


_ShapeName = tuple[Kind, str, tuple[Pattern, ...]]


class CommandFollower:
    """Adds up the commands that are observed; `result` may be asked for at any time."""

    def __init__(self, finder: KeyFinder) -> None:
        self._finder = finder
        self.table: CommandTable = finder.table
        self._shapes: dict[_ShapeName, _Shape] = {}
        self._transactions: dict[bytes, _Transaction] = {}
        self._watched: dict[bytes, list[bytes]] = {}
        self._script: tuple[_ShapeName, frozenset[bytes]] | None = None
        self._may_be_several: dict[str, bool] = {}
        self.commands: Counter[str] = Counter()
        """How often each command was seen, those in transactions included, those in scripts not."""
        self.otherwise: Counter[str] = Counter()
        self.forgotten = 0
        """Calls of shapes that there was no room for."""

    def lose_track(self) -> None:
        """Commands are missing from here on: what was half seen is forgotten."""
        self._transactions.clear()
        self._watched.clear()
        self._script = None

    def see(self, observed: Observed) -> None:
        """Take the next command."""
        arguments = observed.arguments
        if observed.by_script:
            self._see_in_script(arguments)
            return
        self._script = None
        name = command_name(arguments)
        self.commands[name] += 1
        otherwise = otherwise_name(arguments)
        if otherwise is not None:
            self.otherwise[otherwise] += 1
        client = observed.client
        if name in ("multi", "exec", "discard", "watch", "unwatch", "reset"):
            self._see_transaction(client, name, arguments)
        elif client in self._transactions:
            self._queue(self._transactions[client], name, arguments)
        else:
            self.see_alone(name, arguments)

    def see_alone(self, name: str, arguments: Arguments) -> None:
        """Take a command that is part of no transaction."""
        if name in SCRIPTS:
            self._see_script(name, arguments)
            return
        several = self._may_be_several.get(name)
        if several is None:
            several = self._may_be_several[name] = self.table.several(name)
        if several:
            kind: Kind = "blocking" if _blocks(name, arguments) else "multi-key"
            self._record(kind, name.upper(), self._finder.keys(arguments))

    def _see_transaction(self, client: bytes, name: str, arguments: Arguments) -> None:
        if name == "watch":
            if len(self._watched) < _MAX_CLIENTS:
                self._watched.setdefault(client, []).extend(self._finder.keys(arguments)[:_MAX_QUEUED])
        elif name == "multi":
            if len(self._transactions) < _MAX_CLIENTS:
                self._transactions[client] = _Transaction()
        else:
            transaction = self._transactions.pop(client, None)
            watched = self._watched.pop(client, [])
            if name == "exec" and transaction is not None:
                names = list(dict.fromkeys(transaction.commands))
                shown = " ".join(names[:_SHOWN_COMMANDS]) + (" ..." if len(names) > _SHOWN_COMMANDS else "")
                self._record("transaction", f"MULTI {shown}".strip(), watched + transaction.keys)

    def _queue(self, transaction: _Transaction, name: str, arguments: Arguments) -> None:
        if len(transaction.commands) < _MAX_QUEUED:
            transaction.commands.append(name.upper())
            transaction.keys += self._finder.keys(arguments)

    def _see_script(self, name: str, arguments: Arguments) -> None:
        keys = self._finder.keys(arguments)
        self._script = (
            self._record("script", _script_label(name, arguments), keys, least=0),
            frozenset(keys),
        )

    def _see_in_script(self, arguments: Arguments) -> None:
        if self._script is None:
            return
        name, declared = self._script
        shape = self._shapes.get(name)
        if shape is not None:
            for key in self._finder.keys(arguments):
                if key not in declared:
                    shape.undeclared[parse_key(key).parts] += 1

    def _record(self, kind: Kind, command: str, raw: Sequence[bytes], least: int = 2) -> _ShapeName:
        keys = [parse_key(key) for key in raw]
        patterns = tuple(dict.fromkeys(key.parts for key in keys))[:_MAX_PATTERNS]
        name: _ShapeName = (kind, command, patterns)
        if len(raw) < least:
            return name
        shape = self._shapes.get(name)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self.forgotten += 1
                return name
            shape = self._shapes[name] = _Shape()
        kept = [key for key in keys if key.parts in patterns]
        shape.add(kept, raw)
        return name

    def result(self, known: Iterable[Pattern] = ()) -> tuple[CommandUse, ...]:
        """Return the uses, those that break most often first; `known` are patterns found in the data."""
        shapes = _merge(self._shapes, known)
        return _choose_tags(shapes)


def _blocks(name: str, arguments: Arguments) -> bool:
    return name in BLOCKING or (
        name in ("xread", "xreadgroup") and any(argument.upper() == b"BLOCK" for argument in arguments[1:6])
    )


def _script_label(name: str, arguments: Arguments) -> str:
    body = arguments[1] if len(arguments) > 1 else b""
    if name.startswith("fcall"):
        return f"FCALL {shorten_key(body, 40)}"
    if name.startswith("evalsha"):
        digest = body.decode("ascii", "replace").lower()
    else:
        digest = hashlib.sha1(body, usedforsecurity=False).hexdigest()
    return f"script {digest[:12]}"


def _merge(shapes: Mapping[_ShapeName, _Shape], known: Iterable[Pattern]) -> dict[_ShapeName, _Shape]:
    """Return the shapes with rare words of their patterns taken for what varies, and the same ones joined."""
    # With what the data has: a few commands alone do not show that `alice` is one of many names.
    counts: Counter[Pattern] = Counter(iter(known))
    for (_, _, patterns), shape in shapes.items():
        for pattern in (*patterns, *shape.undeclared):
            counts[pattern] += shape.calls
    final = merge_rare(counts)
    merged: dict[_ShapeName, _Shape] = {}
    for (kind, command, patterns), shape in shapes.items():
        name: _ShapeName = (kind, command, tuple(dict.fromkeys(final[pattern] for pattern in patterns)))
        placements = [
            p for placement in shape.placements or () if (p := _renamed(placement, final)) is not None
        ]
        into = merged.get(name)
        if into is None:
            into = merged[name] = _Shape(example=shape.example, placements=placements)
        else:
            into.placements = [placement for placement in into.placements or () if placement in placements]
            if shape.crossing and not into.crossing:
                into.example = shape.example
        into.calls += shape.calls
        into.crossing += shape.crossing
        for pattern, count in shape.undeclared.items():
            into.undeclared[final[pattern]] += count
    return merged


def _renamed(placement: Placement, final: Mapping[Pattern, Pattern]) -> dict[Pattern, Span] | None:
    renamed: dict[Pattern, Span] = {}
    for pattern, span in placement.items():
        if renamed.setdefault(final[pattern], span) != span:
            return None
    return renamed


def _choose_tags(shapes: Mapping[_ShapeName, _Shape]) -> tuple[CommandUse, ...]:
    """Choose one tag a pattern such that as many calls as possible work, the most frequent first."""
    ordered = sorted(shapes.items(), key=lambda item: (-item[1].crossing, -item[1].calls, item[0]))
    chosen: dict[Pattern, Span] = {}
    picked: dict[_ShapeName, Placement] = {}
    conflicts: set[_ShapeName] = set()
    # First the tags that spread keys, so that a constant one never stands in their way.
    for constant in (False, True):
        for name, shape in ordered:
            if not shape.crossing or name in picked:
                continue
            fitting = sorted((p for p in shape.placements or () if rank(p)[0] == constant), key=rank)
            for placement in fitting:
                if all(chosen.get(pattern, span) == span for pattern, span in placement.items()):
                    picked[name] = placement
                    conflicts.discard(name)
                    if not constant:
                        chosen.update(placement)
                    break
            else:
                if fitting:
                    conflicts.add(name)
    return tuple(
        _use(name, shape, picked.get(name, {}), conflict=name in conflicts) for name, shape in ordered
    )


def _use(name: _ShapeName, shape: _Shape, placement: Placement, *, conflict: bool) -> CommandUse:
    kind, command, patterns = name
    example_spans = _example_spans(shape.example, patterns, placement)
    return CommandUse(
        kind=kind,
        command=command,
        patterns=tuple(map(render, patterns)),
        calls=shape.calls,
        crossing=shape.crossing,
        example=tuple(shorten_key(key) for key in shape.example),
        tagged=tuple(render_tagged(p, placement[p]) for p in patterns) if placement else (),
        tagged_example=tuple(describe_key(key, span) for key, span in example_spans),
        constant=any(gathers(p, s) for p, s in placement.items()),
        conflict=conflict,
        undeclared=tuple(dict.fromkeys(render(p) for p, _ in shape.undeclared.most_common(_MAX_PATTERNS))),
        placement=placement,
    )


def _example_spans(
    example: Iterable[bytes], patterns: Iterable[Pattern], placement: Placement
) -> list[tuple[bytes, Span]]:
    """Return the example's keys with the spans of their (possibly merged) patterns."""
    by_length: dict[int, list[Pattern]] = defaultdict(list)
    for pattern in patterns:
        by_length[len(pattern)].append(pattern)
    found = []
    for key in example:
        parts = parse_key(key).parts
        for pattern in by_length[len(parts)]:
            if pattern in placement and all(
                a == b or a.startswith(b"<") for a, b in zip(pattern, parts, strict=True)
            ):
                found.append((key, placement[pattern]))
                break
    return found
