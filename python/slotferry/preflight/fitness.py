"""Whether the target is fit to take the source's data: its state, its room, what else it does at the time.

Invariant: judged from a `Survey` (and a sample of the data where there is one) alone. An error is only what
would lose data or stop the run; what a person should know is a warning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

from slotferry._core import SLOTS
from slotferry.model.address import Address
from slotferry.net.cluster_nodes import ClusterNode
from slotferry.preflight.rows import Row, error, not_checked, ok, warning
from slotferry.preflight.survey import ServerView, Survey
from slotferry.text import format_bytes, format_duration
from slotferry.topology.discovery import Topology

_SKEW_SECONDS = 0.5
_MOST_AHEAD_SECONDS = 60.0
"""A target whose clock is farther ahead drops keys that live on at the source."""
_DOUBT = 1.2  # by so much the same data may take more in one server than in another


def judge_fitness(survey: Survey, shares: Mapping[str, float] | None = None) -> list[Row]:
    """Return a row for each check of the target; `shares` are the primaries' of the data, where known."""
    return [_clocks(survey), _memory(survey, shares), *judge_target(survey)]


def judge_target(survey: Survey) -> list[Row]:
    """Return the rows that need no source."""
    return [
        _open_slots(survey),
        _majority(survey),
        _replicas(survey),
        _existing_keys(survey),
        _eviction(survey),
        _persistence(survey),
    ]


def slot_shares(survey: Survey) -> dict[str, float]:
    """Return the share of the slots that each primary (by node) serves."""
    counts = Counter(slot_owners(survey.topology).values())
    return {node: count / SLOTS for node, count in counts.items()}


def slot_owners(topology: Topology) -> dict[int, str]:
    """Return the primary (by node) of each slot that has one."""
    return {
        slot: str(Address(host, port))
        for first, last, host, port in topology.ranges
        for slot in range(first, last + 1)
    }


def expected_bytes(survey: Survey, shares: Mapping[str, float] | None = None) -> dict[str, int]:
    """Return about how much memory each primary's part of the source's database will take."""
    keys = survey.source.keys
    share = survey.source_keys / sum(keys.values()) if sum(keys.values()) else 1.0
    data = survey.source.data_bytes * min(1.0, share)
    return {node: round(data * part) for node, part in (shares or slot_shares(survey)).items()}


def tag_might_overflow(survey: Survey) -> bool:
    """Whether a primary has less room than all of the data takes: one hash tag could fill it then."""
    keys = sum(survey.source.keys.values())
    data = survey.source.data_bytes * min(1.0, survey.source_keys / keys if keys else 1.0)
    limits = [(view.number("maxmemory"), view.number("used_memory")) for view in survey.primaries]
    return any(limit and data > limit - used for limit, used in limits)


def _clocks(survey: Survey) -> Row:
    source = survey.source.clock
    if source is None:
        return not_checked("clocks", "the source user may not run TIME", "grant +time")
    worst, node, known = 0.0, "", 0
    for view in survey.primaries:
        if view.clock is None:
            continue
        known += 1
        skew = view.clock.ahead - source.ahead
        slack = view.clock.uncertainty + source.uncertainty
        if abs(skew) - slack > max(_SKEW_SECONDS, abs(worst)):
            worst, node = skew, view.node
    if not known:
        return not_checked("clocks", "the target user may not run TIME", "grant +time")
    if node:
        what = "ahead of" if worst > 0 else "behind"
        effect = "keys expire too early there" if worst > 0 else "keys live longer there"
        message = f"the clock of {node} is {format_duration(abs(worst))} {what} the source's: {effect}"
        advice = "let NTP set the clocks of all hosts before keys with a TTL are moved"
        if worst > _MOST_AHEAD_SECONDS:  # what it takes and lets expire at once would count as migrated
            return error("clocks", "target", message, advice)
        return warning("clocks", message, advice)
    return ok("clocks", "the clocks of all hosts agree within half a second")


