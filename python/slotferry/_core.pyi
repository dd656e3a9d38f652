"""The border between the planes: everything that Python may ask of the Rust engine.

Invariant: pull-only. Rust never calls Python; Python polls (`wait`, `snapshot`, `drain_events`,
`checkpoint`) and pushes (`set_topology`, `set_access`, `cancel`). Keys and values stay on the Rust side,
except the names of keys that failed or are pending.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, final

__all__ = [
    "SLOTS",
    "Access",
    "Checkpoint",
    "Counts",
    "EngineError",
    "ErrorKind",
    "Event",
    "EventKind",
    "Failure",
    "FollowProgress",
    "FollowSettings",
    "Handover",
    "Job",
    "KeyMap",
    "PartitionMark",
    "Pending",
    "RdbBeginning",
    "Snapshot",
    "Survey",
    "ValueFilter",
    "__version__",
    "key_slot",
    "key_slots",
    "look_at_rdb",
    "stream_keys",
]

__version__: str

SLOTS: int
"""How many hash slots a cluster has: 16,384."""

def key_slot(key: bytes | str, /) -> int:
    """Return the hash slot of `key`, from 0 to 16,383.

    CRC16/XMODEM of the key, or of its hash tag where it has a non-empty one between the first `{` and the
    next `}` (Redis Cluster specification, "Hash tags"). A `str` is encoded as UTF-8.
    """

def key_slots(keys: Iterable[bytes | str], /) -> list[int]:
    """Return the hash slot of each key, in order: `key_slot` for many keys in one call."""

@final
class ErrorKind:
    """What kind of trouble an `EngineError` is."""

    SOURCE_LOST: ErrorKind
    """Not reachable within `retry_for`."""
    SOURCE_CHANGED: ErrorKind
    """Another `run_id` than the cursors come from."""
    SOURCE_REFUSED: ErrorKind
    """Credentials, ACL permissions or protocol."""
    SOURCE_FLUSHED: ErrorKind
    """Its database was emptied or swapped while it was followed."""
    TARGET_LOST: ErrorKind
    """Not reachable within `retry_for`."""
    TARGET_FAILED_OVER: ErrorKind
    """Acknowledged but not confirmed writes may be lost (see `Job`)."""
    TARGET_IS_SOURCE: ErrorKind
    """An address of the target leads to the source, or to a server that shares its data."""
    TARGET_CHANGED: ErrorKind
    """Another `run_id` than a sweep's cursor comes from."""
    TARGET_FULL: ErrorKind
    """OOM or MISCONF beyond `retry_for`."""
    TARGET_REFUSED: ErrorKind
    """Credentials, ACL permissions or protocol; systematic failures."""
    INTERRUPTED: ErrorKind
    """Cancelled."""
    USAGE: ErrorKind
    """An argument makes no sense."""
    INTERNAL: ErrorKind
    """A bug of ours."""
    FORKED: ErrorKind
    """The job belongs to the parent process."""

    @property
    def value(self) -> str:
        """The kind as reports and JSON name it: `source_lost` and so on."""

    def __int__(self) -> int: ...

class EngineError(Exception):
    """What the engine raises; `message` is one sentence without secrets."""

    args: tuple[ErrorKind, str]

def stream_keys(
    commands: bytes, stream: bytes, database: int = 0, /
) -> tuple[
    list[tuple[int, int, bytes]],
    list[tuple[int, Literal["flushed", "swapped", "functions", "published", "script", "unknown"], bytes]],
    int,
    int,
]:
    """Return what the commands of a recorded replication stream touch.

    `commands` is the source's reply to COMMAND, as it came over the wire in RESP2; `database` is selected at
    the begin. The result is: keys (offset behind which the command begins, database, key), each as often as
    it is touched; other effects (offset, what, name of an unknown command); the offset behind the last whole
    command; and the database that is selected there. Keys of a command that is not whole yet may be among
    them. Raises `EngineError(USAGE, …)` for bytes that are neither.
    """

@final
class RdbBeginning:
    """What an RDB file says before its first key."""

    @property
    def version(self) -> int:
        """Its RDB version: 80 and above are Valkey's."""

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """Name and value of each field about the server that wrote it (`redis-ver`, `ctime` and so on)."""

    @property
    def libraries(self) -> list[bytes]:
        """The code of each library of functions."""

    @property
    def first_database(self) -> tuple[int, int | None] | None:
        """The first database with keys and, where the file tells, how many; None: no keys follow."""

    @property
    def stamp(self) -> tuple[int, int]:
        """Its size in bytes, compressed or not, and when it was changed last, in ns since the epoch."""

