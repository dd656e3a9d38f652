"""Whether a cluster holds exactly what a source holds: keys, values and expiry times.

Invariant: the comparison shares no code with the engine. Slots come from redis-py, bytes from the servers;
values whose DUMP may differ between equal servers (hash tables iterate in an order of their own) or does
differ between versions are compared by meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.crc import key_slot

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.raw import RawConnection, ServerError, connect, encode

_SHOWN_PROBLEMS = 10
_NO_TTL = -1
_FOOTER = 10


@dataclass
class Comparison:
    """What `compare` found; `problems` holds a sentence a key, empty when both sides are equal."""

    keys: int = 0
    byte_equal: int = 0
    equal_but_footer: int = 0
    equal_by_meaning: int = 0
    problems: list[str] = field(default_factory=list)


def assert_equal(
    source: LocalServer,
    cluster: LocalCluster,
    *,
    database: int = 0,
    ttl_tolerance_ms: int = 500,
    byte_equal: bool = False,
    field_ttls: bool = True,
) -> Comparison:
    """Fail with the first problems unless the cluster equals the source; return the comparison.

    Without `field_ttls` the expiries of hash fields do not count. With `byte_equal`, for servers of one
    version, a DUMP may differ only where the encoding is a hash table.
    """
    comparison = compare(
        source,
        cluster,
        database=database,
        ttl_tolerance_ms=ttl_tolerance_ms,
        byte_equal=byte_equal,
        field_ttls=field_ttls,
    )
    shown = "\n".join(comparison.problems[:_SHOWN_PROBLEMS])
    assert not comparison.problems, f"{len(comparison.problems)} problems, the first are:\n{shown}"
    return comparison


def compare(
    source: LocalServer,
    cluster: LocalCluster,
    *,
    database: int = 0,
    ttl_tolerance_ms: int = 500,
    byte_equal: bool = False,
    field_ttls: bool = True,
    ignore: Collection[bytes] = (),
) -> Comparison:
    """Compare every key in both directions, but for those to ignore; about 100,000 keys in 5 seconds."""
    with connect(source) as left, _Nodes(cluster) as nodes:
        left.execute("SELECT", database)
        check = _Check(left, nodes, ttl_tolerance_ms, byte_equal, field_ttls)
        names: set[bytes] = set()
        for page in _pages(left):
            fresh = [key for key in dict.fromkeys(page) if key not in names and key not in ignore]
            names.update(fresh)
            check.keys(fresh)
        check.nothing_else(names, ignore)
    return check.found


class _Nodes:
    """A connection to each primary and the map from slot to connection, as the cluster tells it now."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._by_address: dict[tuple[str, int], RawConnection] = {}
        self._by_slot: dict[int, RawConnection] = {}
        self._password = cluster.password
        seed = next(node for node in cluster.nodes if node.running)
        with connect(seed) as connection:
            rows = connection.execute("CLUSTER", "SLOTS")
        for first, last, primary, *_ in rows:
            node = self._open((primary[0] or b"").decode() or seed.host, primary[1])
            self._by_slot.update(dict.fromkeys(range(first, last + 1), node))

    def __enter__(self) -> _Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self:
            connection.close()

    def __iter__(self) -> Iterator[RawConnection]:
        return iter(self._by_address.values())

    def owner(self, key: bytes) -> RawConnection:
        return self._by_slot[key_slot(key)]

    def _open(self, host: str, port: int) -> RawConnection:
        if (host, port) not in self._by_address:
            self._by_address[host, port] = RawConnection(host, port, password=self._password)
        return self._by_address[host, port]


