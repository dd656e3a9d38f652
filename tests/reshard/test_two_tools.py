"""Two tools that move slots of one cluster at once: no key is lost, no slot left without an owner."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, wait_until
from tests.command import Running, run
from tests.reshard.broken import half_moved, node_id, setslot
from tests.reshard.client import keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean, plan_away
from tests.servers.raw import connect

_SLOW = ("--max-bytes-per-second", "20kB", "--json", "--method", "setslot")


def apply_command(cluster: LocalCluster, folder: Path, *options: str) -> tuple[str, ...]:
    file = folder / "plan.json"
    file.write_text(plan_away(cluster).to_json())
    return ("reshard", "apply", str(file), cluster.url, *options)


def state(folder: Path, name: str) -> dict[str, str]:
    """Return the environment of somebody with a state folder of his own, as on another machine."""
    return {"XDG_STATE_HOME": str(folder / name)}


@pytest.mark.parametrize("own", ["redis-7.0", "redis-6.2", "valkey-8.1"], indirect=True)
def test_a_second_slotferry_with_another_state_folder_is_refused(own: LocalCluster, tmp_path: Path) -> None:
    command = apply_command(own, tmp_path, *_SLOW)
    with Running(*command, env=state(tmp_path, "a")) as first:
        wait_until(lambda: first.ended or bool(open_slots(own)), "a slot to be open")
        second = run(*command, env=state(tmp_path, "b"))
        fix = run("reshard", "fix", own.url, "--apply", env=state(tmp_path, "c"))
        assert not first.ended
        for refused in (second, fix):
            assert refused.code == 4, refused.stderr
            assert f"are being moved by process {first.pid} on " in refused.stderr
        first.kill()
    # Nothing is left of who was killed: the same command goes on, elsewhere too.
    done = run(*command[:4], *_SLOW[2:], env=state(tmp_path, "b"))
    assert done.code == 0, done.stderr
    assert_clean(own)


def test_a_lock_outlives_the_loss_of_its_connections(own: LocalCluster, tmp_path: Path) -> None:
    command = apply_command(own, tmp_path, *_SLOW)
    with Running(*command, env=state(tmp_path, "a")) as first:
        wait_until(lambda: first.ended or bool(open_slots(own)), "a slot to be open")
        before = holders(own)
        assert len(before) == 3
        for node, number in before.items():
            with connect(own.primaries[node]) as connection:
                connection.execute("CLIENT", "KILL", "ID", number)
        wait_until(
            lambda: first.ended or (len(after := holders(own)) == 3 and after != before),
            "the lock to be back",
        )
        assert not first.ended
        assert run(*command, env=state(tmp_path, "b")).code == 4


def holders(cluster: LocalCluster) -> dict[int, str]:
    """Return by primary the connection that holds its lock."""
    found = {}
    for place, node in enumerate(cluster.primaries):
        with connect(node) as connection:
            for line in connection.execute("CLIENT", "LIST").decode().splitlines():
                fields = dict(part.partition("=")[::2] for part in line.split())
                if fields["name"].startswith("slotferry-reshard:"):
                    found[place] = fields["id"]
    return found


@contextmanager
def redis_cli(
    cluster: LocalCluster, source: int, target: int, slots: int, output: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the reshard of redis-cli; what it prints goes to a file, since a pipe would fill and hold it up."""
    tool = shutil.which("redis-cli")
    if tool is None:
        pytest.skip("this machine has no redis-cli")
    ids = [node_id(cluster.primaries[place]) for place in (source, target)]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [
                *(tool, "--cluster", "reshard", cluster.primaries[0].address, "--cluster-yes"),
                *("--cluster-from", ids[0], "--cluster-to", ids[1], "--cluster-slots", str(slots)),
            ],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("source", "target"), [(2, 0), (1, 0), (0, 2)])
def test_another_tool_is_seen_and_waited_for(
    own: LocalCluster, source: int, target: int, tmp_path: Path
) -> None:
    command = apply_command(own, tmp_path, "--json", "--method", "setslot", "--replan")
    with redis_cli(own, source, target, 2_500, tmp_path / "output") as other:
        wait_until(lambda: bool(open_slots(own)), "the other tool to have begun")
        with Running(*command) as running:
            assert other.wait(120) == 0, (tmp_path / "output").read_text()[-500:]
            done = running.finish()
    notices = [line["message"] for line in done.lines if line["type"] == "notice"]
    assert any("another tool" in notice for notice in notices), done.stdout
    assert done.code == 0, done.stderr
    assert_clean(own)


def test_what_a_tool_has_left_open_long_ago_is_not_waited_for(own: LocalCluster, tmp_path: Path) -> None:
    first, second, _ = own.primaries
    half_moved(first, second, 100, 0)
    command = apply_command(own, tmp_path, "--json", "--method", "setslot")

    done = run(*command)

    assert done.code == 0, done.stderr
    assert len(open_slots(own)) == 2, "nobody has asked for these to be closed"
    assert run("reshard", "fix", own.url, "--apply").code == 0
    assert_clean(own)


