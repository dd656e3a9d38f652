"""Plans that are carried out on real clusters, beside a client that reads and writes."""

from __future__ import annotations

import gc
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from slotferry import plan_reshard
from slotferry.api.resharding import connect
from slotferry.errors import JobLockedError, RefusedError, TargetLostError, TargetNotReadyError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.net.link import encode
from slotferry.reshard.apply import apply_plan
from slotferry.reshard.cluster.lock import cluster_lock
from slotferry.reshard.cluster.members import Cluster, Member, read_cluster
from slotferry.reshard.cluster.methods import Pair
from slotferry.reshard.cluster.wire import Wire
from slotferry.reshard.limits import Limits, Scheduler
from slotferry.reshard.move import copying
from slotferry.reshard.move.claim import Claim
from slotferry.reshard.move.conflicts import ConflictFile
from slotferry.reshard.move.copying import SlotCopier
from slotferry.reshard.move.setslot import SetslotMigrate
from slotferry.reshard.options import Options
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.reshard.client import LoadClient, fill_keys, keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean, plan_away
from tests.servers.kinds import available
from tests.servers.raw import connect as raw


@pytest.mark.parametrize(
    "own", ["redis-6.2", "redis-7.0", "redis-8.6", "valkey-8.1", "valkey-9.1"], indirect=True
)
@pytest.mark.parametrize("method", ["setslot", "auto"])
def test_slots_move_under_a_client_that_notices_nothing(
    own: LocalCluster, method: str, tmp_path: Path
) -> None:
    plan = plan_away(own)
    with LoadClient(own.primaries[0].address, keys_in(MOVING, 10), tmp_path) as client:
        report = plan.apply(method=method)
        seen = client.result()

    assert report.status == "completed", report
    assert (report.moved, report.remaining, report.keys) == (400, 0, 4_000)
    assert report.bytes > 0
    assert seen["errors"] == []
    assert seen["operations"] > 0
    assert_clean(own)
    owned = slots_owned(own)
    assert not {slot for slot in MOVING if owned[slot] is own.primaries[0]}
    assert plan.apply(method=method).remaining == 0  # the same again finds it done


def test_a_drained_node_ends_without_slots(own: LocalCluster, tmp_path: Path) -> None:
    first = own.primaries[0]
    file = tmp_path / "plan.json"
    run("reshard", "plan", own.url, "--drain", first.address, "-o", str(file))

    done = run("reshard", "apply", str(file), own.url, "--json")

    assert done.code == 0, done.stderr
    assert done.summary["status"] == "completed"
    assert done.summary["slots"] == {"moved": 5_461, "left": 0, "remaining": 0}
    assert first not in slots_owned(own).values()
    assert done.lines[0]["type"] == "run_started"
    shown = run("reshard", "apply", str(file), own.url)
    assert shown.code == 0
    assert "completed" in shown.stdout


def test_keys_of_every_kind_and_with_a_ttl_arrive(own: LocalCluster) -> None:
    first = own.primaries[0]
    (slot,) = MOVING[:1]
    (name,) = keys_in([slot], 1)
    with raw(first) as connection:
        connection.execute("DEL", name)
        connection.execute("HSET", name + "h", *[part for i in range(1000) for part in (f"f{i}", "x" * 500)])
        connection.execute("SET", name + "t", "v", "PX", 3_600_000)
        connection.execute("SET", name + "\r\n$5\r\n", "odd")
        connection.execute("SET", name + "big", "y" * 3_000_000)

    assert plan_away(own).apply(method="setslot").ok

    owner = slots_owned(own)[slot]
    with raw(owner) as connection:
        assert connection.execute("HLEN", name + "h") == 1000
        assert 3_500_000 < connection.execute("PTTL", name + "t") <= 3_600_000
        assert connection.execute("GET", name + "\r\n$5\r\n") == b"odd"
        assert len(connection.execute("GET", name + "big")) == 3_000_000
    assert_clean(own, len(MOVING) * 10 + 3)


