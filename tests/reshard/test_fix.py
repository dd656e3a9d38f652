"""Disorder that our own and others' interrupted jobs leave: found, told, repaired without losing a key."""

from __future__ import annotations

import base64
import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry.model.address import Address
from slotferry.reshard.cluster.members import Cluster, Member
from slotferry.reshard.repair.health import Step, decide
from slotferry.testing.servers import LocalCluster
from tests.command import run
from tests.reshard.broken import half_moved, leave_ownerless, node_id, put_astray, setslot
from tests.reshard.client import fill_keys, keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean
from tests.servers.raw import connect


def member(name: str, slots: set[int], *, flags: str = "master", **fields: object) -> Member:
    address = Address(name, 1)
    return Member(
        id=name, address=address, peer=address, flags=frozenset(flags.split(",")), primary_id=None, epoch=1,
        slots=frozenset(slots), answered=True, **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def test_what_each_disorder_needs() -> None:
    first = member("a", {0, 1, 2, 3, 4}, migrating={0: "b", 1: "b", 4: "gone"})
    second = member("b", {6}, importing={0: "a", 2: "a", 3: "a"})
    owners = ("a", "a", "a", "a", "a", None, "b")
    cluster = Cluster({"a": first, "b": second}, owners)
    steps = decide(cluster, {0: {"a": 1, "b": 1}, 2: {"b": 3}, 5: {"b": 1}, 6: {"a": 2, "b": 1}})
    assert steps == [
        Step("move_on", 0, "a", "b"),
        Step("close", 1, "a"),
        Step("move_back", 2, "b", "a"),
        Step("close", 3, "b"),
        Step("close", 4, "a"),
        Step("assign", 5, target="b"),
        Step("move_back", 6, "a", "b"),
    ]


def test_everything_at_once(own: LocalCluster) -> None:
    first, second, third = own.primaries
    half, imported, migrating, strayed, ownerless = MOVING[:5]
    half_moved(first, second, half, 4)
    setslot(second, imported, "IMPORTING", node_id(first))
    setslot(first, migrating, "MIGRATING", node_id(third))
    (stray,) = keys_in([strayed], 1)
    with connect(first) as connection:
        connection.execute("DEL", stray)
    put_astray(third, first, strayed, stray)
    leave_ownerless(own, ownerless)

    status = run("reshard", "status", own.url)
    assert status.code == 3, status.stderr
    kinds = [line["kind"] for line in run("reshard", "status", own.url, "--json").lines if "kind" in line]
    assert sorted(kinds) == ["assign", "close", "close", "move_back", "move_on"]
    told = run("reshard", "fix", own.url)
    assert told.code == 3
    assert "nothing was changed" in told.stdout
    assert len(open_slots(own)) == 4

    done = run("reshard", "fix", own.url, "--apply")

    assert done.code == 0, done.stdout + done.stderr
    assert_clean(own)
    owned = slots_owned(own)
    assert owned[half] is second
    assert {owned[slot] for slot in (imported, migrating, strayed, ownerless)} == {first}
    with connect(first) as connection:
        assert connection.execute("GET", stray) == b"astray"
    healthy = run("reshard", "status", own.url)
    assert healthy.code == 0
    assert "nothing is wrong" in healthy.stdout


@pytest.mark.parametrize(("keep", "kept"), [("owner", b"mine"), ("other", b"theirs")])
def test_a_key_that_differs_is_kept_twice_until_a_person_decides(
    own: LocalCluster,
    keep: str,
    kept: bytes,
    tmp_path: Path,
) -> None:
    first, second, _ = own.primaries
    slot = MOVING[0]
    differs, same = keys_in([slot], 2)
    with connect(first) as connection:
        connection.execute("MSET", differs, "mine", same, "both")
    put_astray(second, first, slot, differs, value="theirs")
    put_astray(second, first, slot, same, value="both")
    file = tmp_path / "conflicts.jsonl"
    command = ("reshard", "fix", own.url, "--apply", "--conflicts", str(file))

    asked = run(*command)

    assert asked.code == 3
    assert "1 key differs" in asked.stdout
    (line,) = map(json.loads, file.read_text().splitlines())
    assert base64.b64decode(line["key_base64"]) == differs.encode()
    dumps = [base64.b64decode(version["dump_base64"]) for version in line["versions"]]
    assert [b"theirs" in dump for dump in dumps] == [True, False]
    assert file.stat().st_mode & 0o077 == 0
    with connect(first) as connection:
        assert connection.execute("GET", differs) == b"mine"

    decided = run(*command, "--keep", keep)

    assert decided.code == 0, decided.stdout + decided.stderr
    assert_clean(own)
    with connect(first) as connection:
        assert connection.execute("GET", differs) == kept
        assert connection.execute("GET", same) == b"both"


def test_a_move_onward_with_a_copy_on_both_ends(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    slot = MOVING[0]
    half_moved(first, second, slot, 3)
    key = keys_in([slot], 10)[9]
    with connect(first) as here, connect(second) as there:
        left = here.execute("CLUSTER", "GETKEYSINSLOT", slot, 1)[0]
        there.execute("ASKING")
        there.execute("RESTORE", left, 0, here.execute("DUMP", left))
    assert key

    done = run("reshard", "fix", own.url, "--apply")

    assert done.code == 0, done.stdout + done.stderr
    assert slots_owned(own)[slot] is second
    assert_clean(own)


def test_an_interrupted_job_is_shown(own: LocalCluster, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    run("reshard", "plan", own.url, "--drain", own.primaries[0].address, "-o", str(file))
    stopped = run("reshard", "apply", str(file), own.url, "--max-duration", "1ms", "--job", "nightly")
    assert stopped.code == 75, stopped.stderr
    shown = run("reshard", "status", own.url)
    assert "job nightly: work_left" in shown.stdout


def test_a_fresh_cluster_is_fine(stack: ExitStack, cluster: LocalCluster) -> None:
    fill_keys(cluster.primaries[0], keys_in([1, 2, 3], 3))
    assert run("reshard", "status", cluster.url).code == 0
    assert run("reshard", "fix", cluster.url, "--apply").code == 0


def test_a_copy_astray_goes_and_the_owner_s_is_left_alone(own: LocalCluster) -> None:
    owner, _, third = own.primaries
    slot = MOVING[0]
    keys = keys_in([slot], 3)
    with connect(owner) as connection:
        for key in keys:
            connection.execute("SET", key, "same")
        connection.execute("CONFIG", "RESETSTAT")
    put_astray(third, owner, slot, *keys, value="same")

    done = run("reshard", "fix", own.url, "--apply")

    assert done.code == 0, done.stdout + done.stderr
    assert_clean(own)
    with connect(owner) as connection:
        assert [connection.execute("GET", key) for key in keys] == [b"same"] * 3
        statistics = connection.execute("INFO", "commandstats")
    # What a client writes there after the two copies were compared must not be overwritten.
    restores = [line for line in statistics.split(b"\r\n") if line.startswith(b"cmdstat_restore")]
    calls, failed = (
        sum(int(line.split(name)[1].split(b",")[0]) for line in restores)
        for name in (b"calls=", b"failed_calls=")
    )
    assert calls == failed, restores
