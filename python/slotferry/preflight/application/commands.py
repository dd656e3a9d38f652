"""Which arguments of a command are keys, and what a cluster does otherwise.

Invariant: COMMAND GETKEYS of the server is the authority: what is worked out here (quickly, for millions of
commands) is held against its answer for the first calls of each command, and gives way where they differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from slotferry.net import replies

Arguments = Sequence[bytes]

_VERIFIED_PER_COMMAND = 5
_MAX_QUESTIONS = 2_000
_FARTHEST = 1_000  # no command has its keys farther from either end

OTHERWISE = {
    "select": "a cluster has database 0 alone (Valkey 9: as many as cluster-databases says)",
    "move": "a cluster has database 0 alone: MOVE is refused",
    "swapdb": "SWAPDB is refused in a cluster",
    "keys": "KEYS sees the keys of one primary: ask every one",
    "scan": "SCAN sees the keys of one primary: scan every one",
    "flushall": "FLUSHALL empties one primary: send it to every one",
    "flushdb": "FLUSHDB empties one primary: send it to every one",
    "dbsize": "DBSIZE counts the keys of one primary: add them up",
    "randomkey": "RANDOMKEY picks from one primary",
    "publish": "PUBLISH goes to every node and costs each; SPUBLISH stays within one shard",
    "wait": "WAIT waits for the replicas of the primary that it is sent to",
    "script|load": "SCRIPT LOAD reaches one node: load a script at every primary",
    "script|flush": "SCRIPT FLUSH reaches one node",
    "function|load": "FUNCTION LOAD reaches one node: load a library at every primary",
    "sort|by": "SORT with BY or GET patterns is refused, unless their keys are in the slot of the list",
    "psubscribe": "keyspace notifications come from the node that has the key alone: subscribe at every one",
}
"""Commands that answer otherwise in a cluster, each with what to know."""

BLOCKING = frozenset({"blpop", "brpop", "brpoplpush", "blmove", "blmpop", "bzpopmin", "bzpopmax", "bzmpop"})
SCRIPTS = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
SPLITTABLE = frozenset({"mget", "mset", "del", "unlink", "exists", "touch"})
"""Multi-key commands that cluster clients can send as one command a slot; then they are not atomic."""


@dataclass(frozen=True)
class KeySpec:
    """Where a command's keys are, as COMMAND says it; `movable` where first, last and step are not all."""

    first: int
    last: int
    step: int
    movable: bool = False

    @property
    def several(self) -> bool:
        """Whether a call can have more than one key."""
        return self.movable or (self.first > 0 and self.last != self.first)


_ALL, _PAIR = KeySpec(1, -1, 1), KeySpec(1, 2, 1)
_MOVABLE = KeySpec(0, 0, 0, movable=True)

_KNOWN: dict[str, KeySpec] = {
    **dict.fromkeys(("mget", "del", "unlink", "exists", "touch", "watch", "pfcount", "pfmerge"), _ALL),
    **dict.fromkeys(("sinter", "sunion", "sdiff", "sinterstore", "sunionstore", "sdiffstore"), _ALL),
    **dict.fromkeys(("mset", "msetnx"), KeySpec(1, -1, 2)),
    **dict.fromkeys(("rename", "renamenx", "rpoplpush", "brpoplpush", "lmove", "blmove", "smove"), _PAIR),
    **dict.fromkeys(("copy", "lcs", "geosearchstore", "zrangestore"), _PAIR),
    **dict.fromkeys(("blpop", "brpop", "bzpopmin", "bzpopmax"), KeySpec(1, -2, 1)),
    "bitop": KeySpec(2, -1, 1),
    **dict.fromkeys(("object", "xgroup", "xinfo", "memory"), KeySpec(2, 2, 1)),
    **dict.fromkeys(("sort", "sort_ro", "georadius", "georadiusbymember"), KeySpec(1, 1, 1, movable=True)),
    **dict.fromkeys(("migrate", "xread", "xreadgroup"), _MOVABLE),
}

# Where a number says how many keys follow it, and the place of a key that stands before.
_COUNTED: dict[str, tuple[int, int, int]] = {
    **dict.fromkeys(SCRIPTS, (2, 0, 1)),
    **dict.fromkeys(("zunion", "zinter", "zdiff", "zintercard", "sintercard", "lmpop", "zmpop"), (1, 0, 1)),
    **dict.fromkeys(("blmpop", "bzmpop"), (2, 0, 1)),
    **dict.fromkeys(("zunionstore", "zinterstore", "zdiffstore"), (2, 1, 1)),
    "msetex": (1, 0, 2),
}