def _open_slots(survey: Survey) -> Row:
    found = [
        f"{slot} at {view.node}"
        for view in survey.primaries
        for node in view.nodes
        if node.is_itself
        for slot in _ways(node)
    ]
    if not survey.primaries or not all(view.nodes for view in survey.primaries):
        return not_checked("open-slots", "the target user may not run CLUSTER NODES", "grant +cluster|nodes")
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return warning(
            "open-slots",
            f"slots are on the move: {', '.join(found[:5])}{more}",
            "let the reshard end first, or repair it with 'slotferry reshard fix'; redirects are followed",
        )
    return ok("open-slots", "no slot is on the move")


def _ways(node: ClusterNode) -> list[str]:
    """Return the node's open slots as CLUSTER NODES shows them."""
    leaving = [f"{slot}->-{other}" for slot, other in node.migrating.items()]
    return leaving + [f"{slot}-<-{other}" for slot, other in node.importing.items()]


def _majority(survey: Survey) -> Row:
    nodes = next((view.nodes for view in survey.primaries if view.nodes), ())
    owners = [node for node in nodes if "master" in node.flags and node.slots]
    alive = [node for node in owners if node.is_alive]
    if not owners:
        return not_checked("majority", "the target user may not run CLUSTER NODES", "grant +cluster|nodes")
    if len(alive) * 2 <= len(owners):
        return error(
            "majority",
            "target",
            f"only {len(alive)} of {len(owners)} primaries are alive: the cluster can't fail over",
            "bring the others back first",
        )
    if len(alive) < len(owners):
        gone = ", ".join(node.address for node in owners if not node.is_alive)
        return warning("majority", f"primaries are not reachable for the others: {gone}", "bring them back")
    if len(owners) < 3:
        return warning(
            "majority",
            f"with {len(owners)} primaries the cluster can't outlast the loss of one",
            "a cluster needs three primaries or more to fail over",
        )
    return ok("majority", f"all {len(owners)} primaries are alive")


def _replicas(survey: Survey) -> Row:
    nodes = next((view.nodes for view in survey.primaries if view.nodes), ())
    owners = [node for node in nodes if "master" in node.flags and node.slots]
    followed = {node.primary_id for node in nodes if node.primary_id and node.is_alive}
    bare = [node.address for node in owners if node.id not in followed]
    if (lacking := _lacking_replicas(survey)) is not None:
        return lacking
    if not owners:
        return not_checked("replicas", "the target user may not run CLUSTER NODES", "grant +cluster|nodes")
    stuck = [view.node for view in survey.primaries if view.info.get("min_slaves_good_slaves") == "0"]
    if stuck:
        return error(
            "replicas",
            "target",
            f"{', '.join(stuck)} refuses writes (NOREPLICAS): min-replicas-to-write, and no good replica",
            "give it a replica, or set min-replicas-to-write to 0 for the time",
        )
    if bare:
        return warning(
            "replicas",
            f"{len(bare)} of {len(owners)} primaries have no live replica: {', '.join(bare[:5])}",
            "add one each, before or after: without it the loss of a primary loses its data",
        )
    return ok("replicas", "every primary has a live replica")


def _lacking_replicas(survey: Survey) -> Row | None:
    """Return the error where primaries have fewer replicas than are to confirm what is written."""
    counts = {view.node: _replicas_of(view) for view in survey.primaries}
    short = [f"{node} has {count}" for node, count in counts.items() if count < survey.wait_replicas]
    if not short:
        return None
    least, more = min(counts.values()), f" and {len(short) - 5} more" if len(short) > 5 else ""
    return error(
        "replicas",
        "target",
        f"--wait-replicas {survey.wait_replicas} asks for more replicas than there are: "
        f"{', '.join(short[:5])}{more}",
        f"add replicas, or {f'give --wait-replicas {least}' if least else 'leave out --wait-replicas'}; with "
        "--skip-check replicas a run begins, and records nothing before they are there",
    )


def _replicas_of(view: ServerView) -> int:
    """Return how many replicas a primary has by its own count, or by the cluster's where one syncs anew."""
    ids = {node.id for node in view.nodes if node.is_itself}
    known = sum(node.primary_id in ids and node.is_alive for node in view.nodes)
    return max(known, view.number("connected_slaves"))