class _Check:
    def __init__(
        self, source: RawConnection, nodes: _Nodes, tolerance: int, byte_equal: bool, field_ttls: bool
    ) -> None:
        self.found = Comparison()
        self._source = source
        self._nodes = nodes
        self._tolerance = tolerance
        self._byte_equal = byte_equal
        self._field_ttls = field_ttls

    def keys(self, keys: Sequence[bytes]) -> None:
        """Compare one page of keys."""
        there: dict[bytes, tuple[bytes | None, int]] = {}
        for node, mine in self._grouped(keys).items():
            there.update(zip(mine, _dumps_and_ttls(node, mine), strict=True))
        unlike: list[bytes] = []
        for key, (dump, ttl) in zip(keys, _dumps_and_ttls(self._source, keys), strict=True):
            dump_there, ttl_there = there[key]
            if dump is None or dump_there is None:
                self._absent(key)
                continue
            self.found.keys += 1
            self._ttl(key, ttl, ttl_there)
            if dump == dump_there:
                self.found.byte_equal += 1
            elif dump[:-_FOOTER] == dump_there[:-_FOOTER] and not self._byte_equal:
                self.found.equal_but_footer += 1
            else:
                unlike.append(key)
        self._by_meaning(unlike)

    def nothing_else(self, names: set[bytes], ignore: Collection[bytes]) -> None:
        """Look for keys of the cluster that the source does not have."""
        total = sum(int(node.execute("DBSIZE")) for node in self._nodes)
        if total == self.found.keys:
            return
        for node in self._nodes:
            for page in _pages(node):
                others = {*page}.difference(names, ignore)
                self.found.problems += [f"{_shown(key)} is not in the source" for key in others]

    def _grouped(self, keys: Sequence[bytes]) -> dict[RawConnection, list[bytes]]:
        groups: dict[RawConnection, list[bytes]] = {}
        for key in keys:
            groups.setdefault(self._nodes.owner(key), []).append(key)
        return groups

    def _absent(self, key: bytes) -> None:
        here, there = (side.execute("EXISTS", key) for side in (self._source, self._nodes.owner(key)))
        if here and not there:
            self.found.problems.append(f"{_shown(key)} is missing in the cluster")
        elif there and not here:
            self.found.problems.append(f"{_shown(key)} has expired in the source alone")

    def _ttl(self, key: bytes, ttl: int, ttl_there: int) -> None:
        if _close(ttl, ttl_there, self._tolerance):
            return
        # A page takes a while: look again, one right after the other.
        # Asked for before and behind: what passes between two answers is no difference.
        sides = (self._source, self._nodes.owner(key), self._source)
        ttl, ttl_there, later = (int(side.execute("PTTL", key)) for side in sides)
        if _NO_TTL in (ttl, ttl_there) and ttl == ttl_there:
            return
        if _NO_TTL in (ttl, ttl_there) or not later - self._tolerance <= ttl_there <= ttl + self._tolerance:
            self.found.problems.append(f"{_shown(key)} has the TTL {ttl_there} ms instead of {ttl} ms")

    def _by_meaning(self, keys: Sequence[bytes]) -> None:
        here = meanings(self._source, keys)
        for node, mine in self._grouped(keys).items():
            for key, there in meanings(node, mine).items():
                if self._byte_equal and node.execute("OBJECT", "ENCODING", key) != b"hashtable":
                    self.found.problems.append(f"{_shown(key)} has another DUMP though the versions match")
                elif _same(here[key], there, field_ttls=self._field_ttls):
                    self.found.equal_by_meaning += 1
                else:
                    became = f"{here[key]!r:.200} became {there!r:.200}"
                    self.found.problems.append(f"{_shown(key)} differs: {became}")


def _pages(connection: RawConnection) -> Iterator[list[bytes]]:
    cursor = b"0"
    while True:
        cursor, page = connection.execute("SCAN", cursor, "COUNT", 1000)
        yield page
        if cursor == b"0":
            return


def _dumps_and_ttls(connection: RawConnection, keys: Sequence[bytes]) -> list[tuple[bytes | None, int]]:
    commands = [
        b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(name), name, len(key), key)
        for key in keys
        for name in (b"DUMP", b"PTTL")
    ]
    replies = connection.pipeline_checked(commands)
    return list(zip(replies[::2], replies[1::2], strict=True))


def _close(ttl: int, other: int, tolerance: int) -> bool:
    if _NO_TTL in (ttl, other):
        return ttl == other
    return abs(ttl - other) <= tolerance


def meanings(connection: RawConnection, keys: Sequence[bytes]) -> dict[bytes, tuple[str, Any]]:
    """Return the type and the value of each key, in a form that is equal for equal values."""
    types = [kind.decode() for kind in connection.pipeline_checked([encode("TYPE", key) for key in keys])]
    for key, kind in zip(keys, types, strict=True):
        assert kind in _READ, f"{_shown(key)} is of the type {kind}, which nothing here can compare"
    reads = [encode(*_READ[kind](key)) for key, kind in zip(keys, types, strict=True)]
    values = connection.pipeline_checked(reads)
    return {
        key: (kind, _value(connection, kind, key, value))
        for key, kind, value in zip(keys, types, values, strict=True)
    }