# fmt: off
# Options of XREAD and XREADGROUP with what belongs to them: a group may be named STREAMS.
_STREAM_OPTIONS = {b"BLOCK": 2, b"COUNT": 2, b"GROUP": 3, b"CLAIM": 2}

_KEYLESS = frozenset((
    "acl", "asking", "auth", "bgrewriteaof", "bgsave", "client", "cluster", "command", "config",
    "dbsize", "discard", "echo", "exec", "failover", "flushall", "flushdb", "hello", "info", "keys",
    "lastsave", "latency", "lolwut", "module", "monitor", "multi", "ping", "psubscribe", "publish",
    "pubsub", "punsubscribe", "quit", "randomkey", "readonly", "readwrite", "reset", "role", "save",
    "scan", "script", "select", "shutdown", "slowlog", "subscribe", "swapdb", "sync", "time",
    "unsubscribe", "unwatch", "wait", "waitaof",
))
# fmt: on


class CommandTable:
    """What a server's COMMAND says about its commands, or what is known of them without."""

    def __init__(self, specs: Mapping[str, KeySpec] | None = None) -> None:
        self._specs = dict(specs) if specs is not None else None

    @classmethod
    def parse(cls, reply: Any) -> CommandTable:
        """Take a reply to COMMAND; entries that are not understood are left out."""
        specs: dict[str, KeySpec] = {}
        for entry in reply:
            _read_entry(entry, specs)
        return cls(specs)

    def spec(self, arguments: Arguments) -> KeySpec:
        """Return where the keys of this call are."""
        name = command_name(arguments)
        if self._specs is not None:
            if len(arguments) > 1:
                found = self._specs.get(f"{name}|{_lower(arguments[1])}")
                if found is not None:
                    return found
            found = self._specs.get(name)
            if found is not None:
                return found
        known = _KNOWN.get(name)
        if known is not None:
            return known
        if name in _COUNTED:
            return _MOVABLE
        return KeySpec(0, 0, 0) if name in _KEYLESS else KeySpec(1, 1, 1)

    def several(self, name: str) -> bool:
        """Whether a call of this command can have more than one key."""
        if name in _COUNTED:
            return True
        if self._specs is not None and name in self._specs:
            return self._specs[name].several
        return name in _KNOWN and _KNOWN[name].several


def _read_entry(entry: Any, specs: dict[str, KeySpec]) -> None:
    try:
        name = _lower(entry[0])
        flags = {flag.lower() for flag in entry[2]}
        first, last, step = (replies.integer(place, -_FARTHEST, _FARTHEST) for place in entry[3:6])
        spec = KeySpec(first, last, step, b"movablekeys" in flags)
        if spec.first > 0 and spec.step < 1:
            return
        specs[name] = spec
        for subcommand in entry[9] if len(entry) > 9 else ():
            _read_entry(subcommand, specs)
    except (AttributeError, TypeError, ValueError, IndexError):
        return


def _lower(text: bytes) -> str:
    return text.lower().decode("utf-8", "replace")


def command_name(arguments: Arguments) -> str:
    """Return the command's name in lower case."""
    return _lower(arguments[0])


def local_keys(arguments: Arguments, table: CommandTable) -> list[bytes] | None:
    """Return the keys of a call as far as they can be told here; None where only the server knows."""
    name = command_name(arguments)
    if name in _COUNTED:
        return _counted_keys(arguments, *_COUNTED[name])
    if name in ("xread", "xreadgroup"):
        return _stream_keys(arguments)
    if name == "sort" or name.startswith("georadius"):
        return _stored_keys(arguments)
    if name == "sort_ro":
        return list(arguments[1:2])
    if name == "migrate":
        return _migrated_keys(arguments)
    spec = table.spec(arguments)
    if spec.movable:  # before 7.0 that is said of some whose keys are always in one place
        spec = _KNOWN.get(name, spec)
    return None if spec.movable else _ranged_keys(arguments, spec)


def _ranged_keys(arguments: Arguments, spec: KeySpec) -> list[bytes]:
    if spec.first <= 0:
        return []
    last = spec.last if spec.last >= 0 else len(arguments) + spec.last
    return list(arguments[spec.first : last + 1 : max(1, spec.step)])


