"""The servers of the hostile fuzz: real ones, all behind forgers, and bystanders that nothing may write to.

Invariant: each case begins with the same source, an empty target that owns its slots as at the start, and
counters at zero; what servers hold is asked of the real ones, past the forgers.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from slotferry import plan_reshard
from slotferry.reshard.plan.model import Plan
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.faults.forked import ForkingCommand
from tests.reshard.client import tags
from tests.servers.forger import Forger
from tests.servers.kinds import ServerKind
from tests.servers.raw import RawConnection, connect, encode
from tests.servers.slot_homes import SlotHomes

MOVED_SLOTS = range(5_458, 5_461)
"""What the plan moves from the first primary to the second."""
CHUNKED_FROM = 64_000
REPLY_TIMEOUT = 1.0
_TTL_SHIFT = 60_000
_HOURS = 50 * 3_600_000
_LIBRARY = "#!lua name=hostile\nredis.register_function('one', function() return 1 end)"

_READ_NAMES = """
    acl|dryrun acl|getuser acl|whoami asking auth client|id client|info client|kill client|list
    client|no-evict client|no-touch client|reply client|setinfo client|setname client|tracking
    cluster|countkeysinslot cluster|getkeysinslot cluster|getslotmigrations cluster|info
    cluster|keyslot cluster|links cluster|myid cluster|myshardid cluster|nodes cluster|shards
    cluster|slot-stats cluster|slots command command|count command|docs command|getkeys command|info
    command|list config|get dbsize debug discard dump echo exec exists function|dump function|list
    function|stats get getrange hello hget hgetall hlen hmget hpexpiretime hpttl hrandfield hscan
    hstrlen info keys latency|histogram latency|latest llen lrange memory|usage module|list monitor
    multi object|encoding object|freq object|idletime pexpiretime ping pttl quit randomkey readonly
    readwrite replconf role scan scard select slowlog|get slowlog|len smembers smismember sscan
    strlen time ttl type unwatch wait waitaof watch xinfo|consumers xinfo|groups xinfo|stream xlen
    xpending xrange zcard zmscore zrange zscan zscore
