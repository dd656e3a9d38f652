"""How a migration is done, apart from its two sides.

Invariant: an `Options` that exists is valid; a wrong value raises `UsageError` that names the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from slotferry.errors import OptionError
from slotferry.jobs.control.controls import Rates
from slotferry.jobs.control.window import Window, find_zone
from slotferry.jobs.key_choice import KeyChoice
from slotferry.jobs.limits import MAX_WAIT_REPLICAS, MAX_WAIT_TIMEOUT, MIN_BIG_KEY, MIN_MEMORY
from slotferry.jobs.names import check_job_name, default_journal_path
from slotferry.jobs.partitions import MAX_PARTITIONS, is_partition_count
from slotferry.model.address import Password
from slotferry.model.cutover import CutoverOptions
from slotferry.net.address_map import AddressMap
from slotferry.net.endpoints import Tls

OnConflict = Literal["error", "replace", "skip"]
OnCollision = Literal["refuse", "record", "unchecked"]
FieldTtl = Literal["error", "drop"]
OnFlush = Literal["stop", "apply"]
Read = Literal["scan", "snapshot"]


@dataclass(frozen=True)
class Options(KeyChoice):
    """How to migrate; the defaults are the command line's.

    on_conflict: what to do with a key that the target already has: `error` compares, and records a
        conflict where the values differ; `replace` overwrites; `skip` leaves the target's.
    field_ttl: what to do with a hash whose fields have TTLs where the target has none of those: `error`
        records a failure; `drop` copies the fields without, and notes the key in the journal.
    big_key_bytes: keys that take so much of the source's memory are copied in parts, so that neither server
        stalls; 0: every key is copied in one piece.
    match, match_regex: only keys that one of these globs matches (bytes, or str as UTF-8; one or several) or
        one of these patterns. exclude, exclude_regex: and none of these. One glob is pushed down to SCAN.
    type, exclude_type: only keys of this type, or of one of these, and of none of those.
    min_size, max_size: only keys that take so many bytes of memory, as MEMORY USAGE counts them.
    without_ttl: only keys without a TTL. min_ttl: only keys with at least so many seconds left, or no TTL.
    slots: ranges, both ends included, in one of which the target's key has to be.
    keys_from: only the keys that this file lists, one a line as `show_key` writes it; `-` is stdin. They are
        told by name: globs, patterns and slots choose among them, no types, sizes or TTLs.
    rules: how keys are rewritten, in order (see `slotferry.model.rules`).
    db: the databases to copy, or `all` that hold keys; None: the one that the source's URL names.
    map_db: where a database goes: `2=prefix:db2:`, `2={db2}:` or `2=0`; else to the same number.
    on_collision: what to do where two keys of the source would get one name, which is looked for beforehand
        wherever it can happen: `refuse`; `record` them and let `on_conflict` decide; `unchecked`: no look.
    keep_eviction_metadata: carry over idle times or access frequencies, whichever the target evicts by.
    read: how keys are read: `scan` asks the source for each of them (SCAN, DUMP); `snapshot` takes them from
        one that the source's forked child makes, which costs its main thread next to nothing.
    functions: copy function libraries to every primary; `on_conflict` holds for them as well.
    follow: go on after the copy with what is written at the source, until the run is cancelled. `on_conflict`
        is `replace` then.
    on_flush: what to do when the source's database is emptied or swapped while it is followed: `stop`, or
        `apply` it by a comparison of both sides, which deletes what the source lacks.
    cutover_when_ready: with `follow`, cut over by itself once that may succeed, as these options say; what
        fails is tried again. None: when `Migration.cutover` or `slotferry cutover` asks for it.
    window: cut over by itself in this time of the day alone, such as `02:00-04:00` by the machine's clock.
    memory_limit: the byte budget for keys and payloads in flight.
    retry_for: how many seconds an unreachable server or unavailable slot is tried again.
    max_keys_per_second, max_bytes_per_second: what is read from the source in a second at the most; None: no
        limit.
    pause_above_latency: while the source or a primary takes more milliseconds than this for a ping or for a
        reply to what is under way, nothing is read; None: whatever they take.
    wait_replicas: how many replicas of a primary have to confirm what a checkpoint takes for written.
    wait_timeout: how many milliseconds a checkpoint waits for them, up to 20,000, before it stays back.
    parallel_scans: how many partitions to scan at once, a power of two up to 1024, fewer where one would have
        less than 64 keys; None: planned from the
        round trip and the number of keys.
    journal: the journal's file; None: `default_journal_path()`.
    job: the job's name in the journal; None: made from source and target.
    restart: forget what the journal knows of the job and start over.
    ignore_checksum: take an RDB file whose checksum is wrong, and tell of it.
    skip_check: names of checks of the preflight whose errors are only told (see `slotferry check`).
    fail_if_empty: a run that finds no key is not `ok` (exit code 3); else it is told with a warning alone.
    verify: compare both sides afterwards, as a `Verification` does.
    dry_run: look and count; write nothing, neither to the target nor to the journal.
    source_password, target_password: instead of the URL's. A callable without arguments is asked when the run
        begins and whenever the login may have changed; it returns the password, or (user, password).
    source_tls, target_tls: TLS files and settings; files that change are read again.
    sentinel_username, sentinel_password: the login at the source's Sentinels, instead of the URL's.
    address_map: `announced=reachable` entries, for addresses that the nodes of the target or the Sentinels
        announce and that are reached at others from here (NAT).
    """

    on_conflict: OnConflict = "error"
    field_ttl: FieldTtl = "error"
    big_key_bytes: int = 8_000_000
    keys_from: Path | str | None = None
    on_collision: OnCollision = "refuse"
    keep_eviction_metadata: bool = False
    read: Read = "scan"
    functions: bool = True
    follow: bool = False
    on_flush: OnFlush = "stop"
    cutover_when_ready: CutoverOptions | None = None
    window: str | None = None
    memory_limit: int = 64 << 20
    retry_for: float = 300.0
    max_keys_per_second: int | None = None
    max_bytes_per_second: int | None = None
    pause_above_latency: float | None = None
    wait_replicas: int = 0
    wait_timeout: float = 1000.0
    parallel_scans: int | None = None
    journal: Path | str | None = None
    job: str | None = None
    restart: bool = False
    ignore_checksum: bool = False
    skip_check: Sequence[str] = ()
    fail_if_empty: bool = False
    verify: bool = False
    dry_run: bool = False
    source_password: Password | None = field(default=None, repr=False)
    target_password: Password | None = field(default=None, repr=False)
    source_tls: Tls = field(default_factory=Tls)
    target_tls: Tls = field(default_factory=Tls)
    sentinel_username: str | None = None
    sentinel_password: Password | None = field(default=None, repr=False)
    address_map: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._check_policies()
        self._check_numbers()
        check_job_name(self.job)
        self._check_keys_from()
        self.check_choice()
        _check_follow(self)
        if self.follow:
            object.__setattr__(self, "on_conflict", "replace")
        AddressMap.parse(self.address_map)
        if self.skip_check:
            from slotferry.model.checks import check_skips

            check_skips(self.skip_check)

    def _check_policies(self) -> None:
        if self.on_conflict not in get_args(OnConflict):
            raise OptionError(
                "{on_conflict} is {value!r}", hint="use error, replace or skip", value=self.on_conflict
            )
        if self.field_ttl not in get_args(FieldTtl):
            raise OptionError("{field_ttl} is {value!r}", hint="use error or drop", value=self.field_ttl)
        if self.read not in get_args(Read):
            raise OptionError("{read} is {value!r}", hint="use scan or snapshot", value=self.read)
        if self.on_collision not in get_args(OnCollision):
            raise OptionError(
                "{on_collision} is {value!r}",
                hint="use refuse, record or unchecked",
                value=self.on_collision,
            )

    def _check_numbers(self) -> None:
        if self.big_key_bytes != 0 and self.big_key_bytes < MIN_BIG_KEY:
            raise OptionError(
                "{big_key_bytes} is {value}",
                hint="give it 64 kB or more, or 0 to turn it off",
                value=self.big_key_bytes,
            )
        if self.memory_limit < MIN_MEMORY:
            raise OptionError(
                "{memory_limit} is {value} bytes", hint="give it 1 MB or more", value=self.memory_limit
            )
        if not 0 <= self.retry_for < float("inf"):
            raise OptionError(
                "{retry_for} is {value}", hint="give it in seconds, 0 or more", value=self.retry_for
            )
        _ = self.rates  # which refuses wrong ones
        if self.pause_above_latency is not None and not 0 < self.pause_above_latency < float("inf"):
            raise OptionError(
                "{pause_above_latency} is {value}",
                hint="give it in milliseconds, above 0",
                value=self.pause_above_latency,
            )
        if not 0 <= self.wait_replicas <= MAX_WAIT_REPLICAS:
            raise OptionError(
                "{wait_replicas} is {value}",
                hint=f"give it 0 to {MAX_WAIT_REPLICAS}",
                value=self.wait_replicas,
            )
        if not 1 <= self.wait_timeout <= MAX_WAIT_TIMEOUT:
            raise OptionError(
                "{wait_timeout} is {value}",
                hint=f"give it in milliseconds, from 1 to {MAX_WAIT_TIMEOUT}",
                value=self.wait_timeout,
            )
        if self.parallel_scans is not None and not is_partition_count(self.parallel_scans):
            raise OptionError(
                "{parallel_scans} is {value}",
                hint=f"use a power of two from 1 to {MAX_PARTITIONS}",
                value=self.parallel_scans,
            )

    def _check_keys_from(self) -> None:
        selection = self.selection  # which refuses what makes no sense
        if self.keys_from is not None and (selection.probes or selection.types):
            raise OptionError(
                "{keys_from} is given together with filters of type, size or TTL",
                hint="leave these out: a list of keys is filtered by names and slots alone",
            )
        if self.keys_from is not None and (self.verify or self.db == "all" or len(self.db or ()) > 1):
            other = "{verify}" if self.verify else "several databases"
            raise OptionError("{keys_from} is given together with " + other, hint="leave one of them out")

    @property
    def address_map_rules(self) -> AddressMap:
        """The address map, parsed."""
        return AddressMap.parse(self.address_map)

    @property
    def filtered(self) -> bool:
        """Whether some keys of the source may be left out."""
        return self.selection.filtered or self.keys_from is not None

    @property
    def rates(self) -> Rates:
        """The rates that a run begins with."""
        return Rates(self.max_keys_per_second, self.max_bytes_per_second)

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return default_journal_path() if self.journal is None else Path(self.journal)


def _check_follow(options: Options) -> None:
    """Raise `OptionError` for options that do not go together with `follow`."""
    if options.on_flush not in get_args(OnFlush):
        raise OptionError("{on_flush} is {value!r}", hint="use stop or apply", value=options.on_flush)
    if options.window is not None:
        Window.parse(options.window, find_zone(None))
        if options.cutover_when_ready is None:
            raise OptionError("{window} is given without {cutover_when_ready}", hint="give both")
    if options.cutover_when_ready is not None and not options.follow:
        raise OptionError("{cutover_when_ready} is given without {follow}", hint="give both")
    if not options.follow:
        return
    if options.on_conflict == "skip":
        raise OptionError(
            "{follow} is given together with {on_conflict} skip: what is written again is copied again",
            hint="give {on_conflict} replace, or leave it out",
        )
    selection = options.selection
    for given, what in (
        (options.dry_run, "{dry_run}"),
        (options.verify, "{verify}"),
        (options.keys_from is not None, "{keys_from}"),
        (selection.probes or selection.types, "filters of type, size or TTL"),
        (options.db == "all" or len(options.db or ()) > 1, "several databases"),
        (options.keep_eviction_metadata, "{keep_eviction_metadata}"),
    ):
        if given:
            raise OptionError("{follow} is given together with " + what, hint="leave one of them out")
    _check_way_back(options)


def _check_way_back(options: Options) -> None:
    """Raise `OptionError` where a key of the target would not say what it may be called at the source."""
    key_map = options.selection.key_map()
    if key_map is None or key_map.is_one_to_one:
        return
    if (pattern := key_map.without_way_back) is not None:
        raise OptionError(
            "{follow} is given together with a rule that has no way back: not all that {pattern!r} matches "
            "is in its template, or where its groups end there is told by nothing",
            hint="make it of plain text and groups, each of which the template takes up, such as "
            "'^user:([0-9]+):(.*)$ => user:{{$1}}:$2'",
            pattern=pattern,
        )
    if options.on_collision != "refuse":
        raise OptionError(
            "{follow} is given together with {on_collision} {value}",
            hint="leave it out: keys that get one name while they are followed are recorded",
            value=options.on_collision,
        )
