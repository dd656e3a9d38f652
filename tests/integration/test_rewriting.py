"""Keys under other names at the target: by rules, by filters, and database by database."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from slotferry import Migration, Options
from slotferry._core import key_slot
from slotferry.api.verification import Verification, VerifyOptions
from slotferry.errors import SlotferryError, SourceNotReadyError, TargetNotReadyError
from slotferry.jobs.journal.journal import Journal
from slotferry.model.rules import AddPrefix, Rewrite, StripPrefix
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys, migrate
from tests.servers.kinds import embedded

TAGS = Rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2")


def test_keys_arrive_under_their_new_names(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({f"user:{i}:name": i for i in range(3_000)})
        old.mset({b"user:7:\xff\n": "bytes", "order:1": "other"})
        old.rpush("user:9:list", "a", "b")
        old.expire("user:9:list", 1000)

        report = migrate(source, cluster, rules=[TAGS], parallel_scans=4)

        assert report.ok
        assert report.keys.migrated == count_keys(cluster) == 3_003
        assert new.get("user:{77}:name") == b"77"
        assert new.get(b"user:{7}:\xff\n") == b"bytes"
        assert new.get("order:1") == b"other"
        assert new.lrange("user:{9}:list", 0, -1) == [b"a", b"b"]
        assert 900 < new.ttl("user:{9}:list") <= 1000
        # The same again finds every key under its new name.
        again = migrate(source, cluster, rules=[TAGS])
        assert again.keys.unchanged == again.keys.scanned == 3_003


def test_rules_in_order(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("old:a", 1)
        old.set("b", 2)
        rules = [StripPrefix("old:"), Rewrite("^a$", "A"), AddPrefix(b"new:\xff")]
        assert migrate(source, cluster, rules=rules).ok
        assert new.get(b"new:\xffA") == b"1"
        assert new.get(b"new:\xffb") == b"2"


def test_failed_keys_keep_the_sources_names(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as old, cluster.client() as new:
        old.mset({"user:1:a": "old", "user:2:a": "old"})
        new.set("user:{1}:a", "other")
        options: dict[str, Any] = {"rules": [TAGS], "journal": journal, "job": "job"}

        report = migrate(source, cluster, **options)

        assert report.exit_code == 3
        (failure,) = report.failures
        assert failure.key == b"user:1:a"
        assert failure.slot == key_slot("user:{1}:a")
        assert "under user:{1}:a" in failure.message
        new.delete("user:{1}:a")
        again = migrate(source, cluster, **options)
        assert again.ok, again
        assert again.resumed
        assert new.get("user:{1}:a") == b"old"


def test_names_are_kept_no_longer_than_needed(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        for start in range(0, 100_000, 10_000):
            old.mset({f"user:{i}:{'x' * 50}": i for i in range(start, start + 10_000)})
    peak = 0
    options = Options(rules=[TAGS], memory_limit=4 << 20, parallel_scans=8)
    with Migration(source.url, cluster.url, options) as migration:
        for event in migration.events():
            peak = max(peak, getattr(event, "buffered_bytes", 0))
        assert migration.result().keys.migrated == 100_000
    assert peak <= 5 << 20


def test_keys_are_chosen_by_name_and_slot(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old:
        old.mset({f"{kind}:{i}": i for kind in ("user", "order", "tmp") for i in range(500)})
        old.mset({f"user:secret:{i}": i for i in range(500)})

    report = migrate(source, cluster, match=["user:*", "order:*"], exclude=["*:secret:*"])
    assert report.keys.migrated == report.keys.scanned == count_keys(cluster) == 1_000

    cases: list[tuple[dict[str, Any], int]] = [
        ({"match_regex": [r"^(tmp|order):\d\d$"]}, 180),
        ({"match": "user:*", "match_regex": ["^tmp:7$"]}, 1_001),
        ({"exclude_regex": ["[0-4]$"], "exclude": ["user:*"]}, 500),
        ({"match": "tmp:*", "slots": [(0, 8191)]}, sum(key_slot(f"tmp:{i}") < 8192 for i in range(500))),
    ]
    for options, expected in cases:
        assert migrate(source, cluster, dry_run=True, **options).keys.scanned == expected, options


def test_several_databases_into_one(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as first, source.client(db=2) as second, cluster.client() as new:
        first.mset({f"key:{i}": i for i in range(2_000)})
        second.mset({f"key:{i}": -i for i in range(1_000)})
        new.set("db2:key:5", "other")

        report = migrate(source, cluster, db="all", map_db=["2=prefix:db2:"], journal=journal, job="job")

        assert report.keys.scanned == 3_000
        assert report.keys.migrated == 2_999
        (failure,) = report.failures
        assert (failure.key, failure.database) == (b"key:5", 2)
        assert new.get("key:7") == b"7"
        assert new.get("db2:key:7") == b"-7"
        with Journal.open(journal) as opened:
            assert opened.databases("job") == [0, 2]
            assert all(mark.done for mark in opened.marks("job"))
            assert [mark.database for mark in opened.marks("job")] == [0, 2]
        new.delete("db2:key:5")
        again = migrate(source, cluster, db="all", map_db=["2=prefix:db2:"], journal=journal, job="job")
        assert again.ok
        assert new.get("db2:key:5") == b"-5"


def test_one_key_may_fail_in_two_databases(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.db"
    with source.client() as first, source.client(db=2) as second, cluster.client() as new:
        first.set("key", 1)
        second.set("key", 2)
        new.mset_nonatomic({"key": "other", "db2:key": "other"})

        report = migrate(source, cluster, db=(0, 2), map_db=["2=prefix:db2:"], journal=journal)

        assert report.keys.failed == report.keys.scanned == 2
        assert {(failure.key, failure.database) for failure in report.failures} == {(b"key", 0), (b"key", 2)}


def test_databases_that_are_not_there(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as first, source.client(db=2) as second:
        first.set("a", 1)
        second.set("b", 1)
    refused: list[tuple[dict[str, Any], type[SlotferryError], str]] = [
        ({"db": (0, 2)}, TargetNotReadyError, "no database 2"),
        ({"db": (0, 3), "map_db": ["3=0"]}, SourceNotReadyError, "no keys there"),
        ({"db": (0, 999), "map_db": ()}, SourceNotReadyError, "no database 999"),
    ]
    for options, error, says in refused:
        with pytest.raises(error, match=says) as caught:
            migrate(source, cluster, **options)
        assert caught.value.hint
    assert count_keys(cluster) == 0


def test_db_to_db_where_the_cluster_has_several(source: LocalServer, stack: Any) -> None:
    kind = embedded()
    if kind.product != "valkey" or kind.version < (9, 0):
        pytest.skip("takes Valkey 9")
    cluster = stack.enter_context(LocalCluster(kind.binary, config={"cluster-databases": "16"}))
    with source.client() as first, source.client(db=5) as fifth:
        first.set("key", "zero")
        fifth.set("key", "five")
        assert migrate(source, cluster, db=(0, 5)).keys.migrated == 2
    held = {}
    for node in cluster.primaries:
        for number in (0, 5):
            with node.client(db=number) as client:
                held.update({(number, key): client.get(key) for key in client.scan_iter()})
    assert held == {(0, b"key"): b"zero", (5, b"key"): b"five"}


def test_an_older_journal_is_brought_forward(
    tmp_path: Path, source: LocalServer, cluster: LocalCluster
) -> None:
    """A job of a journal without databases is resumed, with the database of its URL."""
    journal = tmp_path / "journal.db"
    with source.client(db=3) as old, cluster.client() as new:
        old.mset({"a": 1, "b": 2})
        new.set("a", "other")
        url = f"{source.url}/3"
        options = Options(journal=journal, job="job")
        assert Migration(url, cluster.url, options).run().keys.failed == 1
        connection = sqlite3.connect(journal)
        for table, unique in (("partitions", "PRIMARY KEY (job, idx)"), ("unsettled", "UNIQUE (job, key)")):
            columns = {
                "partitions": "job TEXT, idx INTEGER, cursor TEXT, done INTEGER",
                "unsettled": "id INTEGER PRIMARY KEY, job TEXT, key BLOB, slot INTEGER, outcome TEXT, "
                "kind TEXT, message TEXT, node TEXT",
            }[table]
            names = ", ".join(column.split()[0] for column in columns.split(", "))
            connection.executescript(
                f"ALTER TABLE {table} RENAME TO newer; CREATE TABLE {table} ({columns}, {unique}); "
                f"INSERT INTO {table} SELECT {names} FROM newer; DROP TABLE newer;"
            )
        connection.execute("PRAGMA user_version = 1")
        connection.commit()
        connection.close()
        new.delete("a")

        again = Migration(url, cluster.url, options).run()

        assert again.ok
        assert again.resumed
        assert again.keys.migrated == 2
        with Journal.open(journal) as opened:
            assert opened.databases("job") == [3]


def test_keys_of_a_list(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    listed, journal = tmp_path / "keys", tmp_path / "journal.db"
    with source.client() as old, cluster.client() as new:
        old.mset({f"user:{i}:a": i for i in range(2_000)})
        old.set(b"\xff \r", "odd")
        new.set("user:{5}:a", "other")
        lines = [
            *(f"user:{i}:a".encode() for i in range(0, 2_000, 2)),
            b"\xff \\r",
            b"user:5:a",
            b"none",
            b"",
        ]
        listed.write_bytes(b"\n".join([*lines, lines[0]]))
        options: dict[str, Any] = {"keys_from": listed, "rules": [TAGS], "journal": journal, "job": "job"}

        assert migrate(source, cluster, dry_run=True, **options).keys.scanned == 1_003
        report = migrate(source, cluster, **options)

        assert report.keys.scanned == 1_003
        assert (report.keys.migrated, report.keys.vanished, report.keys.failed) == (1_001, 1, 1)
        assert new.get("user:{8}:a") == b"8"
        assert new.get(b"\xff \r") == b"odd"
        assert not new.exists("user:{7}:a")
        new.delete("user:{5}:a")
        again = migrate(source, cluster, **options)
        assert again.ok
        assert again.resumed
        listed.write_bytes(b"user:9:a\n")
        with pytest.raises(SlotferryError, match="keys-from: the journal has"):
            migrate(source, cluster, **{**options, "rules": [TAGS]})
        assert migrate(source, cluster, **{**options, "restart": True}).keys.migrated == 1
        # A glob chooses among them.
        report = migrate(source, cluster, keys_from=listed, match="order:*", job="other", journal=journal)
        assert report.keys.scanned == 0


def test_a_list_that_makes_no_sense(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    with pytest.raises(SlotferryError, match="can't be read"):
        migrate(source, cluster, keys_from=tmp_path / "none")
    with pytest.raises(SlotferryError, match="type, size or TTL"):
        Options(keys_from="-", type="hash")
    with pytest.raises(SlotferryError, match="several databases"):
        Options(keys_from="-", db=(0, 2))


def test_a_verification_knows_the_rules_and_databases(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as first, source.client(db=2) as second, cluster.client() as new:
        first.mset({f"user:{i}:a": i for i in range(500)})
        second.mset({f"user:{i}:a": -i for i in range(300)})
        options: dict[str, Any] = {"rules": [TAGS], "db": "all", "map_db": ["2=prefix:db2:"]}
        report = migrate(source, cluster, verify=True, **options)
        assert report.ok
        assert report.verification is not None
        assert report.verification.keys.unchanged == 800
        new.set("db2:user:{7}:a", "other")
        new.delete("user:{8}:a")
        found = Verification(source.url, cluster.url, VerifyOptions(recheck=0, **options)).run()
        assert found.exit_code == 3
        kinds = {(example.key, example.kind) for example in found.examples}
        assert kinds == {(b"user:7:a", "different"), (b"user:8:a", "missing")}