"""
_READS = frozenset(_READ_NAMES.split())
"""Commands that change nothing, as commandstats names them."""


def _shapes() -> list[bytes]:
    """Return what builds the source: each type, small and beyond a chunk, with TTL and without."""
    wide = [(b"member %04d" % i) * 12 for i in range(600)]
    pairs = [part for i, name in enumerate(wide) for part in (b"%d" % i, name)]
    commands = [encode("SET", f"plain:{i}", f"value {i}" * (i % 9 + 1)) for i in range(24)]
    commands += [encode("SET", f"ttl:{i}", i, "PX", _HOURS + i) for i in range(8)]
    commands += [encode("SET", b"odd \xff\x00\r\n", "odd"), encode("SET", "", "empty")]
    for name, elements in (("small", wide[:5]), ("large", wide)):
        scored = pairs[: 2 * len(elements)]
        commands += [
            encode("RPUSH", f"{name}:list", *elements),
            encode("SADD", f"{name}:set", *elements),
            encode("ZADD", f"{name}:zset", *scored),
            encode("HSET", f"{name}:hash", *scored),
            *(encode("XADD", f"{name}:stream", f"{i + 1}-1", "f", text) for i, text in enumerate(elements)),
            encode("XGROUP", "CREATE", f"{name}:stream", "group", "0"),
            encode("XREADGROUP", "GROUP", "group", "one", "COUNT", 2, "STREAMS", f"{name}:stream", ">"),
        ]
    commands += [encode("SET", "large:string", b"0123456789abcdef" * 8_000)]
    commands += [encode("PEXPIRE", "large:hash", _HOURS), encode("PEXPIRE", "small:list", _HOURS)]
    commands += [encode("SET", f"{{{tags()[slot]}}}:{i}", i) for slot in MOVED_SLOTS for i in range(4)]
    tag = tags()[MOVED_SLOTS[0]]
    commands += [
        encode("XADD", f"{{{tag}}}:stream", "1-1", "f", "v"),
        encode("XGROUP", "CREATE", f"{{{tag}}}:stream", "group", "0"),
        encode("SET", f"{{{tag}}}:ttl", "v", "PX", _HOURS),
    ]
    return commands


Holding = dict[bytes, tuple[bytes, int]]


class Bed:
    """Source, cluster and bystanders; `begin` makes them ready for a case."""

    def __init__(self, stack: ExitStack, kind: ServerKind, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.command = stack.enter_context(ForkingCommand(REPLY_TIMEOUT))
        self.real_source = stack.enter_context(LocalServer(kind.binary, config={"maxmemory": "400mb"}))
        self.cluster = stack.enter_context(LocalCluster(kind.binary))
        self.stranger = stack.enter_context(LocalServer(kind.binary))
        self.other_cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1))
        self.source = stack.enter_context(Forger(self.real_source.host, self.real_source.port))
        self.nodes = [stack.enter_context(Forger(n.host, n.port)) for n in self.cluster.primaries]
        self._raw = [stack.enter_context(connect(server)) for server in self._servers]
        nodes = self.cluster.primaries
        self._slot_homes = SlotHomes(nodes, [self._raw_of(node) for node in nodes])
        self._fill()
        self.held = self.holds(self.real_source)
        self.plan = folder / "plan.json"
        self.plan.write_text(self._make_plan().to_json())

    @property
    def _servers(self) -> list[LocalServer]:
        return [self.real_source, self.stranger, *self.cluster.primaries, *self.other_cluster.primaries]

    @property
    def bystanders(self) -> list[LocalServer]:
        return [self.stranger, *self.other_cluster.primaries]

    @property
    def target_url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    @property
    def address_map(self) -> list[str]:
        pairs = zip(self.cluster.primaries, self.nodes, strict=True)
        return [part for n, forger in pairs for part in ("--address-map", f"{n.address}={forger.address}")]

    def begin(self) -> None:
        """Heal what the last case has left, and set every counter to zero."""
        for forger in (self.source, *self.nodes):
            forger.forge = lambda _: None
            forger.cut()
            forger.calls.clear()
        for server in (*self.cluster.primaries, *self.bystanders):
            self._raw_of(server).execute("FLUSHALL")
        for node in self.cluster.primaries:
            self._raw_of(node).execute("FUNCTION", "FLUSH")
        self._heal_slots()
        held = self.holds(self.real_source)
        if held.keys() != self.held.keys() or unlike(held, self.held):
            self._fill()
            self.held = self.holds(self.real_source)
        self.reset_counters()

    def reset_counters(self) -> None:
        for connection in self._raw:
            connection.execute("CONFIG", "RESETSTAT")

    def written_by(self, server: LocalServer) -> list[str]:
        """Return the commands that this server ran, without an error, and that may change something."""
        text = self._raw_of(server).execute("INFO", "commandstats").decode()
        found = []
        for line in text.split("\r\n"):
            name, _, stats = line.removeprefix("cmdstat_").partition(":")
            counts = dict(part.split("=") for part in stats.split(",") if part)
            done = int(counts.get("calls", 0)) - int(counts.get("failed_calls", 0))
            if done > 0 and name not in _READS and name != "config|resetstat":
                found.append(name)
        return found

    def load_target(self, keys: Holding) -> None:
        """Put keys into the cluster, as RESTORE does."""
        from slotferry import key_slot

        for key, (dump, expires) in keys.items():
            node = self.cluster.primaries[key_slot(key) * 3 // 16384]
            self._raw_of(node).execute("RESTORE", key, expires, dump, "REPLACE", "ABSTTL")

    def holds(self, *servers: LocalServer) -> Holding:
        """Return what these servers hold: each key's DUMP, and the time at which it expires (0: never).

        A key that a node holds outside its slots has no value here; of a key that two nodes hold, the owner's
        counts.
        """
        found: Holding = {}
        for server in servers:
            connection = self._raw_of(server)
            names = connection.execute("KEYS", "*")
            asking = [] if server is self.real_source else [encode("ASKING")]
            commands = [
                part
                for key in names
                for name in ("DUMP", "PEXPIRETIME")
                for part in (*asking, encode(name, key))
            ]
            replies = connection.pipeline(commands)[len(asking) :: len(asking) + 1]
            for key, dump, expires in zip(names, replies[::2], replies[1::2], strict=True):
                if isinstance(dump, bytes):
                    found[key] = (dump, max(0, expires))
                else:
                    found.setdefault(key, (b"", 0))
        return found

    def execute(self, server: LocalServer, *parts: bytes | str | int) -> object:
        return self._raw_of(server).execute(*parts)

    def connection(self, server: LocalServer) -> RawConnection:
        return self._raw_of(server)

    def _raw_of(self, server: LocalServer) -> RawConnection:
        return self._raw[self._servers.index(server)]

    def _fill(self) -> None:
        connection = self._raw_of(self.real_source)
        connection.execute("FLUSHALL")
        connection.pipeline_checked(_shapes())
        connection.execute("FUNCTION", "LOAD", "REPLACE", _LIBRARY)

    def _make_plan(self) -> Plan:
        first, second, third = (n.address for n in self.cluster.primaries)
        count = len(MOVED_SLOTS)
        weights = {first: 5_461 - count, second: 5_461 + count, third: 5_462}
        plan = plan_reshard(self.cluster.url, weights=weights, threshold=0.00001)
        assert plan.slots == count, plan.slots
        return plan

    def _heal_slots(self) -> None:
        """Give every slot back to its owner, as all nodes see it."""
        for node in self.cluster.primaries:
            # What the last run sent and a proxy still holds must not move a slot after it was given back.
            self.execute(node, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        self._slot_homes.give_back()


def unlike(one: Holding, other: Holding) -> list[bytes]:
    """Return the keys of both that have another value there."""
    return [key for key in one.keys() & other.keys() if not _alike(one[key], other[key])]


def _alike(one: tuple[bytes, int], other: tuple[bytes, int]) -> bool:
    """Whether two DUMPs are of one value.

    Hash tables have an order of their own on each node, and MIGRATE adds to a TTL the time that it takes.
    """
    if bool(one[1]) != bool(other[1]) or abs(one[1] - other[1]) > _TTL_SHIFT:
        return False
    return one[0] == other[0] or (one[0][0] == other[0][0] and len(one[0]) == len(other[0]))