_READ: dict[str, Callable[[bytes], tuple[bytes | str | int, ...]]] = {
    "string": lambda key: ("GET", key),
    "list": lambda key: ("LRANGE", key, 0, -1),
    "set": lambda key: ("SMEMBERS", key),
    "zset": lambda key: ("ZRANGE", key, 0, -1, "WITHSCORES"),
    "hash": lambda key: ("HGETALL", key),
    "stream": lambda key: ("XINFO", "STREAM", key, "FULL", "COUNT", 0),
    "vectorset": lambda key: ("VRANDMEMBER", key, 1_000),
}


def _value(connection: RawConnection, kind: str, key: bytes, value: Any) -> Any:
    if kind == "set":
        return sorted(value)
    if kind == "zset":  # versions print the same score differently
        return [(member, float(score)) for member, score in zip(value[::2], value[1::2], strict=True)]
    if kind == "hash":
        return _hash_meaning(connection, key, _as_dict(value))
    if kind == "stream":
        return _stream_meaning(value)
    if kind == "vectorset":
        reads = [encode(what, key, element) for element in sorted(value) for what in ("VEMB", "VGETATTR")]
        return [sorted(value), connection.pipeline_checked(reads)]
    return value


def _hash_meaning(
    connection: RawConnection, key: bytes, fields: dict[bytes, bytes]
) -> dict[bytes, tuple[bytes, int]]:
    (expiries,) = connection.pipeline([encode("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)])
    if isinstance(expiries, ServerError):  # a server without field TTLs
        expiries = [_NO_TTL] * len(fields)
    return {name: (value, at) for (name, value), at in zip(fields.items(), expiries, strict=True)}


def _same(here: tuple[str, Any], there: tuple[str, Any], *, field_ttls: bool) -> bool:
    kind, value = here
    other_kind, other = there
    if kind == other_kind == "hash" and not field_ttls:
        return {name: pair[0] for name, pair in value.items()} == {n: pair[0] for n, pair in other.items()}
    if kind == other_kind == "stream":
        reads = [dict(each["entries read"] or ()) for each in (value, other)]
        known = [
            name
            for name in value.keys() - {"entries read"}
            if value[name] is not None and other[name] is not None
        ]
        return [value[name] for name in known] == [other[name] for name in known] and _agree(*reads)
    return here == there


def _stream_meaning(info: list[Any]) -> dict[str, Any]:
    """Keep what must be carried over; None is what the server does not report (before Redis 7.0)."""
    stream = _as_dict(info)
    return {
        "last id": stream[b"last-generated-id"],
        "entries": stream[b"entries"],
        "groups": sorted(_group_meaning(_as_dict(group)) for group in stream[b"groups"]),
        "entries added": stream.get(b"entries-added"),
        "max deleted id": stream.get(b"max-deleted-entry-id"),
        "entries read": _entries_read([_as_dict(group) for group in stream[b"groups"]]),
    }


def _agree(here: dict[bytes, int | None], there: dict[bytes, int | None]) -> bool:
    """Whether two servers say the same where both know: replicas and replayed AOFs don't know it all."""
    return all(
        here[name] == there[name]
        for name in here.keys() & there.keys()
        if here[name] is not None and there[name] is not None
    )


def _entries_read(groups: list[dict[bytes, Any]]) -> list[tuple[bytes, int | None]] | None:
    if not all(b"entries-read" in group for group in groups):
        return None
    return sorted((group[b"name"], group[b"entries-read"]) for group in groups)


def _group_meaning(group: dict[bytes, Any]) -> tuple[Any, ...]:
    consumers = sorted((_as_dict(each)[b"name"], _as_dict(each)[b"pending"]) for each in group[b"consumers"])
    return group[b"name"], group[b"last-delivered-id"], group[b"pending"], consumers


def _as_dict(flat: list[Any]) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _shown(key: bytes) -> str:
    return f"key {key!r}" if len(key) <= 80 else f"key {key[:80]!r}… of {len(key)} bytes"
