"""What `verify` shows of values that differ: nothing that they hold, unless it is asked to.

Invariant: every type is looked at whole and in chunks, on real servers.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from slotferry.text import show_key
from tests.command import run

_SECRET = "s3cretvalue"
_SMALL = 5
_LARGE = 3_000  # with names of 100 bytes, more than the smallest --big-key-bytes


def _fill(source: LocalServer, cluster: LocalCluster, elements: int) -> set[str]:
    """Write keys that differ in one place; return their names."""
    many = [f"{_SECRET}-{number:06}" * 4 for number in range(elements)]
    with source.client() as old, cluster.client() as new:
        for client, last in ((old, "one"), (new, "two")):
            mine = f"{_SECRET}-{last}"
            client.set("string", "".join(many) + mine)
            client.rpush("list", *many, mine)
            client.sadd("set", *many, mine)
            client.hset("hash", mapping={**dict.fromkeys(many, _SECRET), "field-" + _SECRET: mine})
            client.zadd("zset", dict.fromkeys(many, 1) | {mine: 2})
            client.zadd("score", dict.fromkeys(many, 1) | {_SECRET: 1e300 if last == "one" else 1.5})
            for number, name in enumerate(many):
                client.xadd("stream", {"field": name}, id=f"1-{number + 1}")
            client.xadd("stream", {"field": mine}, id="2-1")
        old.set("missing", _SECRET)
        new.set("extra", _SECRET)
        old.set("type", _SECRET)
        new.rpush("type", _SECRET)
    return {"string", "list", "set", "hash", "zset", "score", "stream", "missing", "extra", "type"}


@pytest.mark.parametrize("elements", [_SMALL, _LARGE])
def test_values_are_shown_only_where_that_is_asked_for(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path, elements: int
) -> None:
    names = _fill(source, cluster, elements)
    file, journal = tmp_path / "differences.jsonl", tmp_path / "journal.db"
    asked = ("--recheck", "0", "--big-key-bytes", "64kB", "--journal", str(journal))
    command = ("verify", source.url, cluster.url, *asked, "--differences", str(file))

    done = run(*command)

    assert done.code == 3, done.stderr
    assert {json.loads(line)["key"] for line in file.read_text().splitlines()} == names
    shown = run("jobs", "list", "--json", "--journal", str(journal)).lines[0]["job"]
    told = run("jobs", "show", shown, "--journal", str(journal)).stdout
    told += run("jobs", "show", shown, "--json", "--journal", str(journal)).stdout
    for text in (done.stdout, done.stderr, told, file.read_text()):
        assert _SECRET not in text
    assert all(_SECRET.encode() not in path.read_bytes() for path in tmp_path.iterdir() if path.is_file())

    done = run(*command, "--show-values")

    assert done.code == 3, done.stderr
    differences = {line["key"]: line for line in map(json.loads, file.read_text().splitlines())}
    holding = {key for key, line in differences.items() if _SECRET[:8] in line["source"] + line["target"]}
    assert holding >= names - {"stream", "string"}
    assert differences["string"]["target"].endswith('"two"')
    assert "1e300" in differences["score"]["source"]
    assert "000000000" not in differences["score"]["source"].replace(_SECRET, "")
    rows = done.stdout.partition("differences (source, target):")[2].splitlines()
    assert len(rows) > len(names) // 2
    assert max(map(len, rows)) < 250


def test_a_row_is_bounded(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    key = ("long-" * 100).encode()
    with source.client() as old, cluster.client() as new:
        old.hset(key, "field" * 50, "value" * 50)
        new.hset(key, "field" * 50, "other" * 50)
    done = run("verify", source.url, cluster.url, "--recheck", "0", "--show-values")
    assert done.code == 3
    (row,) = (row for row in done.stdout.splitlines() if "different" in row and show_key(key)[:20] in row)
    assert len(row) < 200
