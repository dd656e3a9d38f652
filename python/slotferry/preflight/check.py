"""`slotferry.check`: everything that can be told about a migration before it, in one report.

Invariant: what can't be looked at is a row that says so, and the rest goes on; only a call that makes no
sense raises. Nothing is written to either side.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from slotferry._core import key_slots
from slotferry.errors import OptionError, SlotferryError, UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.jobs.control.hangup import looking, working
from slotferry.jobs.key_choice import KeyChoice
from slotferry.jobs.options import Read
from slotferry.model.address import Password, Side
from slotferry.model.checks import check_skips
from slotferry.net.address_map import AddressMap
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint, Tls, parse_endpoint
from slotferry.net.replies import ResponseError
from slotferry.preflight import apply_skips, judge_servers, judge_survey
from slotferry.preflight.application.analysis import Application, ApplicationStudy
from slotferry.preflight.fitness import judge_target, slot_owners
from slotferry.preflight.following import judge_following, judge_snapshot, look_at_stream
from slotferry.preflight.keyspace.data import describe_place, judge_data, judge_placement
from slotferry.preflight.keyspace.summary import Keyspace
from slotferry.preflight.look import DataMemory, Look, Progress
from slotferry.preflight.reach import judge_announced
from slotferry.preflight.report import CheckReport
from slotferry.preflight.rights import denied_key, judge_rights
from slotferry.preflight.rows import Row, error, not_checked, ok, warning
from slotferry.preflight.servers import judge_nodes, refuse_streams
from slotferry.preflight.survey import Survey, survey_target, take_survey
from slotferry.text import count_of, format_duration, shorten_key
from slotferry.topology.cluster_source.facts import ClusterFacts, discover_any_source
from slotferry.topology.databases import Route, check_routes, plan_routes
from slotferry.topology.discovery import SourceFacts, TargetFacts, discover_target

Notify = Callable[[str], None]

# Takes 4 s, and of the source's CPU some 3 % meanwhile.
DEFAULT_SAMPLE = 20_000
DEFAULT_SCAN_RATE = 5_000.0
MAX_WATCH = 86_400.0
_ALMOST_ALL = 0.8  # from there on nothing is gained by leaving keys out
_TELL_SECONDS = 2.0
_KEYS_PROBED = 16
_WRITES_SECONDS = 1.0  # how long the growth of the source's stream is measured


@dataclass(frozen=True)
class CheckOptions(KeyChoice):
    """How to check; the defaults are the command line's.

    Filters, rules and databases are as in `Options`: what is said of the data is said of the keys that these
    choose, under the names and at the slots that they would get.

    sample: about how many keys of the source to look at, as a number or a percentage (`"5%"`); 0: none.
    full: look at all of them. scan_rate: how many keys a second at most.
    follow: look also whether the source can be followed, as with `Options.follow`.
    read: with `snapshot`, look also whether the source can be read so, as with `Options.read`.
    watch: follow the source's MONITOR for so many seconds, to see which of the application's commands a
        cluster would refuse; this costs the source something. commands: a recorded MONITOR, for the same.
    strict: whether warnings count in the report's exit code.
    skip_check: names of checks whose errors are only told.
    source_password, target_password: instead of the URL's. source_tls, target_tls: TLS files and settings.
    sentinel_username, sentinel_password, address_map: as in `Options`.
    """

    sample: int | str = DEFAULT_SAMPLE
    full: bool = False
    scan_rate: float = DEFAULT_SCAN_RATE
    follow: bool = False
    read: Read = "scan"
    watch: float | None = None
    commands: Path | None = None
    strict: bool = False
    skip_check: tuple[str, ...] = ()
    source_password: Password | None = field(default=None, repr=False)
    target_password: Password | None = field(default=None, repr=False)
    source_tls: Tls = field(default_factory=Tls)
    target_tls: Tls = field(default_factory=Tls)
    sentinel_username: str | None = None
    sentinel_password: Password | None = field(default=None, repr=False)
    address_map: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_skips(self.skip_check)
        AddressMap.parse(self.address_map)
        self.check_choice()
        self.wanted(0)
        if not 0 < self.scan_rate < float("inf"):
            raise OptionError(
                "{scan_rate} is {value}", hint="give it in keys a second, more than 0", value=self.scan_rate
            )
        if self.watch is not None and not 0 < self.watch <= MAX_WATCH:
            raise OptionError("{watch} is {value}", hint="give it in seconds, up to a day", value=self.watch)
        if self.commands is not None and not self.commands.is_file():
            raise UsageError(f"there is no file {self.commands}", hint="name a recorded MONITOR")

    def wanted(self, keys: int) -> int:
        """Return how many of `keys` keys to look at. Raises `UsageError` where `sample` makes no sense."""
        text = str(self.sample).strip()
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(%?)", text)
        if match is None or (not match[2] and "." in match[1]):
            raise OptionError(
                "{sample} is {text!r}", hint="write a number of keys, or a percentage such as 5%", text=text
            )
        if match[2] and not 0 <= float(match[1]) <= 100:
            raise OptionError("{sample} is {text!r}", hint="give a percentage from 0% to 100%", text=text)
        if self.full:
            return keys
        return math.ceil(keys * float(match[1]) / 100) if match[2] else int(match[1])


def check(
    source: str | Endpoint,
    target: str | Endpoint,
    options: CheckOptions | None = None,
    notify: Notify = lambda _: None,
    progress: Progress = lambda _, __: None,
    cancel: CancelRequest | None = None,
) -> CheckReport:
    """Look at both sides and return what stands for and against a migration.

    URLs as for `Migration`. `notify` is told, a sentence at a time, what takes long or costs the servers
    something, before it begins; `progress`, how many keys were looked at, and of how many. A side that can't
    be reached or lacks an ACL permission is a row of the report; raises `UsageError` for a URL, a file or an
    option that makes no sense, and `MigrationInterrupted` where `cancel` is asked for; while MONITOR is
    followed, the first time ends that alone, and what was seen counts.
    """
    options = options or CheckOptions()
    ends = (
        _endpoint(source, "source", options.source_password, options.source_tls),
        _endpoint(target, "target", options.target_password, options.target_tls),
    )
    source_end = ends[0].with_sentinel_login(options.sentinel_username, options.sentinel_password)
    asked = cancel or CancelRequest(saves=False)
    return _Check(source_end, ends[1], options, notify, progress, asked).perform()


def _endpoint(given: str | Endpoint, side: Side, password: Password | None, tls: Tls) -> Endpoint:

    endpoint = parse_endpoint(given, side).with_credentials(password, tls)
    endpoint.check_files()  # reads the TLS files: now is the time to complain
    return endpoint


class _Check:
    """One check; `perform` is called once."""

    def __init__(
        self,
        source: Endpoint,
        target: Endpoint,
        options: CheckOptions,
        notify: Notify,
        progress: Progress,
        cancel: CancelRequest,
    ) -> None:
        self._cancel = cancel
        address_map = AddressMap.parse(options.address_map)
        self._source = Connector(source, "source", address_map)
        self._target = Connector(target, "target", address_map)
        self._options = options
        self._notify = notify
        self._progress = progress
        self._selection = options.selection
        self._routes: tuple[Route, ...] = ()
        self._counts: list[int] = []
        self._rows: list[Row] = []
        self._keyspace: Keyspace | None = None
        self._application: Application | None = None

    def perform(self) -> CheckReport:
        begun = time.monotonic()
        options = self._options
        refuse_streams(self._source.endpoint, follow=options.follow, snapshot=options.read == "snapshot")
        with looking(self._cancel, self._source, self._target):
            source = self._look_at_source()
            target = self._look_at_target(source)
            survey = None
            if source is not None and _is_readable(source):
                self._plan(source, target)
            if source is not None and target is not None:
                survey = self._compare(source, target)
            elif target is not None and target.seed.cluster:
                self._look_closer(target)
            if source is not None and _is_readable(source) and self._options.follow:
                self._look_at_stream(source)
            if source is not None and _is_readable(source) and self._options.read == "snapshot":
                self._look_at_snapshot(source)
            if source is not None and _is_readable(source) and self._routes:
                self._sample(source, survey)
        if source is not None and not source.server.cluster:
            with working(self._cancel, self._source):
                self._study(source, survey)
            if self._cancel.level > 1:
                raise self._cancel.error()
        if survey is not None:
            shares = None if self._keyspace is None else self._keyspace.shares()
            self._rows += judge_survey(survey, shares)
        return CheckReport(
            source=self._source_name(),
            target=self._target.endpoint.target_identity,
            keyspace=self._keyspace,
            application=self._application,
            rows=tuple(apply_skips(self._rows, self._options.skip_check)),
            elapsed_seconds=time.monotonic() - begun,
            strict=self._options.strict,
        )

    def _source_name(self) -> str:
        """Return the source's URL with the databases that are looked at."""
        endpoint = self._source.endpoint
        chosen = [route.source for route in self._routes] or [endpoint.database]
        name = replace(endpoint, database=chosen[0]).identity
        return ",".join([name, *map(str, chosen[1:])])

    def _keys(self, facts: SourceFacts) -> int:
        """Return how many keys the databases hold that are looked at."""
        chosen = facts.databases if self._options.db == "all" else self._options.db
        return facts.keys if chosen is None else sum(facts.databases.get(number, 0) for number in chosen)

    def _look_at_source(self) -> SourceFacts | None:
        try:
            facts = discover_any_source(self._source)
        except SlotferryError as failure:
            self._rows.append(_unreached("source", failure))
            return None
        self._rows += [warning("source-reach", note, "look after that server") for note in facts.notes]
        self._rows.append(
            ok(
                "source-reach",
                f"{facts.server.node} answers in {format_latency(facts.round_trip)}: {facts.server.product}, "
                f"{count_of(self._keys(facts), 'key')}",
            )
        )
        return facts

    def _look_at_target(self, source: SourceFacts | None) -> TargetFacts | None:
        try:
            facts = discover_target(self._target, None if source is None else source.server)
        except SlotferryError as failure:
            self._rows.append(_unreached("target", failure))
            return None
        names = ", ".join(primary.server.node for primary in facts.primaries) or facts.seed.node
        self._rows.append(ok("target-reach", f"answers at {names}: {facts.seed.product}"))
        return facts

    def _plan(self, source: SourceFacts, target: TargetFacts | None) -> None:
        """Find the way of each chosen database. Raises `UsageError` where there can be none."""
        options = self._options
        ends = self._source.endpoint, self._target.endpoint
        try:
            self._routes = plan_routes(*ends, options.db, options.map_db, source)
            if target is not None:
                for note in check_routes(self._routes, self._source, self._target, target):
                    self._rows.append(warning("databases", note, "see that this is meant"))
        except UsageError:
            raise
        except SlotferryError as failure:
            side: Side = "source" if "source" in failure.kind else "target"
            self._rows.append(error("databases", side, failure.message, failure.hint))
        one = len(self._routes) == 1 and self._routes[0].source == self._source.endpoint.database
        self._counts = [
            source.keys if one else source.databases.get(route.source, 0) for route in self._routes
        ]

    def _look_closer(self, target: TargetFacts) -> None:
        """Judge the target alone, where there is no source to judge it for."""
        if strangers := list(judge_nodes(target)):
            self._rows += strangers
            return
        self._rows += judge_announced(self._target)
        try:
            survey = survey_target(self._target, target)
        except SlotferryError as failure:
            self._rows.append(_unreached("target", failure))
            return
        self._rows += judge_rights("target", {view.node: view.denied for view in survey.primaries})
        self._rows += judge_target(survey)

    def _compare(self, source: SourceFacts, target: TargetFacts) -> Survey | None:
        rows = judge_servers(source, target, self._target.endpoint.database)
        self._rows += rows
        if any(row.name == "servers" and row.status == "error" for row in rows):
            return None
        self._rows += judge_announced(self._target)
        try:
            survey = take_survey(self._source, source, self._target, target)
            return replace(
                survey,
                source_keys=sum(self._counts),
                source_databases=frozenset(route.source for route in self._routes) or survey.source_databases,
                filtered=self._selection.filtered,
            )
        except SlotferryError as failure:
            self._rows.append(_unreached("source" if "source" in failure.kind else "target", failure))
            return None

    def _look_at_stream(self, source: SourceFacts) -> None:
        try:
            with self._source.open(source.address(self._source.endpoint)) as node:
                self._rows += judge_following(look_at_stream(node, source.server, _WRITES_SECONDS))
        except SlotferryError as failure:
            self._rows.append(_unreached("source", failure))

    def _look_at_snapshot(self, source: SourceFacts) -> None:
        try:
            with self._source.open(source.address(self._source.endpoint)) as node:
                self._rows += judge_snapshot(node, source.server)
        except SlotferryError as failure:
            self._rows.append(_unreached("source", failure))

    def _sample(self, source: SourceFacts, survey: Survey | None) -> None:
        keys = sum(self._counts)
        wanted = self._options.wanted(keys)
        if not wanted and keys:
            return
        if wanted >= keys * _ALMOST_ALL:
            wanted = keys
        expected = min(wanted, keys)
        seconds = expected / self._options.scan_rate
        if seconds > _TELL_SECONDS:
            what = "all" if wanted >= keys else f"about {expected:,} of"
            self._notify(
                f"looking at {what} {keys:,} keys, at most {self._options.scan_rate:,.0f} a second: "
                f"{format_duration(seconds)} or more"
            )
        memory = self._data_memory(survey)
        rate = self._options.scan_rate
        look = Look(self._source, source, self._selection, rate, self._notify, self._progress)
        try:
            looked = look.run(self._routes, self._counts, wanted, memory)
        except SlotferryError as failure:
            self._rows.append(not_checked("sample", failure.message, failure.hint))
            return
        except ResponseError as refusal:
            self._rows.append(not_checked("sample", f"SCAN is refused: {refusal}", "grant +scan"))
            return
        owners = {} if survey is None else slot_owners(survey.topology)
        self._keyspace = looked.sums.result(looked.keys, owners, memory.bytes if memory.is_exact else 0)
        self._rows += judge_data(self._keyspace)
        if keys and not looked.keys:
            hint = "correct the filters, or look at more keys with --sample or --full"
            self._rows.append(warning("keys", f"none of the {expected:,} keys looked at is chosen", hint))
        if survey is not None:
            self._rows += judge_placement(self._keyspace, survey, looked.rdb_types)
            self._rows += self._key_rights(survey, looked.sums.examples(_KEYS_PROBED))

    def _data_memory(self, survey: Survey | None) -> DataMemory:
        """Return the memory that the keys take; with filters nothing is known of it."""
        if survey is None or self._selection.filtered:
            return DataMemory()
        chosen = {route.source for route in self._routes}
        return DataMemory(survey.source.data_bytes, is_exact=not set(survey.source.keys) - chosen)

    def _study(self, source: SourceFacts, survey: Survey | None) -> None:
        study = ApplicationStudy(
            self._source, source.address(self._source.endpoint), self._notify, lambda: self._cancel.level > 0
        )
        options = self._options
        self._application = study.study(
            options.watch,
            options.commands,
            self._keyspace,
            lambda tag, share: "" if survey is None else describe_place(tag, share, survey),
        )
        self._rows += study.rows

    def _key_rights(self, survey: Survey, keys: Sequence[bytes]) -> list[Row]:
        """Probe with a RESTORE that no server takes, whether keys such as the source's may be written."""
        owners, denied = slot_owners(survey.topology), []
        addresses = {str(address): address for address in survey.topology.primaries}
        may_restore = {view.node for view in survey.primaries if "RESTORE" not in view.denied}
        for key, slot in zip(keys, key_slots(keys), strict=True):
            owner = owners.get(slot, "")
            if owner not in may_restore:
                continue
            try:
                with self._target.open(addresses[owner]) as node:
                    if denied_key(node, ("RESTORE", key, 0, "")):
                        denied.append(key)
            except SlotferryError as failure:
                return [not_checked("key-rights", failure.message, failure.hint)]
        if denied:
            names = ", ".join(map(shorten_key, denied[:3]))
            return [
                error(
                    "key-rights",
                    "target",
                    f"the target user may not write keys such as {names} (NOPERM)",
                    "grant it the keys: ACL SETUSER <user> ~*",
                )
            ]
        return [ok("key-rights", "the target user may write keys of every pattern")] if keys else []


def _is_readable(source: SourceFacts) -> bool:
    """Whether its keys can be read: a node of a cluster alone has but a part of them."""
    return isinstance(source, ClusterFacts) or not source.server.cluster


def _unreached(side: Side, failure: SlotferryError) -> Row:
    return error("source-reach" if side == "source" else "target-reach", side, failure.message, failure.hint)


def format_latency(seconds: float) -> str:
    """Return a round trip as a person reads it: `0.2 ms`, `35 ms`, `1.2s`."""
    if seconds >= 1:
        return format_duration(seconds)
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
