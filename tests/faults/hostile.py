"""Runs a case of the hostile fuzz and judges it.

Invariant: what is judged is what the real servers hold and have counted, not what the run says of itself.

**Lies that no client can see through** are not held against a run (`_believable`): a reply of the source that
is what a source may say of a key (a SCAN that lists other keys, a DUMP that is nil or another key's, a TTL, a
length); OK of a target for a write that did not reach it; what a target says that it holds where a comparison
asks. Such a lie may make a success out of less, but no crash, no hang, no write elsewhere. A reply that is
left out, or one too many, shifts those behind it: each is then an answer that is well-formed. Among writes
this shows, since each batch of them is closed by an answer of its own.
"""

from __future__ import annotations

import random
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from slotferry.errors import ExitCode
from slotferry.testing.servers import LocalServer
from tests.faults.forked import Ended
from tests.faults.hostile_bed import MOVED_SLOTS, Bed, Holding, unlike
from tests.faults.hostile_cases import Case
from tests.reshard.broken import half_moved
from tests.servers.compare import compare
from tests.servers.forger import Arguments, Forgery
from tests.servers.mutations import OF_OWN, WAYS, Chance
from tests.servers.resp import is_whole

SECONDS = 30.0
"""Beyond what the longest case takes: `--retry-for` of 1 s in each phase, and 10 s for a login in each."""
MEMORY = 100 << 20
_BUDGET = 64 << 20
_STDERR = 20_000
_EXPECTED = {
    ExitCode.OK,
    ExitCode.INCOMPLETE,
    ExitCode.REFUSED,
    ExitCode.SOURCE_LOST,
    ExitCode.TARGET_LOST,
    ExitCode.WORK_LEFT,
}
_TWO_WORDS_TEXT = """
    ACL CLIENT CLUSTER CONFIG FUNCTION MEMORY OBJECT SCRIPT XGROUP XINFO
"""
_TWO_WORDS = frozenset(_TWO_WORDS_TEXT.split())


def command_name(arguments: Arguments) -> str:
    """Return a command's name as the tables have it."""
    words = [part.upper().decode("ascii", "replace") for part in arguments[:2]]
    return " ".join(words[: 2 if words[0] in _TWO_WORDS else 1])


@dataclass
class Lie:
    """What was told: to which command, what the server itself said, and what was said instead."""

    arguments: Arguments
    own: bytes
    told: Forgery


@dataclass
class Liar:
    """Answers as the case says, whichever node is asked; counts over all of them."""

    case: Case
    addresses: list[str]
    lies: list[Lie] = field(default_factory=list)
    seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forge(self, arguments: Arguments) -> Forgery | None:
        case = self.case
        if command_name(arguments) != case.command:
            return None
        with self._lock:
            self.seen += 1
            number = self.seen - case.nth
        if not 0 <= number < case.times:
            return None
        rng = random.Random(f"{case.seed}:{number if number < 50 else 50}")
        way = WAYS.get(case.way) or OF_OWN[case.way]

        def become(own: bytes) -> Forgery:
            told = way(Chance(rng, arguments, self.addresses), own)
            self.lies.append(Lie(arguments, own, told))
            return told

        return Forgery(become=become, withheld=case.withheld and case.way in WAYS)


@dataclass
class Verdict:
    """What is wrong with a run; `met`: whether the command came at all."""

    case: Case
    ended: Ended
    met: bool
    wrong: list[str]

    def __str__(self) -> str:
        text = self.ended.stderr[-3_000:].decode(errors="replace")
        faults = "\n".join(f"  {one}" for one in self.wrong)
        how = f"exit {self.ended.code} after {self.ended.seconds:.1f} s, stderr"
        said = self.ended.stdout[-1_000:].decode(errors="replace")
        return f"{self.case}\n{faults}\n  {how}:\n{text}\n  stdout:\n{said}"