def test_a_part_is_closed_while_the_next_one_is_copied(
    own: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_CALL_KEYS", 500)
    begin, end, close = SlotCopier.begin, SlotCopier.end, SetslotMigrate._close_handed
    under_way: list[SlotCopier] = []
    beside = []

    def begun(self: SlotCopier, *arguments: Any) -> Any:
        under_way.append(self)
        return begin(self, *arguments)

    def ended(self: SlotCopier, *arguments: Any) -> Any:
        under_way.remove(self)
        return end(self, *arguments)

    def closed(self: SetslotMigrate, *arguments: Any) -> None:
        beside.append(bool(self._to_close) and self._copier in under_way)
        close(self, *arguments)

    monkeypatch.setattr(SlotCopier, "begin", begun)
    monkeypatch.setattr(SlotCopier, "end", ended)
    monkeypatch.setattr(SetslotMigrate, "_close_handed", closed)

    assert plan_away(own).apply(method="setslot").ok
    assert any(beside)
    assert_clean(own)


def test_what_was_handed_over_is_closed_where_the_next_part_fails(
    own: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_CALL_KEYS", 500)
    begin = SlotCopier.begin
    parts = []

    def fail_later(self: SlotCopier, slots: Any, source: Wire, target: Wire) -> Any:
        parts.append(slots)
        if len(parts) == 1:
            return begin(self, slots, source, target)
        for wire in (source, target):
            wire.send(3 * encode("PING"))  # replies that come too late are no answers to what is asked next
        raise TargetLostError("the cluster was lost", hint="")

    monkeypatch.setattr(SlotCopier, "begin", fail_later)

    plan = plan_away(own)
    report = plan.apply(method="setslot", retry_for=0.0)

    assert isinstance(report.error, TargetLostError)
    owned = slots_owned(own)
    assert not [slot for slot in parts[0] if owned[slot] is own.primaries[0]]
    assert open_slots(own) == []
    monkeypatch.undo()
    assert plan.apply(method="setslot").ok
    assert_clean(own)


def test_a_part_that_can_not_be_closed_beside_the_next_one_is_closed_after_it(
    own: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_CALL_KEYS", 500)
    close = SetslotMigrate._close_handed
    failed: list[bool] = []

    def fail_once(self: SetslotMigrate, *arguments: Any) -> None:
        if self._to_close and not failed:
            failed.append(True)
            for wire in (self._source, self._target):
                wire.send(3 * encode("PING"))
            raise TargetLostError("the cluster was lost", hint="")
        close(self, *arguments)

    monkeypatch.setattr(SetslotMigrate, "_close_handed", fail_once)

    report = plan_away(own).apply(method="setslot")

    assert (report.status, report.keys) == ("completed", 4_000)
    assert failed
    assert_clean(own)


def test_a_part_that_only_the_target_has_been_told_of_leaves_no_other_open(
    own: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_CALL_KEYS", 500)
    claim = Claim._end_imports
    claims: list[Any] = []

    def fail_once(self: Claim, target: Any, slots: Any) -> None:
        claims.append(slots)
        claim(self, target, slots)
        if len(claims) == 1:
            raise TargetLostError("the cluster was lost", hint="")

    monkeypatch.setattr(Claim, "_end_imports", fail_once)

    report = plan_away(own).apply(method="setslot", retry_for=0.0)

    assert isinstance(report.error, TargetLostError)
    assert len(claims) == 2, "the part that was copied meanwhile"
    assert open_slots(own) == []
    assert_clean(own)


def test_what_hangs_up_reaches_the_copying_too(own: LocalCluster, tmp_path: Path) -> None:
    first, second, _ = own.primaries
    connector = connect(own.url)
    cluster = read_cluster(connector)
    source, target = (cluster.members[node.id] for node in _primaries(cluster, first, second))
    pair, scheduler = Pair(source, target, (), frozenset(), frozenset()), Scheduler(Limits(), CancelRequest())
    copier = SlotCopier(
        connector, pair, scheduler, ConflictFile(tmp_path / "conflicts"), lambda _: None, "job", "process"
    )
    with Wire(connector, source.address) as here, Wire(connector, target.address) as there:
        under_way = copier.begin([], here, there)  # opens nothing yet
        assert copier.end(under_way, lambda _keys, _size: None).slots == []
        gc.collect()
        connector.hang_up()
    handover = copier._handover
    assert handover is not None
    ((_, fate, _, _, why),) = handover.hand_over(MOVING[:1])
    assert (fate, "given up" in why) == ("source_lost", True)
    copier.close()


def _primaries(cluster: Cluster, *nodes: LocalServer) -> list[Member]:
    return [next(m for m in cluster.members.values() if str(m.address) == node.address) for node in nodes]


def test_a_slot_with_too_large_a_key_stays_and_is_said(own: LocalCluster) -> None:
    (name,) = keys_in(MOVING[:1], 1)
    with raw(own.primaries[0]) as connection:
        connection.execute("SET", name, "y" * 3_000_000)

    report = plan_away(own).apply(method="setslot", limits=Limits(max_key_bytes=1_000_000))

    assert (report.status, report.exit_code) == ("slots_left", 3)
    assert list(report.left) == MOVING[:1]
    assert "--max-key-size" in report.left[MOVING[0]]
    assert_clean(own)
    assert plan_away_again(own) == 1


def plan_away_again(cluster: LocalCluster) -> int:
    owned = slots_owned(cluster)
    return sum(owned[slot] is cluster.primaries[0] for slot in MOVING)


def test_a_cluster_that_has_changed_is_refused_or_planned_anew(own: LocalCluster) -> None:
    plan = plan_away(own)
    second, third = own.primaries[1:]
    with raw(third) as connection:
        target = connection.execute("CLUSTER", "MYID")
    for node in (third, second, own.primaries[0]):  # an empty slot of the second's
        with raw(node) as connection:
            connection.execute("CLUSTER", "SETSLOT", 6_000, "NODE", target)
    own.wait_until_healthy()

    with pytest.raises(RefusedError, match="slots 6000 are served by " + third.address):
        plan.apply()

    assert plan.apply(replan=True).ok
    assert_clean(own)


def test_a_plan_of_another_cluster(own: LocalCluster, cluster: LocalCluster) -> None:
    plan = plan_away(own)
    with pytest.raises(RefusedError, match="another cluster"):
        plan.apply(cluster.url)


def test_one_reshard_of_a_cluster_at_a_time(own: LocalCluster) -> None:
    connector = connect(own.url)
    plan = plan_away(own)
    with (
        cluster_lock(Options().journal_path, read_cluster(connector)),
        pytest.raises(JobLockedError, match="slots of this cluster are being moved by process"),
    ):
        apply_plan(connector, plan)


def test_without_the_right_to_setslot_nothing_moves(own: LocalCluster) -> None:
    for node in own.primaries:
        with raw(node) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~*", "+@all", "-cluster|setslot")
    plan = plan_away(own)
    url = own.url.replace("://", "://mover:secret@")
    with pytest.raises(TargetNotReadyError, match="lacks an ACL permission"):
        plan.apply(url)
    assert_clean(own)


def test_credentials_reach_migrate(stack: ExitStack) -> None:
    cluster = stack.enter_context(LocalCluster(available()["redis-7.0"].binary, password="secret"))
    url = cluster.url.replace("://", "://:secret@")
    first = cluster.primaries[0]
    fill_keys(first, keys_in(MOVING[:20], 5))
    plan = plan_reshard(url, drain=[first.address])
    assert "secret" not in plan.to_json()
    assert plan.apply(method="setslot").ok
    assert first not in slots_owned(cluster).values()


def test_pause_file_rate_and_duration(own: LocalCluster, tmp_path: Path) -> None:
    pause = tmp_path / "pause"
    pause.touch()
    plan = plan_away(own)
    reasons = []

    def watch(event: object) -> None:
        reason = getattr(event, "reason", "")
        if reason:
            reasons.append(reason)
            pause.unlink(missing_ok=True)

    limits = Limits(pause_file=pause, max_bytes_per_second=40_000, max_duration=2)
    assert plan.apply(method="setslot", limits=limits, on_event=watch).status in ("work_left", "completed")
    assert f"by the file {pause}" in reasons
    assert "limited by max-bytes-per-second" in reasons

    again = plan_reshard(own.url, drain=[own.primaries[1].address])
    stopped = again.apply(method="setslot", limits=Limits(max_duration=0.001))
    assert (stopped.status, stopped.exit_code) == ("work_left", 75)
    assert "--max-duration" in stopped.reason
    assert again.apply(method="setslot").ok
    assert_clean(own)


def test_edited_plans_and_wrong_files(own: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    content = json.loads(plan_away(own).to_json())
    content["transfers"][0]["slots"] = "0-10"
    file.write_text(json.dumps(content))
    refused = run("reshard", "apply", str(file), own.url)
    assert refused.code == 4
    assert "was changed after it was made" in refused.stderr
    missing = run("reshard", "apply", str(tmp_path / "none.json"), own.url)
    assert missing.code == 2
    assert "can't be read" in missing.stderr
    assert_clean(own)


def test_a_bar_and_lines_when_asked_for(own: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan_away(own).to_json())
    slow = ("--method", "setslot", "--max-bytes-per-second", "40kB", "--max-duration", "1s")
    bar = run("reshard", "apply", str(file), own.url, "--progress", "bar", *slow)
    assert bar.code == 75, bar.stderr
    assert "\r" in bar.stderr
    assert "/400 slots" in bar.stderr
    assert "limited by max-bytes-per-second" in bar.stderr
    done = run("reshard", "apply", str(file), own.url)
    assert "\r" not in done.stderr
    assert "completed" in done.stdout


def test_a_slow_node_pauses_the_moves(own: LocalCluster) -> None:
    plan = plan_away(own)
    reasons = []

    def watch(event: object) -> None:
        if event_reason := getattr(event, "reason", ""):
            reasons.append(event_reason)
        if getattr(event, "slots_done", 0) and not any("answers in" in reason for reason in reasons):
            with raw(own.primaries[2]) as connection:
                connection.execute("CLIENT", "PAUSE", 500, "ALL")

    limits = Limits(pause_above_latency=0.05, max_bytes_per_second=300_000)
    assert plan.apply(method="setslot", limits=limits, on_event=watch).ok
    assert any(f"{own.primaries[2].address} answers in" in reason for reason in reasons)
    assert_clean(own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--window", "1-2"), "the window '1-2' makes no sense"),
        (("--window", "01:00-02:00", "--tz", "Europe/Atlantis"), "no time zone 'Europe/Atlantis'"),
        (("--max-duration", "soon"), "not a duration"),
        (("--pause-above-latency", "0"), "too short"),
        (("--method", "magic"), "'magic' is not one of"),
    ],
)
def test_options_that_make_no_sense(options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    refused = run("reshard", "apply", str(tmp_path / "plan.json"), "redis://127.0.0.1:1", *options)
    assert refused.code == 2
    assert message in refused.stderr


def test_the_permissions_that_the_docs_name_are_enough(own: LocalCluster) -> None:
    page = Path(__file__).parents[2] / "docs/permissions.md"
    line = next(line for line in page.read_text().splitlines() if line.startswith("Resharding takes `"))
    rights = line.split("`")[1].split()
    assert "+migrate" in rights
    for node in own.primaries:
        with raw(node) as connection:
            connection.execute("ACL", "SETUSER", "mover", "on", ">secret", "~*", *rights)
    url = own.url.replace("://", "://mover:secret@")
    plan = plan_reshard(url, by="bytes", drain=[own.primaries[0].address])
    report = plan.apply(method="setslot")
    assert report.ok, report
    assert_clean(own)


def test_keys_that_expire_on_the_way(own: LocalCluster) -> None:
    names = keys_in(MOVING, 10)
    with raw(own.primaries[0]) as connection:
        connection.execute("CONFIG", "SET", "hz", 1)
        for i, name in enumerate(names[::2]):
            connection.execute("PEXPIRE", name, 1 + i % 600)
    assert plan_away(own).apply(method="setslot").ok
    own.wait_until_healthy()
    assert plan_away_again(own) == 0