def look_at_rdb(path: str, name: str, /) -> RdbBeginning:
    """Look at the beginning of an RDB file, which may be compressed with gzip or zstd.

    Messages call it `name`. Raises `EngineError(SOURCE_REFUSED, …)` for what is no RDB that can be read.
    """

@final
class Access:
    """How to open a connection to one side: credentials, database, TLS. Its repr shows no secret."""

    def __new__(
        cls,
        *,
        username: str | None = None,
        password: str | None = None,
        database: int = 0,
        renewable: bool = False,
        tls: bool = False,
        tls_ca: bytes | None = None,
        tls_cert: bytes | None = None,
        tls_key: bytes | None = None,
        tls_server_name: str | None = None,
        tls_insecure: bool = False,
    ) -> Access:
        """Take credentials and TLS settings; `tls_ca`, `tls_cert` and `tls_key` are PEM texts.

        `renewable` says that another login may be had where this one is refused: the job then asks for one
        (`access_wanted` events) and goes on trying, where it would end otherwise.

        Without `tls_ca` the system's roots are trusted. `tls_insecure` turns off every check of the server's
        certificate. Raises `EngineError(USAGE, …)` for a PEM that can't be read.
        """

    def hang_up(self) -> None:
        """End every wait of a `Handover` that was given this, for ever; may be called by any thread.

        For the slots under way it is as if their nodes were lost. A `Job` does not mind.
        """

