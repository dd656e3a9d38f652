"""The cases of the hostile fuzz: a seed says which command of which run is answered how.

Invariant: a seed makes the same case on every machine; the tables name every command that the runs send
(`test_hostile.py` holds them to it), with about how often, so that the forged one is met.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.servers.mutations import choose

_START = {"INFO": 8, "DBSIZE": 1, "PING": 5, "ACL WHOAMI": 1, "ACL DRYRUN": 5}
_OPEN = {"CLIENT SETNAME": 3, "CLIENT NO-TOUCH": 3, "TIME": 11}
_COPY = {"SCAN": 4, "MEMORY USAGE": 40, "PEXPIRETIME": 50, "DUMP": 40, "FUNCTION LIST": 1}
_CHUNKS = {"TYPE": 6, "SCARD": 2, "SSCAN": 4, "ZCARD": 2, "ZRANGE": 4, "STRLEN": 2, "GETRANGE": 1, "HLEN": 2}
_CHUNKS |= {
    "HSCAN": 4,
    "HPEXPIRETIME": 1,
    "LLEN": 2,
    "LRANGE": 4,
    "XLEN": 2,
    "XINFO GROUPS": 2,
    "XPENDING": 3,
}
_CHUNKS |= {"XRANGE": 4, "XINFO STREAM": 2, "XINFO CONSUMERS": 2}
_WATCHED = {"WATCH": 6, "UNWATCH": 6, "MULTI": 6, "EXEC": 6}
_COMPARED = {**_CHUNKS, "ZSCAN": 2, "EXISTS": 8}
_TARGET = {
    "INFO": 40,
    "CONFIG GET": 3,
    "CLUSTER SLOTS": 15,
    "CLUSTER INFO": 9,
    "ACL WHOAMI": 3,
    "ACL DRYRUN": 15,
}
_TARGET_COPY = {
    "RESTORE": 30,
    "SET": 30,
    "ECHO": 9,
    "TIME": 9,
    "CLUSTER NODES": 3,
    "FUNCTION LIST": 3,
    "FUNCTION LOAD": 3,
}
_BUILT = {
    "PEXPIRETIME": 12,
    "EXISTS": 6,
    "PTTL": 5,
    "MULTI": 20,
    "UNLINK": 5,
    "PEXPIRE": 30,
    "SADD": 4,
    "EXEC": 20,
}
_BUILT |= {
    "SCARD": 4,
    "PERSIST": 4,
    "RENAMENX": 5,
    "RPUSH": 4,
    "LLEN": 4,
    "ZADD": 4,
    "ZCARD": 4,
    "SET": 1,
    "HSET": 4,
}
_BUILT |= {"HLEN": 4, "PEXPIREAT": 1, "XADD": 100, "XLEN": 4, "XGROUP DESTROY": 1, "XGROUP CREATE": 1}
_BUILT |= {"XGROUP CREATECONSUMER": 1, "XCLAIM": 2, "XSETID": 1}
_TARGET_COMPARED = {
    "PEXPIRETIME": 50,
    "DUMP": 40,
    **_CHUNKS,
    "SMISMEMBER": 2,
    "ZMSCORE": 2,
    "HMGET": 2,
    "SCAN": 8,
    "TIME": 2,
    "ECHO": 6,
}
_MEMBERS = {"CLUSTER NODES": 8, "CLUSTER SLOTS": 6, "INFO": 6}
_COUNTED = {"CLUSTER COUNTKEYSINSLOT": 200, "CLUSTER GETKEYSINSLOT": 20, "MEMORY USAGE": 40}
_OTHERS = {"CLUSTER GETSLOTMIGRATIONS": 3, "CLUSTER MIGRATION": 3}
_MOVED = {
    "CLIENT SETNAME": 6,
    "CLIENT ID": 6,
    "CLIENT LIST": 8,
    "CLUSTER SETSLOT": 12,
    "MIGRATE": 3,
    "PING": 5,
}
_MOVED |= {"CLUSTER COUNTKEYSINSLOT": 18, "CLUSTER GETKEYSINSLOT": 4, "SELECT": 2, "RESTORE-ASKING": 15}
_MOVED |= {
    "WATCH": 5,
    "UNWATCH": 2,
    "MULTI": 6,
    "EXEC": 6,
    "EVAL": 5,
    "UNLINK": 2,
    "DEL": 2,
    "DUMP": 16,
    "PTTL": 16,
}
_MOVED |= {"MEMORY USAGE": 17, "ASKING": 2, "WAIT": 2, "CLIENT KILL": 2}

Table = dict[str, int]


@dataclass(frozen=True)
class Kind:
    """A kind of run: its arguments, what the target holds at first, and how often each command is sent.

    arguments: `{source}`, `{target}` and `{plan}` are filled in. loaded: `nothing`, `all`, `some` (a part,
    and a part with other values), `less` (all but some), `open` (all, and a slot left open). reads_only: it
    writes nowhere. whole: exit 0 says that the target has all the source has.
    """

    name: str
    arguments: tuple[str, ...]
    loaded: str
    source: Table
    target: Table
    weight: float = 1.0
    reads_only: bool = False
    whole: bool = False


_BOTH = ("{source}", "{target}", "--retry-for", "1s", "--progress", "none")
_CHUNKED = ("--big-key-bytes", "64kB")
_MIGRATE_SOURCE = {**_START, **_OPEN, **_COPY}
_MIGRATE_TARGET = {**_TARGET, **_TARGET_COPY, "CLIENT SETNAME": 8, "PEXPIRETIME": 12}
_VERIFY_SOURCE = {**_START, **_OPEN, **_COPY, **_COMPARED}
_VERIFY_TARGET = {**_TARGET, **_OPEN, **_TARGET_COMPARED, "RESTORE": 40}
_VERIFY_TARGET_ONLY = {name: n for name, n in _VERIFY_SOURCE.items() if name != "FUNCTION LIST"}

KINDS = (
    Kind("migrate", ("migrate", *_BOTH), "nothing", _MIGRATE_SOURCE, _MIGRATE_TARGET, 3, whole=True),
    Kind(
        "migrate chunked",
        ("migrate", *_BOTH, *_CHUNKED),
        "nothing",
        {**_MIGRATE_SOURCE, **_CHUNKS, **_WATCHED},
        {**_MIGRATE_TARGET, **_BUILT},
        4,
        whole=True,
    ),
    Kind(
        "migrate compares",
        ("migrate", *_BOTH),
        "some",
        _MIGRATE_SOURCE,
        {**_MIGRATE_TARGET, "PEXPIRETIME": 40, "DUMP": 30},
        2,
        whole=True,
    ),
    Kind(
        "migrate replaces",
        (
            "migrate",
            *_BOTH,
            *_CHUNKED,
            "--on-conflict",
            "replace",
            "--memory-limit",
            "4MB",
            "--parallel-scans",
            "2",
        ),
        "some",
        {**_MIGRATE_SOURCE, **_CHUNKS, **_WATCHED},
        {**_MIGRATE_TARGET, **_BUILT, "RENAME": 2},
        2,
        whole=True,
    ),
    Kind(
        "migrate verifies",
        ("migrate", *_BOTH, "--verify"),
        "nothing",
        {**_MIGRATE_SOURCE, "EXISTS": 8},
        {**_MIGRATE_TARGET, "SCAN": 8, "DUMP": 40, "CLIENT NO-TOUCH": 6, "PEXPIRETIME": 40},
        2,
        whole=True,
    ),
    Kind(
        "verify equal",
        ("verify", *_BOTH, *_CHUNKED),
        "all",
        _VERIFY_TARGET_ONLY,
        _VERIFY_TARGET,
        2,
        True,
        True,
    ),
    Kind(
        "verify unlike",
        ("verify", *_BOTH, *_CHUNKED),
        "some",
        _VERIFY_TARGET_ONLY,
        _VERIFY_TARGET,
        2,
        True,
        True,
    ),
    Kind(
        "verify repairs",
        ("verify", *_BOTH, *_CHUNKED, "--repair", "--delete-extra", "--yes", "--recheck", "0"),
        "less",
        {**_VERIFY_TARGET_ONLY, **_WATCHED, "ZRANGE": 4},
        {**_VERIFY_TARGET, **_BUILT, "RENAME": 1, "EXISTS": 1},
        2,
        whole=True,
    ),
    Kind(
        "check",
        ("check", "{source}", "{target}", "--full", "--watch", "100ms"),
        "nothing",
        {
            **_START,
            "TIME": 3,
            "CLIENT SETNAME": 3,
            "CLIENT NO-TOUCH": 1,
            "CLIENT LIST": 2,
            "SCAN": 1,
            "TYPE": 40,
            "PTTL": 40,
            "MEMORY USAGE": 40,
            "DUMP": 20,
            "COMMAND": 1,
            "COMMANDLOG": 3,
            "SLOWLOG": 1,
            "MONITOR": 1,
        },
        {**_TARGET, "RESTORE": 40, "TIME": 9, "CLUSTER NODES": 3},
        2,
        True,
    ),
    Kind("plan by slots", ("reshard", "plan", "{target}"), "all", {}, {**_MEMBERS, **_COUNTED}, 0.15, True),
    Kind(
        "plan by bytes",
        ("reshard", "plan", "{target}", "--by", "bytes"),
        "all",
        {},
        {**_MEMBERS, **_COUNTED},
        0.3,
        True,
    ),
    Kind(
        "status",
        ("reshard", "status", "{target}"),
        "open",
        {},
        {**_MEMBERS, "CLUSTER COUNTKEYSINSLOT": 200, "CLUSTER GETSLOTMIGRATIONS": 3, "CLUSTER MIGRATION": 3},
        0.2,
        True,
    ),
    Kind(
        "apply",
        ("reshard", "apply", "{plan}", "{target}", "--retry-for", "1s", "--progress", "none"),
        "all",
        {},
        {**_MEMBERS, **_MOVED},
        4,
    ),
    Kind(
        "fix",
        ("reshard", "fix", "{target}", "--apply"),
        "open",
        {},
        {**_MEMBERS, **_COUNTED, **_MOVED, **_OTHERS},
        0.15,
    ),
)


@dataclass(frozen=True)
class Case:
    """One run against one lie: from its `nth` time on, `times` times, a command is answered in one `way`."""

    seed: int
    kind: Kind
    side: str
    command: str
    nth: int
    times: int
    way: str
    withheld: bool

    def __str__(self) -> str:
        held = " (withheld)" if self.withheld else ""
        return (
            f"seed {self.seed}: {self.kind.name}: the {self.side} answers {self.command} no. {self.nth} "
            f"({self.times} times): {self.way}{held}"
        )


def case_of(seed: int) -> Case:
    """Return the case of a seed."""
    rng = random.Random(seed)
    kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
    side = "source" if kind.source and rng.random() < 0.45 else "target"
    table = kind.source if side == "source" else kind.target
    command = rng.choice(sorted(table))
    nth = rng.randint(1, table[command])
    times = rng.choice([1, 1, 1, 2, 5, 1_000_000])
    return Case(seed, kind, side, command, nth, times, choose(rng), rng.random() < 0.3)
