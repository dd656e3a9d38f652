"""`check` of the keys that a migration would take: filters, rules and databases, from one place for both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import slotferry
from slotferry import CheckOptions, key_slot
from slotferry.cli.check import check as command
from slotferry.cli.migrate import migrate
from slotferry.errors import UsageError
from slotferry.model.rules import AddPrefix
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.servers.raw import connect, encode

_CHOOSING = (
    "match match_regex exclude exclude_regex slots type_ exclude_type min_size max_size without_ttl min_ttl "
    "rules rewrite add_prefix strip_prefix db all_dbs map_db"
)


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with connect(source) as connection:
        connection.pipeline_checked([encode("SET", f"user:{i}", "x" * 10) for i in range(200)])
        connection.pipeline_checked([encode("SET", f"short:{i}", i, "EX", 60) for i in range(30)])
        connection.pipeline_checked([encode("HSET", f"cart:{i}", "f", i) for i in range(50)])
        connection.execute("SELECT", 3)
        connection.pipeline_checked([encode("SET", f"third:{i}", i) for i in range(40)])
    return source


def _keys(source: LocalServer, cluster: LocalCluster, **choice: object) -> dict[str, int]:
    report = slotferry.check(source.url, cluster.url, CheckOptions(full=True, **choice))  # type: ignore[arg-type]
    assert report.keyspace is not None, [str(row) for row in report.rows]
    found = {share.name: share.keys for share in report.keyspace.by_pattern}
    assert report.keyspace.keys == sum(found.values())
    return found


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"match": "user:*"}, {"user:*": 200}),
        ({"exclude": ["user:*"]}, {"cart:*": 50, "short:*": 30}),
        ({"match_regex": ["^(cart|short):"], "exclude_regex": ["^s"]}, {"cart:*": 50}),
        ({"type": "hash"}, {"cart:*": 50}),
        ({"exclude_type": ["hash"], "without_ttl": True}, {"user:*": 200}),
        ({"min_ttl": 3600.0}, {"user:*": 200, "cart:*": 50}),
        ({"max_size": 1}, {}),
        ({"db": [3], "map_db": ["3=prefix:three:"]}, {"third:*": 40}),
        (
            {"db": "all", "map_db": ["3=0"], "type": "string"},
            {"user:*": 200, "third:*": 40, "short:*": 30},
        ),
    ],
    ids=str,
)
def test_only_chosen_keys_count(
    filled: LocalServer, cluster: LocalCluster, choice: dict[str, object], found: dict[str, int]
) -> None:
    assert _keys(filled, cluster, **choice) == found


def test_keys_are_placed_under_their_new_names(filled: LocalServer, cluster: LocalCluster) -> None:
    rules = (AddPrefix("{one}"),)
    report = slotferry.check(filled.url, cluster.url, CheckOptions(full=True, match="user:*", rules=rules))

    assert report.keyspace is not None
    (hottest, *others) = report.keyspace.hot_slots
    assert (hottest.slot, hottest.keys, others) == (key_slot(b"{one}"), 200, [])


def test_a_sample_estimates_how_many_are_chosen(filled: LocalServer, cluster: LocalCluster) -> None:
    with connect(filled) as connection:
        connection.pipeline_checked([encode("SET", f"more:{i}", i) for i in range(20_000)])
    options = CheckOptions(sample=4_000, scan_rate=1e9, match="more:*")
    report = slotferry.check(filled.url, cluster.url, options)

    assert report.keyspace is not None
    assert report.keyspace.keys == pytest.approx(20_000, rel=0.1)


def test_what_chooses_nothing_is_told(filled: LocalServer, cluster: LocalCluster) -> None:
    report = slotferry.check(filled.url, cluster.url, CheckOptions(full=True, match="nosuch:*"))

    row = report.row("keys")
    assert row is not None
    assert "none of the 280 keys" in row.message


def test_a_choice_that_makes_no_sense_is_refused(filled: LocalServer, cluster: LocalCluster) -> None:
    with pytest.raises(UsageError, match="mapped"):
        slotferry.check(filled.url, cluster.url, CheckOptions(map_db=["7=0"]))
    with pytest.raises(UsageError, match="no key has"):
        CheckOptions(min_size=5, max_size=1)


def test_a_database_that_the_target_has_not_is_an_error(filled: LocalServer, cluster: LocalCluster) -> None:
    report = slotferry.check(filled.url, cluster.url, CheckOptions(db=[3]))

    assert any(row.name == "databases" and row.status == "error" for row in report.rows)


def test_progress_is_told(
    filled: LocalServer,
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told: list[tuple[int, int]] = []
    options = CheckOptions(full=True, db="all", map_db=["3=0"])
    slotferry.check(filled.url, cluster.url, options, progress=lambda done, total: told.append((done, total)))

    assert told[-1] == (320, 320)
    assert sorted(told) == told

    monkeypatch.setattr("slotferry.report.check_progress._LINE_SECONDS", 0.0)
    assert slotferry.cli.main(["check", filled.url, cluster.url, "--full"]) == 0
    assert "looked at 280 of 280 keys" in capsys.readouterr().err


def test_the_options_are_those_of_migrate() -> None:
    ours, theirs = ({p.name: p.to_info_dict() for p in each.params} for each in (command, migrate))
    for name in _CHOOSING.split():
        assert ours[name] == theirs[name]


def test_a_config_file_of_a_migration_serves(
    filled: LocalServer, cluster: LocalCluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nightly.toml"
    ends = f'source = "{filled.url}"\ntarget = "{cluster.url}"\n'
    config.write_text(f'[migrate]\n{ends}match = ["cart:*"]\nverify = true\n')
    assert slotferry.cli.main(["check", "--config", str(config), "--full", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["data"]["keys"] == 50

    config.write_text(config.read_text() + '[check]\nmatch = ["user:*"]\nverify = true\n')
    assert slotferry.cli.main(["check", filled.url, cluster.url, "--config", str(config)]) == 2
    assert "unknown option 'verify'" in capsys.readouterr().err


def test_what_is_said_of_databases_is_about_the_chosen_ones(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    for options, shown, status, keys in (
        (CheckOptions(), "/0", "warning", "280 keys"),
        (CheckOptions(db=[3], map_db=["3=0"]), "/3", "warning", "40 keys"),
        (CheckOptions(db="all", map_db=["3=0"]), "/0,3", "ok", "320 keys"),
    ):
        report = slotferry.check(filled.url, cluster.url, options)
        rows = {row.name: row for row in report.rows}
        assert report.source.endswith(shown)
        assert (rows["databases"].status, keys in rows["source-reach"].message) == (status, True)