@final
class Counts:
    """How many keys ended how; every scanned key is in exactly one of the others or still under way."""

    @property
    def scanned(self) -> int: ...
    @property
    def migrated(self) -> int: ...
    @property
    def unchanged(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def vanished(self) -> int: ...
    @property
    def pending(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def bytes(self) -> int:
        """Bytes of DUMP payloads written to the target."""

@final
class Snapshot:
    """The job at one instant; outcomes are read before `scanned`, so their sum never exceeds it."""

    @staticmethod
    def merged(parts: Sequence[Snapshot], /) -> Snapshot:
        """Return one for several jobs that work side by side. Raises `EngineError` where there is none."""

    @property
    def state(self) -> Literal["connecting", "running", "waiting", "paused", "draining", "finished"]: ...
    @property
    def reason(self) -> str:
        """Why the state is `waiting` (slot, error, node, seconds) or `paused` (by whom or what, seconds).

        In other states it may name what only some keys wait for.
        """

    @property
    def counts(self) -> Counts:
        """The keys of this job alone, of all pages, complete or not."""

    @property
    def moved(self) -> int: ...
    @property
    def ask(self) -> int: ...
    @property
    def retries(self) -> int:
        """Commands sent again after a passing error or a lost connection; redirects don't count."""

    @property
    def retries_by_reason(
        self,
    ) -> list[tuple[Literal["unavailable", "full", "connection_lost"], int]]:
        """The same by why: the slot served nothing, its node was full, or a connection was lost."""

    @property
    def buffered_bytes(self) -> int:
        """Bytes of keys and payloads held now, of `memory_limit`."""

    @property
    def engine_cpu_seconds(self) -> float:
        """CPU time of the engine's thread, user and system."""

    @property
    def keys_by_primary(self) -> list[tuple[str, int]]:
        """(host:port, keys acknowledged by it; in a scan-only job: keys that belong to it)."""

    @property
    def follow(self) -> FollowProgress | None:
        """How following stands; None before the stream has begun, and without it."""

@final
class FollowSettings:
    """How a source is followed: its replication stream says which keys are copied again."""

    def __new__(
        cls,
        *,
        position: tuple[str, int, int] | None = None,
        in_doubt: bool = False,
        on_flush: Literal["stop", "compare"] = "stop",
        memory: int = 67_108_864,
    ) -> FollowSettings:
        """Follow from `position` on, that of a `Checkpoint.follow`; None: from now on, before any scan.

        `in_doubt` is that checkpoint's: a comparison is still to be done. When the source's database is
        emptied or swapped, the job ends with `SOURCE_FLUSHED`, or asks for a comparison. Names of touched
        keys take up to `memory` bytes (at least 1 MiB); of what does not fit only the slots are remembered,
        for a comparison. Raises `EngineError(USAGE, …)`.
        """

@final
class FollowProgress:
    """How following stands at one instant. Offsets are the source's, in bytes."""

    @property
    def mark(self) -> tuple[str, int, int]:
        """(replication id, offset, database selected there): all before it is acknowledged by the target.

        While `in_doubt`, only but for what a comparison has to settle; and but for `busy_keys`.
        """

    @property
    def clean(self) -> int:
        """The same offset, those keys counted: what `Job.wait_clean` waits for."""

    @property
    def busy_keys(self) -> list[bytes]:
        """Keys that are written all the time: copied when they rest, or once a fence is waited for."""

    @property
    def received(self) -> int:
        """The stream was read up to this offset."""

    @property
    def lag_bytes(self) -> int:
        """Bytes from the mark to what was received; what the source has yet to send is not among them."""

    @property
    def lag_seconds(self) -> float:
        """How long ago what stands at the mark was received; 0 when all of it is copied."""

    @property
    def connected(self) -> bool:
        """Whether the stream flows now."""

    @property
    def in_doubt(self) -> bool:
        """Whether the mark waits for a comparison (`COMPARISON_WANTED`, or slots that did not fit)."""

    @property
    def doubtful_slots(self) -> int:
        """How many slots that comparison has to look at; 0 while `in_doubt`: all."""

    @property
    def comparing(self) -> bool:
        """Whether one is between `Job.begin_comparison` and `Job.end_comparison`."""

    @property
    def touched(self) -> int:
        """Keys that were touched and are not copied since."""

    @property
    def touched_bytes(self) -> int: ...
    @property
    def commands(self) -> int:
        """Commands of the stream since the job started, of all databases."""

    @property
    def writes(self) -> int:
        """Those of them that name keys."""

    @property
    def copied(self) -> int:
        """How often a touched key was written or deleted; none of this is in `Snapshot.counts`."""

    @property
    def deleted(self) -> int:
        """How often one was deleted, as the source lacked it."""

    @property
    def bytes(self) -> int:
        """Bytes of their DUMP payloads."""

    @property
    def published(self) -> int:
        """Messages to subscribers, which are not passed on."""

    @property
    def scripts(self) -> int:
        """SCRIPT commands, which are not passed on."""

    @property
    def functions(self) -> int:
        """Changes of the library of functions (`FOLLOW_FUNCTIONS` events)."""

    @property
    def flushes(self) -> int:
        """How often the database was emptied or swapped."""

    @property
    def resyncs(self) -> int:
        """How often the stream began anew with a gap (`FOLLOW_RESYNCED` events)."""

    @property
    def comparisons(self) -> int:
        """How many comparisons were begun."""

    @property
    def at_rest(self) -> bool:
        """Whether the job is paused and nothing is under way: nothing is written until `resume`."""

@final
class Failure:
    """A key that was given up; it is in the count `failed`. Or a note (`Checkpoint.notes`), in no count."""

    @property
    def key(self) -> bytes: ...
    @property
    def slot(self) -> int: ...
    @property
    def kind(
        self,
    ) -> Literal[
        "conflict",
        "ttl_conflict",
        "collision",
        "payload",
        "too_large",
        "denied",
        "error",
        "field_ttl_dropped",
        "missing",
        "extra",
        "misplaced",
        "different",
        "type",
        "ttl",
    ]:
        """What it was.

        `conflict`: the target holds another value; `ttl_conflict`: the same value with another TTL;
        `collision`: while following, the source has another key that gets the same name;
        `payload`: the target can't load it, translated or not; `too_large`: the target's limits forbid it;
        `denied`: NOPERM for this key; `error`:
        anything else. Of notes: `field_ttl_dropped`: the fields of a hash lost their TTLs. Of a verification:
        `missing` at the target, `extra` there, `different` value, other `type`, other `ttl`; `payload`: the
        values can't be compared; as a note, `misplaced`: the node that holds it does not own its slot.
        """

    @property
    def message(self) -> str:
        """One sentence; empty where `kind`, `source` and `target` say it all."""

    @property
    def source(self) -> str | None:
        """Of a difference, what the source holds, in short; None for any other failure."""

    @property
    def target(self) -> str | None:
        """Of a difference, what the target holds, in short; None for any other failure."""

    @property
    def node(self) -> str: ...

@final
class Pending:
    """A key that could not be written because its slot stayed unavailable; it is in the count `pending`."""

    @property
    def key(self) -> bytes: ...
    @property
    def slot(self) -> int: ...
    @property
    def reason(self) -> str: ...

@final
class PartitionMark:
    """The low-water mark of a partition: every key before it is accounted for."""

    @property
    def index(self) -> int: ...
    @property
    def cursor(self) -> int:
        """Where SCAN goes on; meaningless once `done`."""

    @property
    def done(self) -> bool: ...

@final
class Checkpoint:
    """All that may be recorded as done, taken at one instant: to be written in one transaction.

    `counts` is cumulative over the job, for the pages below the marks alone. The three lists hold what is
    new since the last checkpoint that was taken.
    """

    @staticmethod
    def merged(parts: Sequence[tuple[Checkpoint, int]], /) -> Checkpoint:
        """Return one for several jobs, each with the number from which on its partitions are counted.

        Of following it says nothing.
        """

    @property
    def partitions(self) -> list[PartitionMark]:
        """One mark for each partition that the job was started with."""

    @property
    def counts(self) -> Counts: ...
    @property
    def failures(self) -> list[Failure]: ...
    @property
    def pending(self) -> list[Pending]: ...
    @property
    def notes(self) -> list[Failure]:
        """Keys that are written, but without something that a policy gave up; in no count of their own.

        A key may come twice.
        """

    @property
    def big_positions(self) -> list[tuple[bytes, str]]:
        """How far keys are copied in parts that are not settled yet; the whole list each time."""

    @property
    def resolved(self) -> list[bytes]:
        """Keys given as `keys` that are settled: they failed or are pending no longer, or are so anew.

        A key here is to be deleted from pending keys and failures before `failures` and `pending` of the
        same checkpoint are added.
        """

    @property
    def follow(self) -> tuple[tuple[str, int, int], bool] | None:
        """The position and the doubt that `FollowSettings` goes on from; None without following.

        It belongs to the marks of the same checkpoint: what the scan left out is touched behind it.
        """

@final
class KeyMap:
    """Source key → target key, or none: rules that rewrite keys and a filter of names, compiled."""

    def __new__(
        cls,
        *,
        rules: Sequence[tuple[Literal["rewrite", "add_prefix", "strip_prefix"], str, bytes, bool]] = ...,
        prefix: bytes = ...,
        globs: Sequence[bytes] = ...,
        patterns: Sequence[str] = ...,
        excluded_globs: Sequence[bytes] = ...,
        excluded_patterns: Sequence[str] = ...,
        slots: Sequence[tuple[int, int]] = ...,
    ) -> KeyMap:
        """Compile rules and filter.

        A rule is `(kind, pattern, text, last)`: a rewrite has a pattern, a template and whether a key that
        it matches takes no further rule; the others have a prefix as their text. `prefix` is put before every
        name in the end. A key is taken if any of
        `globs` or `patterns` matches (or there are none), none of the excluded ones does, and the target's
        key is in one of the ranges `slots` (both ends included; none: all). Patterns are those of Rust's
        regex crate, on bytes; globs are SCAN's. Raises `EngineError(USAGE, …)` that names the wrong rule.
        """

    @property
    def renames(self) -> bool:
        """Whether there are rules: keys may have other names at the target."""

    @property
    def is_one_to_one(self) -> bool:
        """Whether no two keys can get one name: there are prefixes that are added, and nothing else."""

    @property
    def without_way_back(self) -> str | None:
        """The pattern of the first rule that drops something of a name; None where there is none.

        Without one, the target's name says which names the key may have at the source.
        """

    def sources(self, name: bytes, /) -> list[bytes] | None:
        """Return all keys that are taken and get this name at the target; None where they may be too many."""

    def place(self, key: bytes, /) -> tuple[bytes, int] | None:
        """Return the target's name for a key of the source and its slot; None for a key that is not taken."""

@final
class ValueFilter:
    """Filters of what a scanned key is; the source is asked about each before it is read."""

    def __new__(
        cls,
        *,
        types: Sequence[str] = ...,
        excluded_types: Sequence[str] = ...,
        min_size: int | None = None,
        max_size: int | None = None,
        without_ttl: bool = False,
        min_ttl_ms: int | None = None,
    ) -> ValueFilter:
        """Take types as TYPE names them, sizes in bytes as MEMORY USAGE counts them, TTLs in milliseconds.

        A key is taken if it is of one of `types` (none: any) and of none of the excluded ones, its size is
        within both ends, and it has no TTL, or, unless `without_ttl`, at least `min_ttl_ms` left.
        """

@final
class Survey:
    """A look at names alone, in passes: samples, slots, and keys that would get one name.

    Memory stays within `memory` bytes, whatever the number of keys: the more there are, the more passes.
    """

    def __new__(cls, *, expected_keys: int, memory: int, samples: int = 10) -> Survey:
        """Prepare for about `expected_keys` keys; `samples` of them are kept to be shown."""

    def next_pass(self) -> bool:
        """Begin a pass, in which all keys are to be added; return whether one is needed.

        Keys are added by scan-only jobs that are given the survey, or by `add`.
        """

    def add(
        self,
        keys: Sequence[bytes],
        key_map: KeyMap | None,
        /,
        *,
        source_database: int = 0,
        target_database: int = 0,
    ) -> None:
        """Add keys that are not scanned; those that the map does not take are left out."""

    def findings(
        self,
    ) -> tuple[
        int,
        int,
        list[tuple[int, tuple[bytes, int], tuple[bytes, int]]],
        list[int],
        list[int],
        list[tuple[int, bytes, list[tuple[int, bytes]], int]],
        bool,
    ]:
        """Return what was found so far.

        That is: how many keys, how many with another name; samples (database, (key, slot) at the source,
        (key, slot) at the target), renamed ones first; keys by slot under the old and the new names;
        collisions (database of the target, name, some of its sources (database, key), how many in all); and
        whether there were more names that come twice than could be looked at.
        """

@final
class EventKind:
    """What an `Event` is."""

    TOPOLOGY_WANTED: EventKind
    """A fresh topology of the target is needed."""
    CHECKPOINT_WANTED: EventKind
    """No page is begun before a checkpoint is taken."""
    SOURCE_ACCESS_WANTED: EventKind
    """The source refuses the login."""
    TARGET_ACCESS_WANTED: EventKind
    """A node of the target refuses the login."""
    NODE_LOST: EventKind
    """The connection to a node of the target is lost."""
    NODE_BACK: EventKind
    """It is reachable again."""
    SOURCE_LOST: EventKind
    """The connection to the source is lost."""
    SOURCE_BACK: EventKind
    """It is reachable again."""
    SLOT_PARKED: EventKind
    """A slot stays unavailable: its keys are kept as pending."""
    BIG_KEY_AGAIN: EventKind
    """A large key is copied from its start again."""
    BUSY_KEY: EventKind
    """A key is written all the time, and copied when it rests."""
    NAMES_SHARED: EventKind
    """Two keys of the source get one name at the target."""
    ELEMENTS_GIVEN_UP: EventKind
    """A large key that was followed by elements is copied whole again."""
    ELEMENTS_REFUSED: EventKind
    """A large key can't be followed by elements."""
    BIG_KEYS_UNSEEN: EventKind
    """The source does not say how large its keys are."""
    FOLLOW_ATTACHED: EventKind
    """The source's stream flows."""
    FOLLOW_LOST: EventKind
    """It does not flow any more."""
    FOLLOW_RESYNCED: EventKind
    """It began anew, with a gap."""
    FOLLOW_FUNCTIONS: EventKind
    """The source's functions were changed."""
    COMPARISON_WANTED: EventKind
    """Only a comparison of both sides settles what differs."""
    FILE_DAMAGED: EventKind
    """The checksum of an RDB file is wrong, and it is taken as it is."""
    FILE_DATABASES: EventKind
    FILE_FUNCTIONS: EventKind
    """An RDB file from stdin has libraries of functions, which are not copied."""
    """An RDB file has keys in other databases than the one that is read."""

    @property
    def value(self) -> str:
        """The kind as `EngineNews` and the history name it: `node_lost` and so on."""

    def __int__(self) -> int: ...

@final
class Event:
    """Something the control plane should know of or act on.

    After `CHECKPOINT_WANTED` no page is begun before a checkpoint is taken: failures fill their part of the
    byte budget.
    """

    @property
    def kind(self) -> EventKind: ...
    @property
    def message(self) -> str: ...
    @property
    def node(self) -> str | None: ...
    @property
    def slot(self) -> int | None: ...

@final
class Job:
    """One run of the engine: a source's partitions and keys into a cluster. One runtime, dropped with it.

    Safe to use from several threads. After `fork` every call in the child raises
    `EngineError(FORKED, …)`.
    """

    def __new__(
        cls,
        *,
        source: tuple[str, int] | str,
        file: tuple[str | None, str, tuple[int, int] | None, int, bool, int] | None = None,
        snapshot: int | None = None,
        source_access: Access,
        source_run_id: str,
        source_replication_id: str = ...,
        source_cluster: tuple[bool, Sequence[tuple[int, int]] | None] | None = None,
        source_has_pexpiretime: bool,
        target_access: Access,
        target_has_pexpiretime: bool,
        target_rdb_versions: Sequence[int] = ...,
        target_limits: tuple[int, int] = ...,
        field_ttl: Literal["error", "drop"] = "error",
        topology: Sequence[tuple[int, int, str, int]],
        target_nodes: Sequence[str] = ...,
        address_map: Sequence[tuple[str, int | None, str, int | None]] = ...,
        partition_count: int,
        partitions: Sequence[tuple[int, int]],
        keys: Sequence[bytes] = ...,
        on_conflict: Literal["error", "replace", "skip"] = "error",
        big_key_bytes: int | None = None,
        copy_id: str | None = None,
        big_positions: Sequence[tuple[bytes, str]] = ...,
        key_map: KeyMap | None = None,
        value_filter: ValueFilter | None = None,
        survey: Survey | None = None,
        eviction: Literal["idle_time", "frequency"] | None = None,
        match: bytes | None = None,
        type: str | None = None,
        scan_only: bool = False,
        verify: tuple[float, Literal["values", "lengths", "existence"], bool] | None = None,
        sweeps: Sequence[tuple[int, int, str, int, str]] = ...,
        sample: float | None = None,
        delete_extra: bool = False,
        follow: FollowSettings | None = None,
        page_keys: int = 1000,
        source_connections: int = 2,
        memory_limit: int = 67_108_864,
        retry_for: float = 300.0,
        park_after: float = 20.0,
        max_keys_per_second: int | None = None,
        max_bytes_per_second: int | None = None,
        pause_above_latency: float | None = None,
        wait_replicas: int = 0,
        wait_timeout: float = 1.0,
    ) -> Job:
        """Describe a job; nothing is opened before `start`.

        `source` is `(host, port)` or the path of a Unix socket. `file`, `(path, name, stamp, database,
        whether a wrong checksum is only told, the target's time in ms)`, is an RDB file that is read instead
        (path None: stdin), as long as it has its `stamp` (`RdbBeginning.stamp`; None: not checked); `source`
        only names it then. It has one partition, whose cursor is the offset in the file at which a key ends,
        0 at first; it is always read from its beginning. `keys` are taken from it wherever they stand. A
        value whose bytes in the file are more than a quarter of `memory_limit` goes in parts; where one that
        can't be cut is larger, it is a failure (`too_large`). What ends a file early ends the job with
        `SOURCE_REFUSED`, once all that was whole is settled. It
        takes no `match`, `follow`, `sweeps`, `delete_extra`, and no `verify` of `lengths`. With `snapshot`,
        the source's time in ms, the one partition `(0, 0)` is taken from a snapshot that the source makes
        (PSYNC, `rdb-only`), whose large values go in parts as those of a file; its mark moves only when
        all is done, and a snapshot that is cut off ends the job with `SOURCE_CHANGED`. With `follow`, what is
        touched meanwhile is copied behind it; without, it takes no `keys`. `source_run_id` is what INFO said
        when the cursors were taken: another one ends the job with `SOURCE_CHANGED`. `target_rdb_versions` are
        those of the payloads that every node of the target takes: others get another footer or are
        translated, hashes whose fields have TTLs by the policy `field_ttl`; with none, only what the target
        refuses is. `target_limits` are the least `proto-max-bulk-len` and `client-query-buffer-limit`, in
        bytes (0: the default): keys beyond are written in chunks. `topology` is `(first slot, last slot,
        host, port)` of each range, `target_nodes` are the ids of the nodes that CLUSTER SLOTS names. A server
        at an address of the target is written to only when it is a node of a cluster and knows one of them
        (none: of any cluster). One with `source_run_id` or with `source_replication_id` (`master_replid` of
        INFO; empty: not known) ends the job with `TARGET_IS_SOURCE`. `source_cluster` says that the source is
        a node of a cluster: whether its SCAN goes from slot to slot, and the ranges of slots whose keys alone
        are taken (None: of all). Keys that it passes on are left pending. `partitions` are `(index, cursor)`
        of those of the `partition_count` (a power of two) partitions that are to be scanned; a partition that
        starts anew has its index as its cursor. `keys` are copied by name besides (pending or failed keys of
        earlier runs); they do not count as scanned. `key_map` chooses among the keys that are scanned and
        names all keys at the target; pending keys and failures keep the source's names. Keys that take
        `big_key_bytes` or more of the source's memory (MEMORY USAGE) are copied in parts, from the
        `big_positions` of an earlier checkpoint on where nothing has changed since; None: each in one piece.
        They are built under temporary keys that `copy_id` names (ASCII without spaces): the same in each run
        of a job, and no other's; None: one that was never used, so that nothing is gone on with.
        `value_filter` leaves out scanned keys before they are read. `eviction` is carried over. A scan-only
        job tells `survey` of the names that it sees. `scan_only` counts keys and writes nothing.

        `verify`, `(TTL tolerance in seconds, depth, whether values are shown)`, compares every key with the
        target's instead of copying it: equal keys count as unchanged, others as failed, with a `Failure`
        that says what both sides hold; nothing is written. `lengths` compares type, TTL and
        length alone; `existence` asks for the expiry alone, and only what the target lacks counts as failed
        (`missing`). `sweeps`, `(index, cursor, host, port, run_id)`, go the other way: each scans one primary
        of the target and reports what the source lacks as `extra`, unconfirmed until a job verifies these
        keys by name; their indexes are among the marks, and another `run_id` ends the job with
        `TARGET_CHANGED`. `sample`, above
        0 and below 1, looks at that part of the keys, chosen by name. `delete_extra` deletes those of `keys`
        from the target that the source lacks.

        With `follow`, the job attaches to the source as a replica before it scans, copies the keys that are
        touched again and again (deleting what the source lacks), and goes on after the scan until it is
        cancelled or `finish_following`; it needs `on_conflict` `replace`, takes no `match`, `type`,
        `value_filter`, `sample`, `verify`, `sweeps`, `scan_only` and `delete_extra`, and copies `keys` as if
        they had been touched. Only keys of `source_access`'s database are followed.

        `memory_limit` is the byte budget for keys and payloads in flight; times are in seconds. The two rates
        limit what is read from the source. With `pause_above_latency`, reading pauses while the source or a
        primary takes longer for a ping or a reply. With `wait_replicas`, a checkpoint holds only what so many
        replicas of its primary have confirmed; a barrier waits `wait_timeout` for them, and the job ends with
        `TARGET_FAILED_OVER` when a node may have lost what it had acknowledged beyond: the next job starts at
        the last checkpoint. Raises `EngineError(USAGE, …)`.
        """

    def start(self) -> None:
        """Start the engine's thread. A second call raises `EngineError(USAGE, …)`."""

    def wait(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds, GIL released; return whether the job has finished.

        Returns early when it finishes or when an event is there to be drained.
        """

    def snapshot(self) -> Snapshot:
        """Return the job's figures at this instant; after the end, the final ones."""

    def drain_events(self) -> list[Event]:
        """Return the events since the last call and forget them."""

    def checkpoint(self) -> Checkpoint:
        """Return what may be recorded as done now. The lists of the checkpoint are handed over once."""

    def set_access(self, side: Literal["source", "target"], access: Access, /) -> None:
        """Open the connections of that side with `access` from now on; open ones keep theirs.

        The database stays the one that the job was started with.
        """

    def set_topology(self, topology: Sequence[tuple[int, int, str, int]], nodes: Sequence[str], /) -> None:
        """Replace the map of slots and the ids of the target's nodes whole; both as in the constructor."""

    def pause(self) -> None:
        """Stop reading from the source; what is under way is finished. Returns at once."""

    def resume(self) -> None:
        """Go on after `pause`. A pause for latency is not the caller's to end. Returns at once."""

    def set_rate(self, *, max_keys_per_second: int | None, max_bytes_per_second: int | None) -> None:
        """Limit what is read from the source in a second from now on; None is no limit."""

    def wait_clean(self, offset: int, timeout: float, /) -> bool:
        """Wait up to `timeout` seconds, GIL released, until the stream up to `offset` is at the target.

        That is the fence: with the source's writes stopped, `offset` is its `master_repl_offset`. Returns
        whether it is so; False at once when the job has ended. From the call on, nothing is held back to
        coalesce until the offset is reached.
        """

    def finish_following(self, offset: int, /) -> None:
        """End the job, well, once the stream up to `offset` is at the target. Returns at once."""

    def touch(self, keys: Sequence[bytes], /, *, untold: bool = False) -> None:
        """Copy these keys of the source as if its stream had touched them now. Returns at once.

        With `untold`, of a stream that is followed by its elements no more than its groups: what a source
        does not tell its replicas is there.
        """

    def begin_comparison(self) -> tuple[bool, list[int]]:
        """Begin to settle what is in doubt; return (whether it is all keys, else the slots of the target).

        What is touched from now on is followed as ever. Compare both sides, both directions, then call
        `end_comparison`. Raises `EngineError(USAGE, …)` when no stream is followed.
        """

    def end_comparison(self, differing: Sequence[bytes], /) -> None:
        """End the comparison that was begun. Returns at once.

        `differing` are keys, by the source's names, that differ or that one side lacks: they are copied.
        """

    def compare_ahead(self) -> int:
        """Compare large keys that are followed by their elements, from now on, while writes flow.

        Returns how many are not compared yet; 0 where no stream is followed. GIL released.
        """

    def compare_at_fence(self, timeout: float, /) -> list[bytes]:
        """Compare what is left of those keys; return the source's names of the ones that are proven equal.

        Call it when writes are stopped and all is clean. Others have to be compared whole. None is proven
        where that takes longer than `timeout` seconds; GIL released. No key is compared ahead any more.
        """

    def cancel(self, *, immediately: bool = False) -> None:
        """Ask the job to end: finish the pages in hand and stop, or stop at once. Returns at once."""

    def result(self) -> None:
        """Return once the job is done with everything asked of it; raise `EngineError` if it ended otherwise.

        Raises `EngineError(USAGE, …)` while the job runs.
        """

@final
class Handover:
    """Connections between two nodes of a cluster, over which slots are handed from one to the other.

    A slot is copied while its owner serves it undisturbed, and is opened there (`MIGRATING`) in one
    transaction with the removal of its keys, which fails if one of them has changed (`WATCH`). Streams and
    values of modules are left at the source, for MIGRATE: WATCH does not see every change of them. One call
    at a time; after `fork` a call in the child raises `EngineError(FORKED, …)`.
    """

    def __new__(
        cls,
        *,
        source: tuple[str, int],
        target: tuple[str, int],
        target_id: str,
        access: Access,
        client_name: str,
        replicated: bool,
        workers: int,
        reading_keys: int,
        together: int,
        together_keys: int,
        chunk_keys: int,
        chunk_bytes: int,
        max_keys: int,
        max_bytes: int,
        max_key_bytes: int,
    ) -> Handover:
        """Prepare; nothing is opened yet.

        `source` and `target` are primaries, `(host, port)`; `client_name` is what the connections are called
        there. With `replicated`, a replica of the target is waited for before a slot is given up. `workers`
        slots are under way at a time. As many are read as `reading_keys` allows, `chunk_keys` keys or
        `chunk_bytes` at once; `together` of them, or `together_keys` keys, are given up at once, as far as
        they come. A slot with more than `max_keys` keys or `max_bytes`, or with a key of more than
        `max_key_bytes` (MEMORY USAGE), is left alone.
        Raises `EngineError(USAGE, …)`.
        """

    def hand_over(
        self, slots: Sequence[int], /
    ) -> list[
        tuple[
            int,
            Literal["handed_over", "large", "busy", "refused", "not_begun", "source_lost", "target_lost"],
            int,
            int,
            str,
        ]
    ]:
        """Hand over slots that the target imports and the source serves closed; GIL released.

        Returns (slot, what became of it, keys, bytes of payload, reason) for each. `handed_over`: open at the
        source, its keys on the target, but for streams, values of modules and what came meanwhile; `large`,
        `busy` (changed again and again), `refused` (the server's words) and `not_begun`: as before, nothing
        of it on the target; `source_lost` and `target_lost`: copies may lie on the target, and the slot may
        be open.
        """