def _existing_keys(survey: Survey) -> Row:
    held = {view.node: view.keys.get(survey.target_database, 0) for view in survey.primaries}
    if not any(held.values()):
        return ok("existing-keys", "the target is empty")
    parts = ", ".join(f"{count:,} at {node}" for node, count in held.items() if count)
    return warning(
        "existing-keys",
        f"the target holds keys already: {parts}",
        "equal ones count as unchanged; choose with --on-conflict what becomes of others",
    )


def _memory(survey: Survey, shares: Mapping[str, float] | None) -> Row:
    expected = expected_bytes(survey, shares)
    how = "by sample" if shares else "by slot share"
    full, tight = [], []
    for view in survey.primaries:
        need, limit = expected.get(view.node, 0), view.number("maxmemory")
        if not limit:
            continue
        held = view.data_bytes if any(view.keys.values()) else 0
        rest = limit - (view.number("used_memory") - held)
        text = (
            f"{view.node} expects {format_bytes(need)} and has room for {format_bytes(max(0, rest - held))}"
        )
        # What it holds may be the very data, from an earlier run: that is not for us to refuse.
        if need > rest * _DOUBT and not survey.filtered:
            full.append(text)
        elif need > rest - held:
            tight.append(text)
    if full:
        return error(
            "memory",
            "target",
            f"primaries would overflow ({how}): {'; '.join(full)}",
            "raise maxmemory there, move slots away, or add primaries",
        )
    if tight:
        unless = (
            "the filters leave enough out"
            if survey.filtered
            else "the keys they hold are the same, or take less there"
        )
        return warning(
            "memory",
            f"primaries may overflow ({how}), unless {unless}: {'; '.join(tight)}",
            "raise maxmemory there, move slots away, or add primaries",
        )
    return _host_memory(survey, expected, how)


def _host_memory(survey: Survey, expected: Mapping[str, int], how: str) -> Row:
    """Judge by the hosts' memory where there is no maxmemory; primaries of one host share it."""
    hosts: dict[str, list[ServerView]] = defaultdict(list)
    for view in survey.primaries:
        if not view.number("maxmemory"):
            hosts[view.node.rpartition(":")[0]].append(view)
    for host, views in hosts.items():
        total = views[0].number("total_system_memory")
        need = sum(expected.get(view.node, 0) + view.number("used_memory") for view in views)
        if total and need > total * 0.9:
            return warning(
                "memory",
                f"{host} has {format_bytes(total)} of memory for primaries that will need about "
                f"{format_bytes(need)} ({how}), and no maxmemory",
                "set maxmemory, move slots away, or add hosts",
            )
    parts = ", ".join(f"{node} {format_bytes(need)}" for node, need in expected.items())
    return ok("memory", f"there is room ({how}): {parts}")


def _eviction(survey: Survey) -> Row:
    evicting = {
        view.node: view.info.get("maxmemory_policy", "")
        for view in survey.primaries
        if view.number("maxmemory") and view.info.get("maxmemory_policy", "noeviction") != "noeviction"
    }
    if evicting:
        parts = ", ".join(f"{policy} at {node}" for node, policy in evicting.items())
        return warning(
            "eviction",
            f"the target evicts keys when memory is short: {parts}",
            "set maxmemory-policy noeviction until the migration is verified, unless it is a cache",
        )
    return ok("eviction", "the target evicts nothing")


def _persistence(survey: Survey) -> Row:
    busy, broken = [], []
    for view in (survey.source, *survey.primaries):
        if view.number("rdb_bgsave_in_progress") or view.number("aof_rewrite_in_progress"):
            busy.append(view.node)
        statuses = (view.info.get(name) for name in ("rdb_last_bgsave_status", "aof_last_write_status"))
        if view is not survey.source and "err" in statuses:
            broken.append(view.node)
    if broken:
        return warning(
            "persistence",
            f"the last save failed at {', '.join(broken)}: writes may be refused there (MISCONF)",
            "look into the server's log, fix the cause, and let it save (BGSAVE)",
        )
    if busy:
        return warning(
            "persistence",
            f"a save or AOF rewrite is under way at {', '.join(busy)}",
            "let it end first: memory and latency are worse while it goes on",
        )
    return ok("persistence", "no server is saving, and the last saves were good")
