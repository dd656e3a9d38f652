"""`slotferry rewrite test`: what rules would do, and the order of rules on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest

from slotferry._core import key_slot
from slotferry.cli.migrate import migrate
from slotferry.cli.options.selection import take_rules
from slotferry.model.rules import AddPrefix, Rewrite, Rule, StripPrefix
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke
from tests.integration.migrating import count_keys

RULE = r"^user:(\d+):(.*)$ => user:{$1}:$2"


def test_keys_of_a_file(invoke: Invoke, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_bytes(b"user:1:a\nuser:{1}:a\nother\n")
    result = invoke("rewrite", "test", "--keys-from", str(keys), "--rewrite", RULE)
    assert result.code == 3
    assert "3 keys, 1 of them get another name" in result.out
    assert f"{key_slot('user:1:a')}  user:1:a" in result.out
    assert "user:1:a, user:{1}:a become user:{1}:a" in result.out
    result = invoke("rewrite", "test", "--keys-from", str(keys), "--add-prefix", "x:")
    assert result.code == 0
    assert "no two keys get one name" in result.out


def test_keys_of_a_server(invoke: Invoke, source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as first, source.client(db=3) as third:
        first.mset({f"user:{i}:{part}": i for i in range(500) for part in ("a", "b")})
        third.set("user:{7}:a", 1)
    arguments = ["rewrite", "test", source.url, cluster.url, "--rewrite", RULE, "--json"]
    result = invoke(*arguments, "--samples", "3")
    assert result.code == 0, result.err
    *samples, summary = (json.loads(line) for line in result.out.splitlines())
    assert len(samples) == 3
    assert all(s["target_slot"] == key_slot(s["target"]) for s in samples)
    assert (summary["keys"], summary["renamed"], summary["collisions"]) == (1_000, 1_000, 0)
    assert summary["slots_after"] < summary["slots_before"]
    assert sum(node["keys_after"] for node in summary["primaries"]) == 1_000
    result = invoke(*arguments, "--all-dbs", "--map-db", "3=0", "--samples", "0")
    assert result.code == 3, result.err
    collision, _ = (json.loads(line) for line in result.out.splitlines())
    assert collision["target"] == "user:{7}:a"
    assert {"database": 3, "key": "user:{7}:a"} in collision["sources"]
    assert count_keys(cluster) == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rewrite", "( => x"], "does not compile"),
        (["--rewrite", "a => $1"], "names the group"),
        (["--rewrite", "a"], "has no ' => '"),
        (["--rules", "/nowhere.toml"], "can't be read"),
        (["--add-prefix", "x", "redis://h"], "--keys-from are both given"),
    ],
)
def test_wrong_rules(invoke: Invoke, arguments: list[str], says: str) -> None:
    result = invoke("rewrite", "test", "--keys-from", "/dev/null", *arguments)
    assert result.code == 2
    assert says in result.err


def _rules(*arguments: str) -> tuple[Rule, ...]:
    with migrate.make_context("migrate", ["redis://a", "redis://b", *arguments]) as context:
        rules: tuple[Rule, ...] = take_rules(dict(context.params))
        return rules


def test_rules_keep_their_order_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rules.toml"
    file.write_text("[[rule]]\nmatch = 'f'\nto = 'g'\n")
    assert _rules("--add-prefix", "1", "--rewrite", "a => b", "--strip-prefix=2", "--rules", str(file)) == (
        AddPrefix("1"),
        Rewrite("a", "b"),
        StripPrefix("2"),
        Rewrite("f", "g"),
    )
    assert _rules("--rewrite", "a => b", "--add-prefix", "1", "--rewrite", "c => d") == (
        Rewrite("a", "b"),
        AddPrefix("1"),
        Rewrite("c", "d"),
    )
    monkeypatch.setenv("SLOTFERRY_REWRITE", "x y => z\nu => v")
    assert _rules("--add-prefix", "1") == (Rewrite("x y", "z"), Rewrite("u", "v"), AddPrefix("1"))


def test_the_group_has_help(invoke: Invoke) -> None:
    assert "Examples:" in invoke("rewrite", "test", "--help").out
    assert isinstance(migrate, click.Command)
