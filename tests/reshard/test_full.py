"""A target that fills up in the middle of its slots."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from slotferry import plan_reshard
from slotferry.api.resharding import Plan
from slotferry.model.events import Notice
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.reshard.client import LoadClient, fill_keys, keys_in, open_slots, slots_owned
from tests.reshard.moving import MOVING, assert_clean
from tests.servers.raw import connect

_SLOTS, _PER_SLOT, _SIZE = 20, 300, 4_000  # of which a target with 6 MB takes some, and some in part
_KEYS = (len(MOVING) - _SLOTS) * 10 + _SLOTS * _PER_SLOT


def filling(own: LocalCluster) -> Plan:
    """Plan to move some slots to the second primary, and fill them."""
    counts = [5_461 - _SLOTS, 5_461 + _SLOTS, 5_462]
    weights = {node.address: count for node, count in zip(own.primaries, counts, strict=True)}
    plan = plan_reshard(own.url, weights=weights, threshold=0.0001)
    slots = [move.slot for move in plan.moves()]
    assert len(slots) == _SLOTS
    assert set(slots) <= set(MOVING)
    fill_keys(own.primaries[0], keys_in(slots, _PER_SLOT), size=_SIZE)
    limit(own.primaries[1], 6_000_000)
    return plan


def limit(node: LocalServer, spare: int | None) -> None:
    """Give a node so much room for more (None: as much as it wants)."""
    with connect(node) as connection:
        text = connection.execute("INFO", "memory").decode()
        used = next(int(line[12:]) for line in text.splitlines() if line.startswith("used_memory:"))
        connection.execute("CONFIG", "SET", "maxmemory-policy", "noeviction")
        connection.execute("CONFIG", "SET", "maxmemory", 0 if spare is None else used + spare)


def check_with_redis_cli(own: LocalCluster) -> None:
    own.wait_until_healthy()
    done = subprocess.run(
        ["redis-cli", "--cluster", "check", own.primaries[0].address],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "[OK] All 16384 slots covered" in done.stdout
    assert "[WARNING]" not in done.stdout, done.stdout


def test_slots_are_rolled_back_and_a_later_run_goes_on(own: LocalCluster, tmp_path: Path) -> None:
    plan = filling(own)
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    options = ("--method", "setslot", "--retry-for", "1s", "--json")

    with LoadClient(own.primaries[0].address, keys_in(MOVING[:50], 10), tmp_path) as client:
        full = run("reshard", "apply", str(file), own.url, *options)
        seen = client.result()

    assert full.code == 6, full.stderr
    assert f"has no memory left at {own.primaries[1].address}" in full.stderr
    assert full.summary["status"] == "failed"
    assert full.summary["left"] == []
    counts = full.summary["slots"]
    assert 0 < counts["moved"] < _SLOTS
    assert counts["moved"] + counts["remaining"] == _SLOTS
    assert full.summary["keys"] == counts["moved"] * _PER_SLOT
    assert seen["errors"] == []
    assert open_slots(own) == []
    assert run("reshard", "status", own.url).code == 0
    check_with_redis_cli(own)
    assert_clean(own, _KEYS)

    limit(own.primaries[1], None)
    done = run("reshard", "apply", str(file), own.url, *options)
    assert done.code == 0, done.stderr
    assert done.summary["slots"] == {"moved": _SLOTS, "left": 0, "remaining": 0}
    assert_clean(own, _KEYS)


@pytest.mark.parametrize("own", ["valkey-8.1"], indirect=True)
def test_the_run_goes_on_when_there_is_room(own: LocalCluster) -> None:
    plan = filling(own)
    told = []

    def watch(event: object) -> None:
        if isinstance(event, Notice) and "has no memory left" in str(event):
            told.append(event)
            limit(own.primaries[1], None)

    report = plan.apply(method="setslot", retry_for=60, on_event=watch)

    assert report.ok, report
    assert len(told) == 1
    assert report.keys == _SLOTS * _PER_SLOT
    assert_clean(own, _KEYS)


def test_a_slot_stays_open_where_neither_end_has_room(own: LocalCluster) -> None:
    plan = filling(own)
    limit(own.primaries[0], -10_000_000)  # still full when 6 MB have gone

    report = plan.apply(method="setslot", retry_for=1)

    assert report.exit_code == 6
    opened = {int(part[1:].split("-")[0]) for part in open_slots(own)}
    assert opened
    assert set(report.left) == opened
    for reason in report.left.values():
        assert reason.startswith("open: keys of it lie on both nodes")
        assert f"{own.primaries[0].address} has no memory left to take its keys back" in reason
        assert "run the same command again" in reason
    assert report.moved + report.remaining + len(report.left) == _SLOTS

    limit(own.primaries[0], None)
    repaired = run("reshard", "fix", own.url, "--apply")
    assert repaired.code == 0, repaired.stdout
    check_with_redis_cli(own)
    limit(own.primaries[1], None)
    assert plan.apply(method="setslot").ok
    assert_clean(own, _KEYS)
    owned = slots_owned(own)
    assert all(owned[move.slot] is own.primaries[1] for move in plan.moves())
