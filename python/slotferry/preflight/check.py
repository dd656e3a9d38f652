"""`slotferry.check`: everything that can be told about a migration before it, in one report.

Invariant: what can't be looked at is a row that says so, and the rest goes on; only a call that makes no
sense raises. Nothing is written to either side.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from slotferry.admin import Connector
from slotferry.discovery import SourceFacts, TargetFacts, discover_source, discover_target
from slotferry.endpoints import Endpoint, Side, Tls
from slotferry.errors import SlotferryError
from slotferry.preflight import apply_skips, check_skips, judge_servers, judge_survey, source_is_cluster
from slotferry.preflight.reach import judge_announced
from slotferry.preflight.report import CheckReport
from slotferry.preflight.rows import Row, error, ok
from slotferry.preflight.survey import Survey, take_survey
from slotferry.text import format_duration

Notify = Callable[[str], None]


@dataclass(frozen=True)
class CheckOptions:
    """How to check; the defaults are the command line's.

    strict: whether warnings count in the report's exit code.
    skip_check: names of checks whose errors are only told.
    source_password, target_password: instead of the URL's. source_tls, target_tls: TLS files and settings.
    """

    strict: bool = False
    skip_check: tuple[str, ...] = ()
    source_password: str | None = field(default=None, repr=False)
    target_password: str | None = field(default=None, repr=False)
    source_tls: Tls = field(default_factory=Tls)
    target_tls: Tls = field(default_factory=Tls)

    def __post_init__(self) -> None:
        check_skips(self.skip_check)


def check(
    source: str | Endpoint,
    target: str | Endpoint,
    options: CheckOptions | None = None,
    notify: Notify = lambda _: None,
) -> CheckReport:
    """Look at both sides and return what stands for and against a migration.

    URLs as for `Migration`. `notify` is told, a sentence at a time, what takes long or costs the servers
    something, before it begins. A side that can't be reached or lacks a right is a row of the report; raises
    `UsageError` for a URL, a file or an option that makes no sense.
    """
    options = options or CheckOptions()
    ends = (
        _endpoint(source, "source", options.source_password, options.source_tls),
        _endpoint(target, "target", options.target_password, options.target_tls),
    )
    return _Check(ends[0], ends[1], options, notify).perform()


def _endpoint(given: str | Endpoint, side: Side, password: str | None, tls: Tls) -> Endpoint:
    from slotferry.migration import parse_endpoint

    endpoint = parse_endpoint(given, side).with_credentials(password, tls)
    endpoint.access()  # reads the TLS files: now is the time to complain
    return endpoint


class _Check:
    """One check; `perform` is called once."""

    def __init__(self, source: Endpoint, target: Endpoint, options: CheckOptions, notify: Notify) -> None:
        self._source = Connector(source, "source")
        self._target = Connector(target, "target")
        self._options = options
        self._notify = notify
        self._rows: list[Row] = []

    def perform(self) -> CheckReport:
        begun = time.monotonic()
        source, target = self._look_at_source(), self._look_at_target()
        if source is not None and target is not None:
            self._compare(source, target)
        return CheckReport(
            source=self._source.endpoint.identity,
            target=self._target.endpoint.target_identity,
            rows=tuple(apply_skips(self._rows, self._options.skip_check)),
            elapsed_seconds=time.monotonic() - begun,
            strict=self._options.strict,
        )

    def _look_at_source(self) -> SourceFacts | None:
        if self._source.endpoint.is_cluster_url:
            refusal = source_is_cluster(str(self._source.endpoint.addresses[0]))
            self._rows.append(error("servers", "source", refusal.message, refusal.hint))
            return None
        try:
            facts = discover_source(self._source)
        except SlotferryError as failure:
            self._rows.append(_unreached("source", failure))
            return None
        self._rows.append(
            ok(
                "source-reach",
                f"{facts.server.node} answers in {format_latency(facts.round_trip)}: {facts.server.product}, "
                f"{facts.keys:,} keys",
            )
        )
        return facts

    def _look_at_target(self) -> TargetFacts | None:
        try:
            facts = discover_target(self._target)
        except SlotferryError as failure:
            self._rows.append(_unreached("target", failure))
            return None
        names = ", ".join(primary.server.node for primary in facts.primaries) or facts.seed.node
        self._rows.append(ok("target-reach", f"answers at {names}: {facts.seed.product}"))
        return facts

    def _compare(self, source: SourceFacts, target: TargetFacts) -> None:
        rows = judge_servers(source, target, self._target.endpoint.database)
        self._rows += rows
        if any(row.name == "servers" and row.status == "error" for row in rows):
            return
        self._rows += judge_announced(self._target)
        try:
            survey = take_survey(self._source, source, self._target, target)
        except SlotferryError as failure:
            self._rows.append(_unreached("source" if "source" in failure.kind else "target", failure))
            return
        self._judge(survey)

    def _judge(self, survey: Survey) -> None:
        self._rows += judge_survey(survey)


def _unreached(side: Side, failure: SlotferryError) -> Row:
    return error("source-reach" if side == "source" else "target-reach", side, failure.message, failure.hint)


def format_latency(seconds: float) -> str:
    """Return a round trip as a person reads it: `0.2 ms`, `35 ms`, `1.2s`."""
    if seconds >= 1:
        return format_duration(seconds)
    return f"{seconds * 1000:.1f} ms" if seconds < 0.01 else f"{seconds * 1000:.0f} ms"
