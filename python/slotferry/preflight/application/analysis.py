"""What is known of the application's commands, from MONITOR, a recorded log, the slow log and INFO.

Invariant: each of these may be refused or empty; what is missing is said in a row, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slotferry._core import key_slot
from slotferry.errors import SlotferryError
from slotferry.model.address import Address
from slotferry.model.rules import Rewrite
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.net.node import Node
from slotferry.net.replies import ResponseError
from slotferry.preflight.application.commands import (
    OTHERWISE,
    SPLITTABLE,
    Arguments,
    CommandTable,
    KeyFinder,
    command_name,
    parse_command_stats,
    unseen_several,
)
from slotferry.preflight.application.crossslot import CommandFollower, CommandUse
from slotferry.preflight.application.hashtags import (
    constant_tag,
    gathers,
    is_tagged,
    rewrite_rule,
    specificity,
)
from slotferry.preflight.application.monitor import MonitorRefusedError, OwnClients, Watch, read_log
from slotferry.preflight.application.tools import is_tool, without_tools
from slotferry.preflight.keyspace.patterns import Pattern
from slotferry.preflight.keyspace.summary import Keyspace
from slotferry.preflight.rows import Row, not_checked, ok, warning
from slotferry.text import format_bytes, format_duration

Notify = Callable[[str], None]
Place = Callable[[bytes, float], str]
"""Says where a constant tag with such a share of the data would be, and what that means there."""

_SLOW_ENTRIES = 128
_TRUNCATED = re.compile(rb"\.\.\. \(\d+ more arguments\)")
_ROW_OF_KIND = {
    "multi-key": "multi-key",
    "blocking": "blocking",
    "transaction": "transactions",
    "script": "scripts",
}
_NOUN = {
    "multi-key": "multi-key commands",
    "blocking": "blocking pops",
    "transaction": "transactions",
    "script": "scripts",
}
_NAMED = 3


@dataclass(frozen=True)
class Application:
    """What was seen of the application.

    uses: its multi-key commands, blocking pops, transactions and scripts, those that break first.
    sources: where from, in words. commands: how many were seen. otherwise: how often commands were called
    that a cluster treats otherwise, by name. advice: what makes each use work that breaks, in order.
    """

    sources: tuple[str, ...]
    commands: int
    uses: tuple[CommandUse, ...] = ()
    otherwise: Mapping[str, int] = field(default_factory=dict)
    advice: Mapping[CommandUse, str] = field(default_factory=dict)

    def rules(self) -> tuple[Rewrite, ...]:
        """Return the hash-tag advice as rewrite rules; constant tags, which spread nothing, are left out."""
        chosen: dict[Pattern, tuple[tuple[int, int], str]] = {}
        for use in self.uses:
            if use.breaks and not use.constant:
                for pattern, span in use.placement.items():
                    if not is_tagged(pattern):
                        chosen.setdefault(pattern, (span, use.command))
        return tuple(
            rewrite_rule(pattern, span, f"for {command}")
            for pattern, (span, command) in sorted(chosen.items(), key=lambda item: specificity(item[0]))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the `commands` of the summary."""
        return {
            "sources": list(self.sources),
            "seen": self.commands,
            "uses": [{**use.to_dict(), "advice": self.advice.get(use, "")} for use in self.uses],
            "otherwise": dict(self.otherwise),
            "rewrite": [{"match": rule.match, "to": str(rule.to)} for rule in self.rules()],
        }