def run_case(bed: Bed, case: Case, listen: Callable[[], object] = lambda: None) -> Verdict:
    """Run one case on servers that it may leave in any state; `listen` is called just before."""
    bed.begin()
    loaded = _load(bed, case.kind.loaded)
    bed.reset_counters()
    liar = Liar(case, _addresses(bed))
    for forger in [bed.source] if case.side == "source" else bed.nodes:
        forger.forge = liar.forge
    listen()
    folder = bed.folder / "case"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    places = {"source": bed.source.url, "target": bed.target_url, "plan": str(bed.plan)}
    arguments = [part.format(**places) for part in case.kind.arguments]
    state = {name: str(folder) for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME")}
    ended = bed.command.run([*arguments, *bed.address_map], folder, SECONDS, state)
    for forger in (bed.source, *bed.nodes):
        forger.cut()
    wrong = [*_manners(bed, ended), *_written(bed, case), *_truth(bed, case, ended, liar.lies, loaded)]
    return Verdict(case, ended, bool(liar.lies), wrong)


def _addresses(bed: Bed) -> list[str]:
    own = [bed.source.address, bed.real_source.address, *(node.address for node in bed.nodes)]
    own += [node.address for node in bed.cluster.primaries]
    others = [server.address for server in bed.bystanders]
    return [*own, *others, *others, "127.0.0.1:1", ":1", "nosuch.invalid:6379", "[::1]:1"]


def _load(bed: Bed, how: str) -> Holding:
    """Give the target what the case wants there; return what it holds then."""
    held = bed.held
    if how == "nothing":
        return {}
    names = sorted(held)
    loaded = dict(held)
    if how in ("some", "less"):
        loaded = {name: held[name] for i, name in enumerate(names) if i % 5}
    if how == "some":
        plain = [name for name in loaded if name.startswith(b"plain:")]
        loaded[plain[0]] = held[plain[1]]
    if how == "less":
        loaded[b"extra"] = held[b"plain:1"]
    bed.load_target(loaded)
    if how == "open":
        half_moved(bed.cluster.primaries[0], bed.cluster.primaries[1], MOVED_SLOTS[0], 2)
    return loaded


def _manners(bed: Bed, ended: Ended) -> Iterator[str]:
    """How it ended, whatever it was told."""
    if ended.hung:
        yield f"it hung:\n{ended.hung[:6_000]}"
    elif ended.code not in _EXPECTED:
        yield f"exit code {ended.code}"
    if b"Traceback" in ended.stderr or b"panicked" in ended.stderr:
        yield "a traceback on stderr"
    if len(ended.stderr) > _STDERR:
        yield f"{len(ended.stderr):,} bytes on stderr"
    if ended.code not in (0, ExitCode.INCOMPLETE, ExitCode.WORK_LEFT) and not (
        ended.stderr.strip() or ended.stdout.strip()
    ):
        yield "no word on stderr"
    if ended.peak > bed.command.baseline + _BUDGET + MEMORY:
        yield f"{ended.peak / 1e6:.0f} MB of memory"


def _written(bed: Bed, case: Case) -> Iterator[str]:
    """Who was written to who must not be."""
    readable: list[LocalServer] = [bed.real_source, *bed.bystanders]
    if case.kind.reads_only:
        readable += bed.cluster.primaries
    for server in readable:
        if names := bed.written_by(server):
            who = (
                "source"
                if server is bed.real_source
                else "target"
                if server in bed.cluster.primaries
                else "stranger"
            )
            yield f"the {who} {server.address} ran {', '.join(names)}"
    held = bed.holds(bed.real_source)
    if held.keys() != bed.held.keys() or unlike(held, bed.held):
        yield "the source holds something else now"


def _truth(bed: Bed, case: Case, ended: Ended, lies: list[Lie], loaded: Holding) -> Iterator[str]:
    """Whether what it says is so, and whether what was there is there."""
    if case.kind.arguments[0] == "reshard":
        yield from _nothing_lost(bed, loaded, _told_to_expire(lies))
        if ended.code == 0 and case.kind.name == "apply" and not _believable(case, lies):
            yield from _moved(bed)
        return
    if ended.code == 0 and case.kind.whole and not _believable(case, lies):
        yield from (f"exit 0, and {one}" for one in _differences(bed))
    if case.kind.loaded != "nothing" and not _believable(case, lies):
        missing = loaded.keys() - bed.holds(*bed.cluster.primaries).keys() - {b"extra"}
        if missing:
            yield f"{len(missing)} keys that the target had are gone: {sorted(missing)[:3]}"


def _differences(bed: Bed) -> list[str]:
    # Both sides are asked one after the other, and this machine may have much to do.
    return compare(bed.real_source, bed.cluster, ttl_tolerance_ms=5_000).problems[:5]


def _told_to_expire(lies: list[Lie]) -> set[bytes]:
    """Return the keys of which the node said that they live so long yet: nobody can know better."""
    return {
        lie.arguments[1]
        for lie in lies
        if lie.arguments[0].upper() == b"PTTL" and re.fullmatch(rb":[0-9]+\r\n", lie.told.reply or b"")
    }


def _nothing_lost(bed: Bed, loaded: Holding, expired: set[bytes]) -> Iterator[str]:
    held = bed.holds(*bed.cluster.primaries)
    for key in loaded.keys() - held.keys() - expired:
        yield f"the cluster has lost {key!r}"
    if other := unlike(loaded, held):
        yield f"the cluster holds another value of {other[:3]}"


def _moved(bed: Bed) -> Iterator[str]:
    """What the plan wanted, by every node's own words."""
    expected = bed.connection(bed.cluster.primaries[1]).execute("CLUSTER", "MYID").decode()
    for node in bed.cluster.primaries[:2]:
        text = bed.connection(node).execute("CLUSTER", "NODES").decode()
        for line in text.splitlines():
            if "[" in line:
                yield f"exit 0, and a slot is open: {line}"
            ranges = line.split()[8:]
            owns = any(
                int(r.split("-")[0]) <= MOVED_SLOTS[0] <= int(r.split("-")[-1])
                for r in ranges
                if "[" not in r
            )
            if owns and not line.startswith(expected):
                yield f"exit 0, and {node.address} thinks that {line.split()[1]} has slot {MOVED_SLOTS[0]}"


_SHIFTS = frozenset({"missing", "extra", "flipped", "wrong length", "garbage"})
_CLOSED = frozenset({"SET", "RESTORE", "ECHO"})
_ANSWERS_TEXT = """
    SCAN DUMP PTTL PEXPIRETIME TYPE EXISTS OBJECT SCARD SSCAN ZCARD ZRANGE ZSCAN STRLEN GETRANGE
    HLEN HSCAN HPEXPIRETIME LLEN LRANGE XLEN XRANGE XPENDING MEMORY XINFO SMISMEMBER ZMSCORE HMGET
"""
_ANSWERS = frozenset(_ANSWERS_TEXT.split())
_COMPARING = frozenset(
    {"verify equal", "verify unlike", "verify repairs", "migrate compares", "migrate verifies"}
)


def _believable(case: Case, lies: list[Lie]) -> bool:
    """Whether one of the lies may be the truth for all that a client can know."""
    return any(_is_believable(case, lie) for lie in lies)


def _is_believable(case: Case, lie: Lie) -> bool:
    if case.side == "target" and case.command in _CLOSED and case.way in ("missing", "extra"):
        return False
    if case.way in _SHIFTS:
        return case.command.split()[0] not in ("INFO", "CLUSTER", "ACL", "DBSIZE")
    told = lie.told.reply or b""
    if told == lie.own or not is_whole(told) or told.startswith(b"-"):
        return False
    name = case.command.split()[0]
    if name in _ANSWERS and (case.side == "source" or case.kind.name in _COMPARING):
        return case.withheld or told == b"$-1\r\n" or told[:1] == lie.own[:1]
    return case.withheld and told[:1] in b"+:*"
