"""Whether the source can be followed, and how long its stream waits; whether a snapshot can be read of it.

Invariant: it only asks. PSYNC is never sent where it could begin something: ACL DRYRUN answers, or a server
that queues it in a transaction which is discarded.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any

from slotferry.net import replies
from slotferry.net.node import Node
from slotferry.net.replies import NoPermissionError, ResponseError
from slotferry.preflight.rights import denied_commands
from slotferry.preflight.rows import Row, error, not_checked, ok, warning
from slotferry.text import count_of, format_bytes, format_duration
from slotferry.topology.discovery import ServerFacts

WITHOUT_PSYNC = (
    "without --follow: repeat 'slotferry migrate --on-conflict replace', stop the writers for the last pass, "
    "and compare with 'slotferry verify --repair'"
)
"""What is possible where a source does not let itself be followed."""

_LEAST_SECONDS = 60.0  # a restart of the run, or of its machine's network, takes no longer
_LEAST_BUFFER_SECONDS = 10.0
_LEAST_BACKLOG = 64 << 20
_FIRST_ALONE = (6, 2)
_SNAPSHOT_PERMISSIONS = (("REPLCONF", "capa", "psync2"), ("PING",))
_PERMISSIONS = (("REPLCONF", "capa", "psync2"), ("PING",), ("COMMAND",))


@dataclass(frozen=True)
class Stream:
    """What a source says about its replication stream.

    info: of INFO, all of its sections. calls: how often each command ran. buffer: the hard limit, the soft
    limit (bytes) and its seconds of a replica's output buffer; None where that may not be asked for.
    writes: bytes a second of the stream, or at most so many where `is_limit`; None: not known.
    """

    node: str
    server: ServerFacts
    info: dict[str, str]
    calls: dict[str, int]
    denied: tuple[str, ...]
    buffer: tuple[int, int, int] | None
    writes: float | None
    is_limit: bool

    def number(self, name: str) -> int:
        """Return a field of INFO as a whole number."""
        return replies.number_of(self.info, name)


def look_at_stream(node: Node, server: ServerFacts, seconds: float) -> Stream:
    """Ask a source about its stream, whose growth is measured for `seconds`.

    Raises `SlotferryError` where the source goes away.
    """
    before, begun = node.info(), time.monotonic()
    denied = (*denied_commands(node, _PERMISSIONS), *(() if _may_psync(node) else ("PSYNC",)))
    calls = _calls(node)
    buffer = _buffer_limits(node)
    time.sleep(seconds)
    after, took = node.info(), time.monotonic() - begun
    writes, is_limit = _rate(before, after, took)
    return Stream(node.name, server, after, calls, denied, buffer, writes, is_limit)


def judge_snapshot(node: Node, server: ServerFacts) -> list[Row]:
    """Return what stands for and against reading that source as a snapshot.

    Raises `SlotferryError` where the source goes away.
    """
    denied = (*denied_commands(node, _SNAPSHOT_PERMISSIONS), *(() if _may_psync(node) else ("PSYNC",)))
    if denied:
        names = " ".join("+" + name.lower() for name in denied)
        return [
            error(
                "rdb-only",
                "source",
                f"the source user may not run {', '.join(denied)} at {node.name} (NOPERM, or not known), "
                "which a snapshot takes",
                f"grant it there: ACL SETUSER <user> {names}; where a managed service refuses it, read with "
                "--read scan",
            )
        ]
    if server.version < _FIRST_ALONE:
        return [
            error(
                "rdb-only",
                "source",
                f"{server.product} at {node.name} sends no snapshot alone (REPLCONF rdb-only), which came "
                "with Redis 6.2",
                "read with --read scan",
            )
        ]
    return [ok("rdb-only", f"{node.name} sends a snapshot alone (PSYNC, REPLCONF rdb-only)"), _fork(node)]


def _fork(node: Node) -> Row:
    info = node.info()
    used, there = (replies.number_of(info, name) for name in ("used_memory", "total_system_memory"))
    if not there:
        return not_checked(
            "fork",
            f"{node.name} does not tell how much memory its machine has",
            "see that there is room for what is written while a snapshot is read (copy on write)",
        )
    message = f"{node.name} uses {format_bytes(used)} of {format_bytes(there)} of its machine's memory"
    if used <= there // 2:
        return ok("fork", message)
    return warning(
        "fork",
        f"{message}, and forks: what is written while its snapshot is read takes memory once more",
        "see that there is room, or read a replica: ?role=replica",
    )


def judge_following(stream: Stream) -> list[Row]:
    """Return what stands for and against following that source."""
    rows = [_psync(stream)]
    if rows[0].status != "error":
        rows += [_snapshot(stream), _backlog(stream), _output_buffer(stream), _acknowledgements(stream)]
    return rows


def _psync(stream: Stream) -> Row:
    if stream.denied:
        names = " ".join("+" + name.lower() for name in stream.denied)
        return error(
            "psync",
            "source",
            f"the source user may not run {', '.join(stream.denied)} at {stream.node} (NOPERM, or not known)",
            f"grant it there: ACL SETUSER <user> {names}; where a managed service refuses it, move "
            + WITHOUT_PSYNC,
        )
    if stream.number("loading"):
        return error(
            "psync", "source", f"the source {stream.node} is loading its data", "begin when it has ended"
        )
    if stream.info.get("role") == "slave" and stream.info.get("master_link_status") != "up":
        return error(
            "psync",
            "source",
            f"the source {stream.node} has lost its primary: it has no stream to go on with",
            "restore its replication, or follow the primary",
        )
    return ok("psync", f"{stream.node} may be followed (PSYNC, REPLCONF)")


def _snapshot(stream: Stream) -> Row:
    if stream.server.version >= (7, 0):
        return ok("snapshot", "the source begins its stream without a snapshot")
    size = format_bytes(stream.number("used_memory"))
    return warning(
        "snapshot",
        f"{stream.server.product} makes a snapshot when it is followed, once: it forks, and sends "
        f"{size} or less that are read past",
        "leave it memory for what is written meanwhile (copy on write), or follow a replica: ?role=replica",
    )


def _backlog(stream: Stream) -> Row:
    size = stream.number("repl_backlog_size")
    if not size:
        return not_checked(
            "backlog",
            "INFO does not tell repl_backlog_size",
            "see that repl-backlog-size is enough",
        )
    held = format_bytes(size)
    if stream.writes is None:
        return not_checked(
            "backlog", f"{held}; how much is written is not known", "give it a minute's writes"
        )
    if not stream.writes:
        return ok("backlog", f"{held}; nothing was written while it was looked at")
    seconds = size / stream.writes
    share = "at least " if stream.is_limit else ""
    rate = f"{'at most ' if stream.is_limit else ''}{format_bytes(stream.writes)}/s"
    message = f"{held} hold {share}{format_duration(seconds)} of your writes ({rate})"
    if seconds >= _LEAST_SECONDS:
        return ok("backlog", message)
    wanted = max(_LEAST_BACKLOG, _power_of_two(stream.writes * _LEAST_SECONDS))
    return warning(
        "backlog",
        message + ": a run that is away for longer compares both sides afterwards",
        f"CONFIG SET repl-backlog-size {wanted >> 20}mb",
    )


def _output_buffer(stream: Stream) -> Row:
    if stream.buffer is None:
        return not_checked(
            "output-buffer",
            "the source user may not run CONFIG GET",
            "see that the replica class of client-output-buffer-limit has room",
        )
    hard, soft, seconds = stream.buffer
    limits = [limit for limit in (hard, soft) if limit]
    if not limits:
        return ok("output-buffer", "a replica's output buffer has no limit")
    # The stream is read whatever the target does: what is left to bridge is a busy machine or network.
    wanted = max(1 << 20, round((stream.writes or 0.0) * _LEAST_BUFFER_SECONDS))
    limit = f"{format_bytes(hard)}, or {format_bytes(soft)} for {seconds} s" if soft else format_bytes(hard)
    if min(limits) >= wanted:
        return ok("output-buffer", f"a replica's output buffer may hold {limit}")
    return warning(
        "output-buffer",
        f"a replica's output buffer may hold {limit}: less than {format_duration(_LEAST_BUFFER_SECONDS)} of "
        "your writes, so the source hangs up on a slow network",
        f"CONFIG SET client-output-buffer-limit 'replica {_power_of_two(wanted) * 4 >> 20}mb "
        f"{_power_of_two(wanted) >> 20}mb 60'",
    )


def _acknowledgements(stream: Stream) -> Row:
    waits = stream.calls.get("wait", 0) + stream.calls.get("waitaof", 0)
    least = stream.number("min_slaves_good_slaves") if "min_slaves_good_slaves" in stream.info else None
    found = []
    if waits:
        found.append(f"WAIT was called {count_of(waits, 'time')}")
    if least is not None:
        found.append("min-replicas-to-write is set")
    if not found:
        return ok("acknowledgements", "no use of WAIT is seen, and min-replicas-to-write is not set")
    return warning(
        "acknowledgements",
        f"{' and '.join(found)}: a follower acknowledges like a replica and is counted as one, though it "
        "keeps no copy of its own",
        "ask for one replica more while it is followed",
    )


def _may_psync(node: Node) -> bool:
    try:
        user = node.parsed(replies.text, "ACL", "WHOAMI")
        answer = node.call("ACL", "DRYRUN", user, "PSYNC", "?", "-1")
    except ResponseError:
        # Permissions are asked for before a command is queued, or refused as one that no transaction takes.
        if _is_denied(node.call_many([("DISCARD",)])[0]):
            return True  # there would be no way out of the transaction: the run itself will see
        queued = node.call_many([("MULTI",), ("PSYNC", "?", "-1"), ("DISCARD",)])[1]
        return not _is_denied(queued)
    return not _is_denied(answer)


def _is_denied(answer: Any) -> bool:
    if isinstance(answer, NoPermissionError):
        return True
    if isinstance(answer, bytes):
        answer = answer.decode("utf-8", "replace")
    return re.search(r"run the '|unknown command|Command '.*' not found", str(answer)) is not None


def _calls(node: Node) -> dict[str, int]:
    found = {}
    for name, value in node.info("commandstats").items():
        match = re.match(r"calls=([0-9]{1,18})", value)
        if name.startswith("cmdstat_") and match:
            found[name.removeprefix("cmdstat_")] = int(match[1])
    return found


def _buffer_limits(node: Node) -> tuple[int, int, int] | None:
    try:
        setting = node.parsed(replies.pairs, "CONFIG", "GET", "client-output-buffer-limit")
    except ResponseError:
        return None
    match = re.search(
        r"\b(?:slave|replica) ([0-9]{1,18}) ([0-9]{1,18}) ([0-9]{1,9})",
        setting.get("client-output-buffer-limit", ""),
    )
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))


def _rate(before: dict[str, str], after: dict[str, str], took: float) -> tuple[float | None, bool]:
    """Return the stream's bytes a second, and whether that is no more than a limit.

    A source without replicas counts no offset; all that comes in from its clients is a limit then.
    """
    offsets = [replies.number_of(info, "master_repl_offset", -1) for info in (before, after)]
    if replies.number_of(after, "repl_backlog_active") and min(offsets) >= 0 and took > 0.5:
        return max(0, offsets[1] - offsets[0]) / took, False
    text = after.get("instantaneous_input_kbps", "")
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,9})?", text) is None:
        return None, True
    return float(text) * 1024, True


def _power_of_two(number: float) -> int:
    return 1 << max(20, (max(1, round(number)) - 1).bit_length())
