"""`slotferry check` as a user runs it: rows, JSON, exit codes; and that it only reads."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, free_port
from tests.command import Outcome, run
from tests.integration.migrating import count_keys
from tests.servers.kinds import ServerKind

_SECRET = "hunter2-very-secret"


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(100)})
    return source


def _rows(done: Outcome) -> dict[str, dict[str, Any]]:
    assert done.lines, done.stderr
    assert "Traceback" not in done.stderr
    *rows, summary = done.lines
    assert summary["type"] == "summary"
    assert summary["checks"] == rows
    return {row["name"]: row for row in rows}


def _forget_user(server: LocalServer, user: str) -> None:
    with server.client() as client:
        client.acl_deluser(user)


def test_a_fit_pair(filled: LocalServer, cluster: LocalCluster) -> None:
    with filled.client() as client:
        before = client.info("persistence")["rdb_changes_since_last_save"]

    done = run("check", filled.url, cluster.url, "--json")
    rows = _rows(done)

    assert done.code == 0, done.stdout
    assert {name for name, row in rows.items() if row["status"] == "error"} == set()
    assert rows["replicas"]["status"] == "warning"
    assert run("check", filled.url, cluster.url, "--strict").code == 3
    assert count_keys(cluster) == 0
    with filled.client() as client:
        assert client.info("persistence")["rdb_changes_since_last_save"] == before


def test_the_table_for_a_person(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("check", filled.url, cluster.url)

    assert "ok       slots" in done.stdout
    assert "nothing stands against a migration" in done.stdout.splitlines()[-1]


def test_sides_that_cannot_be_reached_are_rows(filled: LocalServer, cluster: LocalCluster) -> None:
    nowhere = f"127.0.0.1:{free_port()}"

    no_source = run("check", f"redis://{nowhere}", cluster.url, "--json")
    no_target = run("check", filled.url, f"redis+cluster://{nowhere}", "--json")

    assert (no_source.code, no_target.code) == (4, 4)
    assert nowhere in _rows(no_source)["source-reach"]["message"]
    assert _rows(no_source)["majority"]["status"] == _rows(no_source)["target-rights"]["status"] == "ok"
    assert _rows(no_source)["target-reach"]["status"] == "ok"
    assert nowhere in _rows(no_target)["target-reach"]["message"]
    assert _rows(no_target)["source-reach"]["status"] == "ok"


def test_a_target_that_is_no_cluster(kind: ServerKind, filled: LocalServer, stack: ExitStack) -> None:
    target = stack.enter_context(LocalServer(kind.binary))

    done = run("check", filled.url, target.url, "--json")

    assert done.code == 4
    assert "is not a cluster" in _rows(done)["servers"]["message"]


def test_a_primary_without_room_refuses_a_migration_unless_skipped(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    small = stack.enter_context(LocalCluster(kind.binary, config={"maxmemory": "6mb"}))
    with filled.client() as client:
        client.mset({f"big:{i}": b"x" * 100_000 for i in range(200)})

    done = run("check", filled.url, small.url, "--json")
    refused = run("migrate", filled.url, small.url)
    skipped = run("check", filled.url, small.url, "--json", "--skip-check", "memory")

    assert done.code == 4
    memory = _rows(done)["memory"]
    assert memory["status"] == "error"
    assert small.primaries[0].address in memory["message"]
    assert refused.code == 4
    assert "overflow" in refused.stderr
    assert count_keys(small) == 0
    assert skipped.code == 0
    assert _rows(skipped)["memory"]["skipped"] is True


def test_migrate_goes_on_past_a_named_check(kind: ServerKind, filled: LocalServer, stack: ExitStack) -> None:
    small = stack.enter_context(LocalCluster(kind.binary, primaries=1, config={"maxmemory": "1gb"}))
    with small.primaries[0].client() as client:
        client.execute_command("CLUSTER", "DELSLOTS", 0)
        client.config_set("cluster-require-full-coverage", "no")

    refused = run("migrate", filled.url, small.url)
    done = run("migrate", filled.url, small.url, "--skip-check", "slots", "--skip-check", "cluster-state")

    assert refused.code == 4
    assert done.code == 0, done.stderr
    assert "check slots is skipped" in done.stderr
    assert count_keys(small) == 100


def test_a_filter_may_leave_enough_out(kind: ServerKind, filled: LocalServer, stack: ExitStack) -> None:
    small = stack.enter_context(LocalCluster(kind.binary, primaries=1, config={"maxmemory": "6mb"}))
    with filled.client() as client:
        client.mset({f"big:{i}": b"x" * 100_000 for i in range(200)})

    done = run("migrate", filled.url, small.url, "--match", "key:*")

    assert done.code == 0, done.stderr
    told = next(line for line in done.stderr.splitlines() if "warning (memory): " in line)
    assert "primaries may overflow (by slot share), unless the filters leave enough out: " in told
    assert small.primaries[0].address in told
    assert told.endswith("; raise maxmemory there, move slots away, or add primaries")
    assert count_keys(small) == 100


def test_a_command_that_the_provider_took_away(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    source = stack.enter_context(LocalServer(kind.binary, config={"rename-command": 'DUMP ""'}))

    done = run("check", source.url, cluster.url, "--json")

    assert done.code == 4
    assert "DUMP" in _rows(done)["source-rights"]["message"]


def test_missing_rights_are_named_and_no_secret_is_told(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    guarded = stack.enter_context(LocalCluster(kind.binary, primaries=1, password=_SECRET))
    with guarded.primaries[0].client() as client:
        client.execute_command(
            "ACL", "SETUSER", "mover", "on", f">{_SECRET}", "~*", "+@all", "-restore", "-acl", "-config"
        )
    url = f"redis+cluster://mover@{guarded.primaries[0].address}"

    done = run("check", filled.url, url, "--json", env={"SLOTFERRY_TARGET_PASSWORD": _SECRET})

    assert done.code == 4
    assert "RESTORE" in _rows(done)["target-rights"]["message"]
    assert _SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--skip-check", "memroy"),
        ("--skip-check", "servers"),
        ("--sample", "150%"),
        ("--sample", "many"),
        ("--scan-rate", "0"),
        ("--no-such-option",),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(
    filled: LocalServer, cluster: LocalCluster, arguments: tuple[str, ...]
) -> None:
    done = run("check", filled.url, cluster.url, *arguments)

    assert done.code == 2
    assert "Traceback" not in done.stderr


def test_the_data_its_patterns_and_a_tag_that_is_too_big(filled: LocalServer, cluster: LocalCluster) -> None:
    with filled.client() as client:
        for i in range(300):
            client.hset(f"{{shop}}:order:{i}", mapping={"total": i, "note": "n" * 200})
            client.set(f"session:{i}", "s", ex=5000)

    done = run("check", filled.url, cluster.url, "--json")
    rows, data = _rows(done), done.summary["data"]
    patterns = {part["name"]: part for part in data["by_pattern"]}

    assert data["keys"] == data["sampled"] == 700
    assert patterns["{shop}:order:*"]["keys"] == patterns["session:*"]["keys"] == 300
    assert patterns["session:*"]["ttl_share"] == 1.0
    assert rows["hash-tags"]["status"] == rows["hot-slots"]["status"] == "warning"
    assert "{shop}" in rows["hash-tags"]["message"]
    owner = next(part for part in data["hot_tags"] if part["name"] == "shop")["node"]
    assert owner in rows["balance"]["message"]
    assert sum(part["keys"] for part in data["primaries"]) == 700


def test_a_sample_and_all_of_it(filled: LocalServer, cluster: LocalCluster) -> None:
    with filled.client() as client:
        client.mset({f"many:{i}": i for i in range(5_000)})

    some = run("check", filled.url, cluster.url, "--json", "--sample", "10%").summary["data"]
    everything = run("check", filled.url, cluster.url, "--json", "--full", "--scan-rate", "100000")
    none = run("check", filled.url, cluster.url, "--json", "--sample", "0")

    assert 300 <= some["sampled"] <= 1500
    assert abs(sum(part["keys"] for part in some["by_pattern"]) - 5_100) <= 10
    assert everything.summary["data"]["sampled"] == 5_100
    assert none.summary["data"] is None
    assert "sample" not in _rows(none)


def test_what_the_source_user_may_not_ask_is_said_and_the_rest_goes_on(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack
) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(50)})
        client.execute_command(
            "ACL", "SETUSER", "reader", "on", f">{_SECRET}", "~key:*",
            "+scan", "+dump", "+pttl", "+pexpiretime", "+time", "+info", "+dbsize", "+ping", "+select",
            "+type",
        )  # fmt: skip
        stack.callback(_forget_user, source, "reader")
        client.set("secret:1", "x")
    url = source.url.replace("://", "://reader@")

    done = run("check", url, cluster.url, "--json", env={"SLOTFERRY_SOURCE_PASSWORD": _SECRET})
    rows = _rows(done)

    assert done.code == 0, done.stdout
    assert rows["sample"]["status"] == "warning"
    assert "1 more may not be read" in rows["sample"]["message"]
    assert rows["biggest-keys"]["message"].startswith("not checked: MEMORY USAGE")
    assert rows["memory"]["status"] == "ok"


def test_keys_that_the_target_user_may_not_write(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    guarded = stack.enter_context(LocalCluster(kind.binary, primaries=1, password=_SECRET))
    with guarded.primaries[0].client() as client:
        client.execute_command("ACL", "SETUSER", "mover", "on", f">{_SECRET}", "~app:*", "+@all")
    url = f"redis+cluster://mover@{guarded.primaries[0].address}"

    done = run("check", filled.url, url, "--json", env={"SLOTFERRY_TARGET_PASSWORD": _SECRET})

    assert done.code == 4
    assert _rows(done)["target-rights"]["status"] == "ok"
    assert "keys such as key:" in _rows(done)["key-rights"]["message"]
    assert count_keys(guarded) == 0