class ApplicationStudy:
    """Gathers what is known of the commands of the source at `address` (None: its Unix socket)."""

    def __init__(
        self,
        connector: Connector,
        address: Address | None,
        notify: Notify,
        ends: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take also what says, from any thread's word, whether a watch is to end early."""
        self._ends = ends
        self._connector = connector
        self._address = address
        self._notify = notify
        self.rows: list[Row] = []
        self._sources: list[str] = []
        self._calls: dict[str, int] = {}
        self._taken_out = ""
        self._followed = False

    def study(
        self,
        watch: float | None,
        log: Path | None,
        keyspace: Keyspace | None,
        place: Place,
    ) -> Application | None:
        """Look at all there is. Ctrl-C during the watch ends that, and what was seen counts.

        Returns None where the source can't be reached at all; `rows` says so.
        """
        try:
            with self._connector.open(self._address) as node:
                return self._study(node, watch, log, keyspace, place)
        except SlotferryError as failure:
            self.rows.append(not_checked("observed", failure.message, failure.hint))
            return None

    def _study(
        self,
        node: Node,
        watch: float | None,
        log: Path | None,
        keyspace: Keyspace | None,
        place: Place,
    ) -> Application:
        self._calls = self._read_stats(node)
        follower = CommandFollower(KeyFinder(_command_table(node), lambda call: _getkeys(node, call)))
        self._read_slow_log(node, follower)
        if log is not None:
            self._read_log(log, follower)
        if watch is not None:
            self._watch(node, watch, follower)
        uses = follower.result(() if keyspace is None else keyspace.patterns)
        otherwise = {name: self._calls[name] for name in OTHERWISE if name in self._calls}
        otherwise.update(
            (name, max(count, otherwise.get(name, 0))) for name, count in follower.otherwise.items()
        )
        for own in ("scan", "dbsize", "select"):  # which we call ourselves
            if own not in follower.otherwise:
                otherwise.pop(own, None)
        advice = {use: _advise(use, keyspace, place) for use in uses if use.breaks}
        found = Application(
            tuple(self._sources),
            sum(follower.commands.values()),
            uses,
            dict(sorted(otherwise.items())),
            advice,
        )
        self._judge(found, follower)
        return found

    def _read_stats(self, node: Node) -> dict[str, int]:
        try:
            calls = parse_command_stats(node.info("commandstats"))
        except SlotferryError as failure:
            self.rows.append(not_checked("observed", failure.message, failure.hint))
            return {}
        self._sources.append("INFO commandstats")
        calls, self._taken_out = without_tools(calls, _client_list(node))
        return calls

    def _read_slow_log(self, node: Node, follower: CommandFollower) -> None:
        """Take what COMMANDLOG (Valkey 8.1 on) or SLOWLOG still has; where it is refused that says little."""
        count = 0
        for command in (
            ("COMMANDLOG", "GET", _SLOW_ENTRIES, "slow"),
            ("COMMANDLOG", "GET", _SLOW_ENTRIES, "large-request"),
            ("COMMANDLOG", "GET", _SLOW_ENTRIES, "large-reply"),
            ("SLOWLOG", "GET", _SLOW_ENTRIES),
        ):
            if command[0] == "SLOWLOG" and "COMMANDLOG" in self._sources:
                return
            try:
                entries = node.parsed(replies.array, *command)
            except ResponseError:
                continue
            if command[0] not in self._sources:
                self._sources.append(str(command[0]))
            for arguments in slow_entries(entries):
                count += 1
                follower.see_alone(command_name(arguments), arguments)

    def _read_log(self, path: Path, follower: CommandFollower) -> None:
        read = unreadable = 0
        own = OwnClients()
        first: tuple[int, bytes] | None = None
        try:
            with path.open("rb") as file:
                for number, observed in enumerate(read_log(file), 1):
                    if isinstance(observed, bytes):
                        unreadable += 1
                        first = first or (number, observed)
                    else:
                        read += 1
                        if not own.sent(observed):
                            follower.see(observed)
        except OSError as error:
            self.rows.append(
                not_checked("observed", f"{path} can't be read: {error.strerror}", "name another file")
            )
            return
        follower.lose_track()
        advice = "record one at the source: 'redis-cli monitor > FILE', for some minutes of usual work"
        if not read:
            what = f"{path} holds no MONITOR line"
            if first is not None:
                # Not the line itself: it may hold values, and secrets among them.
                what += f" (entry {first[0]}, of {len(first[1]):,} bytes, reads otherwise)"
            self.rows.append(not_checked("observed", what, advice))
            return
        self._followed = True
        self._sources.append(f"{path} ({read:,} commands)")
        if unreadable:
            self.rows.append(
                warning("observed", f"{unreadable:,} lines of {path} are no MONITOR lines: left out", advice)
            )

    def _watch(self, node: Node, seconds: float, follower: CommandFollower) -> None:
        info = node.info("stats")
        rate = info.get("instantaneous_ops_per_sec", "?")
        self._notify(
            f"watching MONITOR for {format_duration(seconds)}: the source sends a copy of each command, "
            f"{rate} a second now; this can cost it up to half of its throughput (Ctrl-C ends it early)"
        )
        try:
            with self._connector.open(self._address) as feed:
                watch = Watch(feed, seconds, self._ends)
                before = sum(follower.commands.values())
                # Before MONITOR, for connections that are gone when it is under way, then again: who names
                # one later is seen doing so (from 7.0 on; Redis 6.2 shows no CLIENT command).
                own = OwnClients(_client_list(node))
                listed = False
                with contextlib.suppress(KeyboardInterrupt):
                    for observed in watch:
                        if not listed:
                            own.add(_client_list(node))
                            listed = True
                        if observed is None:
                            follower.lose_track()
                        elif not own.sent(observed):
                            follower.see(observed)
        except MonitorRefusedError as refusal:
            self.rows.append(
                not_checked(
                    "observed",
                    f"MONITOR is refused: {refusal}",
                    "grant +monitor for the time, or record elsewhere and give --commands FILE",
                )
            )
            return
        except SlotferryError as failure:
            self.rows.append(not_checked("observed", failure.message, failure.hint))
            return
        follower.lose_track()
        self._followed = True
        seen = sum(follower.commands.values()) - before
        self._sources.append(f"MONITOR for {format_duration(watch.elapsed)} ({seen:,} commands)")
        if watch.gaps:
            self.rows.append(
                warning(
                    "observed",
                    f"commands came faster than they could be followed: {watch.gaps:,} gaps in what was seen",
                    "watch from a quicker or nearer machine, or at a quieter time; what was seen holds",
                )
            )

    def _judge(self, found: Application, follower: CommandFollower) -> None:
        unseen = unseen_several(self._calls, follower.table, follower.commands)
        seen_kinds = {use.kind for use in found.uses}
        if "exec" in unseen and "transaction" in seen_kinds:
            del unseen["exec"]
        if self._followed or not unseen:
            sources = ", ".join(found.sources) or "nothing"
            note = f"; called but not seen: {_count_list(unseen)}" if unseen else ""
            note += f"; not counted: {self._taken_out}" if self._taken_out else ""
            self.rows.append(ok("observed", f"from {sources}{note}"))
        else:
            self.rows.append(
                warning(
                    "observed",
                    f"the source has run {_count_list(unseen)}; whether their keys share a slot is unknown",
                    "follow the application: --watch 60s (MONITOR), or --commands FILE with a recorded one",
                )
            )
        for kind, name in _ROW_OF_KIND.items():
            self.rows += _judge_kind(
                name, _NOUN[kind], [use for use in found.uses if use.kind == kind], found
            )
        self.rows.append(_judge_otherwise(found.otherwise))


def _judge_kind(name: str, noun: str, uses: list[CommandUse], found: Application) -> list[Row]:
    broken = [use for use in uses if use.breaks]
    if not uses:
        return [ok(name, f"no {noun} were seen")]
    if not broken:
        return [ok(name, f"of {len(uses)} {noun} that were seen, each has its keys in one slot")]
    shown = "; ".join(f"{_call(use)} ({_how_often(use)})" for use in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    return [
        warning(
            name,
            f"{len(broken)} of {len(uses)} {noun} break in a cluster: {shown}{more}",
            " / ".join(dict.fromkeys(found.advice[use] for use in broken[:_NAMED])),
        )
    ]


def _judge_otherwise(otherwise: Mapping[str, int]) -> Row:
    if not otherwise:
        return ok("cluster-commands", "no command was seen that a cluster treats otherwise")
    names = ", ".join(f"{name.replace('|', ' ').upper()} ({n:,})" for name, n in otherwise.items())
    return warning(
        "cluster-commands",
        f"commands are used that a cluster treats otherwise: {names}",
        "; ".join(OTHERWISE[name] for name in otherwise),
    )


def _call(use: CommandUse) -> str:
    return f"{use.command} {' '.join(use.patterns)}".strip()


def _how_often(use: CommandUse) -> str:
    if not use.crossing:
        return f"{use.calls:,} calls, undeclared keys"
    return f"{use.crossing:,} of {use.calls:,} calls cross slots"


def _count_list(calls: Mapping[str, int], limit: int = 6) -> str:
    shown = ", ".join(f"{name.upper()} {count:,} times" for name, count in list(calls.items())[:limit])
    return shown + (f" and {len(calls) - limit} more" if len(calls) > limit else "")


def _advise(use: CommandUse, keyspace: Keyspace | None, place: Place) -> str:
    """Return what makes a use work that breaks."""
    parts = []
    if use.undeclared:
        parts.append(
            f"{' '.join(use.undeclared)} is used without being in KEYS, by which alone a cluster routes: "
            "declare it, or take it out of the script where it is in another slot"
        )
    if use.crossing and use.placement and not use.constant:
        told = use.tagged_example if use.tagged_example != use.tagged else ()
        example = f", such as {' '.join(told)}" if told else ""
        parts.append(f"name the keys {' '.join(use.tagged)}{example}")
    elif use.crossing and use.constant:
        parts.append(_advise_constant(use, keyspace, place))
    elif use.crossing:
        why = (
            "its keys share a part, but other commands need another tag"
            if use.conflict
            else "its keys share no part of their names, so that no hash tag joins them"
        )
        parts.append(f"{why}: {_split(use)}")
    return "; ".join(parts)


def _advise_constant(use: CommandUse, keyspace: Keyspace | None, place: Place) -> str:
    pattern, span = next((p, s) for p, s in use.placement.items() if gathers(p, s))
    tag = constant_tag(pattern, span)
    share, of_all = "", 0.0
    parts = [] if keyspace is None else [p for p in keyspace.by_pattern if p.name in use.patterns]
    if keyspace is not None and parts:
        size = sum(part.bytes for part in parts)
        of_all = size / keyspace.bytes if keyspace.bytes else sum(p.keys for p in parts) / keyspace.sampled
        amount = f", {format_bytes(size * keyspace.scale)}" if keyspace.bytes_known else ""
        share = f" ({of_all:.1%} of the data{amount})"
    return (
        f"only the constant tag {' '.join(use.tagged)} joins them, and puts all of these{share} into slot "
        f"{key_slot(tag)}{place(tag, of_all)}; better {_split(use)}"
    )


def _split(use: CommandUse) -> str:
    if use.command.lower() in SPLITTABLE:
        return f"let the cluster client send one {use.command} a slot (not atomic)"
    if use.kind == "transaction":
        return "split the transaction by slot"
    if use.kind == "script":
        return "split the script by slot, or move its logic into the application"
    return "split it into one command a slot, in the application"


def slow_entries(entries: Any) -> Iterable[tuple[bytes, ...]]:
    """Yield the arguments of the entries of a SLOWLOG or COMMANDLOG reply, without what was cut off.

    Entries of `tools` are left out. An entry: `id, time, µs, arguments, address, client's name`.
    """
    for entry in entries or ():
        if isinstance(entry, list) and len(entry) > 3 and isinstance(entry[3], list):
            if len(entry) > 5 and isinstance(entry[5], bytes) and is_tool(entry[5]):
                continue
            arguments = tuple(argument for argument in entry[3] if isinstance(argument, bytes))
            if arguments and _TRUNCATED.fullmatch(arguments[-1]):
                arguments = arguments[:-1]
            if arguments:
                yield arguments


def _client_list(node: Node) -> str:
    try:
        return node.parsed(replies.text, "CLIENT", "LIST")
    except ResponseError:
        return ""  # who may not see it still sees in MONITOR who is named from then on


def _command_table(node: Node) -> CommandTable:
    try:
        return CommandTable.parse(node.parsed(replies.array, "COMMAND"))
    except ResponseError:
        return CommandTable()


def _getkeys(node: Node, arguments: Arguments) -> list[bytes] | None:
    try:
        return node.parsed(replies.texts, "COMMAND", "GETKEYS", *arguments)
    except ResponseError as refusal:
        # "The command has no key arguments", "Invalid arguments": an answer as well.
        return None if "NOPERM" in str(refusal) or "permission" in str(refusal) else []