def test_a_slot_that_another_tool_takes_over_loses_no_key(own: LocalCluster, tmp_path: Path) -> None:
    """Between the give-up at the source and the claim: the keys are on one target, and another one claims."""
    first, second, third = own.primaries
    command = apply_command(own, tmp_path, *_SLOW)
    with Running(*command) as running:
        wait_until(lambda: running.ended or bool(open_slots(own)), "slots to be open")
        os.kill(running.pid, signal.SIGSTOP)
        opened = {int(part[1:].split("-")[0]) for part in open_slots(own) if "->-" in part}
        owned = slots_owned(own)
        taken = [one for one in sorted(opened) if owned[one] is first][:3]
        imports = {node_id(node): node for node in (second, third)}
        for one in taken:
            here = next(part for part in open_slots(own) if part.startswith(f"[{one}->-"))
            other = next(node for name, node in imports.items() if name not in here)
            setslot(other, one, "IMPORTING", node_id(first))
            setslot(first, one, "MIGRATING", node_id(other))
            with connect(first) as connection:
                for key in connection.execute("CLUSTER", "GETKEYSINSLOT", one, 100):
                    connection.execute("MIGRATE", other.host, other.port, key, 0, 5_000)
            setslot(other, one, "NODE", node_id(other))
        os.kill(running.pid, signal.SIGCONT)
        done = running.finish()
    assert done.code in (0, 3), done.stderr
    fixed = run("reshard", "fix", own.url, "--apply")
    assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert_clean(own)


@pytest.mark.parametrize("own", ["redis-7.0", "redis-6.2", "redis-8.0", "valkey-8.1"], indirect=True)
def test_fix_gives_an_owner_to_slots_of_which_each_node_believes_another(own: LocalCluster) -> None:
    first, second, _ = own.primaries
    with_keys, without = MOVING[0], MOVING[-1] + 1  # the second's first slot, empty
    half_moved(first, second, with_keys, 10)
    setslot(second, with_keys, "STABLE")
    setslot(first, with_keys, "NODE", node_id(second))  # it has heard of a claim that was never made
    setslot(second, without, "NODE", node_id(first))
    assert not slots_owned(own).keys() & {with_keys, without}

    fixed = run("reshard", "fix", own.url, "--apply")

    assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert_clean(own)
    assert slots_owned(own)[with_keys] is second
    for node in own.primaries:
        with connect(node) as connection:
            owners = connection.execute("CLUSTER", "SLOTS")
        (owner,) = (row[2][2].decode() for row in owners if row[0] <= with_keys <= row[1])
        assert owner == node_id(second)


def test_the_same_command_claims_what_a_killed_run_has_let_the_source_give_up(
    own: LocalCluster, tmp_path: Path
) -> None:
    first, second, third = own.primaries
    command = apply_command(own, tmp_path, "--json", "--method", "setslot")
    plan = plan_away(own)
    slot = plan.moves()[0].slot
    to = {node_id(node): node for node in (second, third)}[plan.moves()[0].target]
    half_moved(first, to, slot, 10)
    setslot(first, slot, "NODE", node_id(to))

    done = run(*command)

    assert done.code == 0, done.stderr
    assert_clean(own)


def test_a_node_that_another_tool_fills_is_not_drained_to_a_replica(
    own: LocalCluster, tmp_path: Path
) -> None:
    first, second, _ = own.primaries
    slot = MOVING[-1] + 1  # the second's first one
    (key,) = keys_in([slot], 1)
    setslot(first, slot, "IMPORTING", node_id(second))
    setslot(second, slot, "MIGRATING", node_id(first))
    with connect(first) as connection:
        connection.execute("ASKING")
        connection.execute("SET", key, "value")
    plan = tmp_path / "plan.json"
    assert run("reshard", "plan", own.url, "--drain", first.address, "-o", str(plan)).code == 0

    drained = run("reshard", "apply", str(plan), own.url, "--json", "--method", "setslot")

    assert drained.code == 3, drained.stdout + drained.stderr
    fixed = run("reshard", "fix", own.url, "--apply")
    assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert_clean(own, len(MOVING) * 10 + 1)


@pytest.mark.parametrize("own", ["valkey-9.1"], indirect=True)
def test_slots_that_a_killed_tool_has_left_open_are_no_node_that_is_away(
    own: LocalCluster, tmp_path: Path
) -> None:
    """Valkey moves none by itself while a slot is open on one of the two nodes; a target says so late."""
    _, second, third = own.primaries
    slot = MOVING[-1] + 100  # the second one's, on its way to the third
    setslot(third, slot, "IMPORTING", node_id(second))
    setslot(second, slot, "MIGRATING", node_id(third))
    command = apply_command(own, tmp_path, "--json", "--retry-for", "1h")

    done = run(*command)

    assert done.code == 3, done.stderr
    left = done.lines[-1]["left"]
    assert left
    assert all("manually" in each["reason"] and "reshard fix" in each["reason"] for each in left)
    for node in (second, third):
        setslot(node, slot, "STABLE")
    again = run(*command)
    assert again.code == 0, again.stderr
    assert_clean(own)
