"""The whole history: a Sentinel pair into a cluster with replicas, with all that may happen on the way."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from slotferry.testing.servers import LocalCluster, LocalSentinelService, wait_until
from tests.command import Running, run
from tests.faults.test_slots_moving import Reshard
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind
from tests.servers.raw import connect

_KEYS = 150_000


class Journal:
    """What the journal says of the one job that is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def scanned(self) -> int:
        listed = run("jobs", "list", "--journal", str(self.path), "--json").lines
        return int(listed[0]["keys"]["scanned"]) if listed else 0

    def tells(self, *words: str) -> bool:
        listed = run("jobs", "list", "--journal", str(self.path), "--json").lines
        shown = run("jobs", "show", listed[0]["job"], "--journal", str(self.path), "--json").lines
        told = [line["message"] for line in shown if line["type"] == "history"]
        return any(all(word in message for word in words) for message in told)


@pytest.mark.long
def test_the_whole_story(kind: ServerKind, stack: ExitStack, tmp_path: Path) -> None:
    service = stack.enter_context(LocalSentinelService(kind.binary))
    cluster = stack.enter_context(LocalCluster(kind.binary, replicas_per_primary=1))
    with connect(service.primary) as connection:
        keys = fill(connection, _KEYS)
    (replica,) = service.replicas
    with replica.client() as client:
        wait_until(lambda: int(client.dbsize()) >= keys, "the replica to have all keys", timeout=120)
    journal = Journal(tmp_path / "journal.db")
    command = [
        *("migrate", service.url, cluster.url, "--journal", str(journal.path)),
        *("--json", "--max-keys-per-second", "6000"),
    ]

    with Running(*command) as running:
        wait_until(lambda: journal.scanned() > keys // 10, "a tenth of the keys", timeout=120)
        source = service.fail_over()
        wait_until(lambda: journal.tells("void", source.address), "the new primary to be read", timeout=120)
        wait_until(lambda: journal.scanned() > keys // 10, "a tenth of the keys once more", timeout=120)
        old, second, third = cluster.primaries
        old.kill()
        wait_until(lambda: journal.tells("took over slots"), "the target's replica to take over", timeout=120)
        living = cast(LocalCluster, SimpleNamespace(primaries=[second, third]))
        for slot in range(6000, 6100):
            Reshard(living, slot, second, third).do()
        wait_until(lambda: journal.scanned() > keys // 2, "a half of the keys", timeout=120)
        assert not running.ended
        running.kill()
    done = run(*command[:-2])

    assert done.code == 0, done.stdout + done.stderr
    assert done.summary["resumed"]
    assert done.summary["runs"] == 2
    assert done.keys["scanned"] >= keys
    assert done.summary["redirects"]["moved"] > 0
    history = [entry["message"] for entry in done.summary["history"]]
    print(json.dumps(history, indent=1))
    for words in ("failover", "void", "took over slots", "without a word", "resumed", "completed"):
        assert any(words in message for message in history), (words, history)
    assert_equal(source, cluster)