def _counted_keys(arguments: Arguments, at: int, before: int, step: int) -> list[bytes]:
    try:
        count = int(arguments[at])
    except (IndexError, ValueError):
        return []
    keys = list(arguments[before : before + 1]) if before else []
    return keys + list(arguments[at + 1 : at + 1 + max(0, count) * step : step])


def _stream_keys(arguments: Arguments) -> list[bytes]:
    index = 1
    while index < len(arguments):
        option = arguments[index].upper()
        if option == b"STREAMS":
            rest = arguments[index + 1 :]
            return list(rest[: len(rest) // 2])
        index += _STREAM_OPTIONS.get(option, 1)
    return []


def _stored_keys(arguments: Arguments) -> list[bytes]:
    keys = list(arguments[1:2])
    stored = [
        arguments[index + 1]
        for index in range(2, len(arguments) - 1)
        if arguments[index].upper() in (b"STORE", b"STOREDIST")
    ]
    return keys + stored[-1:]


def _migrated_keys(arguments: Arguments) -> list[bytes]:
    if len(arguments) > 3 and arguments[3]:
        return [arguments[3]]
    for index in range(6, len(arguments)):
        if arguments[index].upper() == b"KEYS":
            return list(arguments[index + 1 :])
    return []


@dataclass
class KeyFinder:
    """Finds the keys of calls; `ask` is COMMAND GETKEYS, which returns None where it can't be asked."""

    table: CommandTable
    ask: Callable[[Arguments], list[bytes] | None] | None = None
    questions: int = 0
    corrected: set[str] = field(default_factory=set)
    """Commands whose keys were found wrong here, and are asked about each time."""
    _verified: Counter[str] = field(default_factory=Counter)

    def keys(self, arguments: Arguments) -> list[bytes]:
        """Return the keys of a call."""
        name = command_name(arguments)
        found = local_keys(arguments, self.table)
        wanted = found is None or name in self.corrected
        if not wanted and (len(found or ()) < 2 or self._verified[name] >= _VERIFIED_PER_COMMAND):
            return found or []
        told = self._ask(arguments)
        if told is None:
            return found or []
        self._verified[name] += 1
        if found is not None and sorted(told) != sorted(found):
            self.corrected.add(name)
        return told

    def _ask(self, arguments: Arguments) -> list[bytes] | None:
        if self.ask is None or self.questions >= _MAX_QUESTIONS:
            return None
        self.questions += 1
        told = self.ask(arguments)
        if told is None:
            self.ask = None
        return told


def otherwise_name(arguments: Arguments) -> str | None:
    """Return the name under which `OTHERWISE` knows this call; None where a cluster treats it the same."""
    name = command_name(arguments)
    if name == "select" and arguments[1:2] in ([b"0"], (b"0",)):
        return None
    if name in OTHERWISE:
        return name
    if name in ("sort", "sort_ro"):
        options = [argument.upper() for argument in arguments[2:]]
        looks_up = any(b"*" in option for option in options) and {b"BY", b"GET"} & set(options)
        return "sort|by" if looks_up else None
    if len(arguments) > 1 and name in ("script", "function"):
        full = f"{name}|{_lower(arguments[1])}"
        return full if full in OTHERWISE else None
    return None


def parse_command_stats(info: Mapping[str, str]) -> dict[str, int]:
    """Return how often each command was called, from the fields of INFO commandstats."""
    calls: dict[str, int] = {}
    for name, value in info.items():
        fields = dict(part.partition("=")[::2] for part in value.split(","))
        if name.startswith("cmdstat_") and (count := replies.number_of(fields, "calls", -1)) >= 0:
            calls[name.removeprefix("cmdstat_").lower()] = count
    return calls


def unseen_several(calls: Mapping[str, int], table: CommandTable, seen: Iterable[str]) -> dict[str, int]:
    """Return the commands with several keys that were called but not seen, the most frequent first.

    Those that are mostly called with one key (DEL, EXISTS, ...) tell nothing and are left out.
    """
    dull = {"del", "unlink", "exists", "touch", "watch", "sort", "sort_ro", "pfcount", *seen}
    found = {
        name: count
        for name, count in calls.items()
        if (table.several(name) or name == "exec") and name not in dull and count and "|" not in name
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
