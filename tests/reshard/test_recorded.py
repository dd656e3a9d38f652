"""`slotferry jobs` for reshards."""

from __future__ import annotations

from pathlib import Path

from slotferry.api.resharding import connect
from slotferry.jobs.names import default_journal_path
from slotferry.reshard.cluster.lock import cluster_lock
from slotferry.reshard.cluster.members import read_cluster
from slotferry.reshard.journal import ReshardJournal
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.reshard.moving import plan_away


def test_reshards_are_listed_shown_and_discarded(
    own: LocalCluster, source: LocalServer, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(plan_away(own).to_json())
    assert run("migrate", source.url, own.url, "--job", "both", "--json").code == 0
    stopped = run("reshard", "apply", str(file), own.url, "--job", "both", "--max-duration", "1ms")
    assert stopped.code == 75, stopped.stderr

    listed = {line["kind"]: line for line in run("jobs", "list", "--json").lines}
    assert listed.keys() == {"migrate", "reshard"}
    assert (listed["reshard"]["job"], listed["reshard"]["status"]) == ("both", "work_left")
    table = run("jobs", "list").stdout.splitlines()
    assert "KIND" in table[0]
    assert sum("/400" in line for line in table) == 1

    unclear = run("jobs", "show", "both")
    assert unclear.code == 2
    assert "--kind" in unclear.stderr
    assert run("reshard", "apply", str(file), own.url, "--job", "both").code == 0
    shown = run("jobs", "show", "both", "--kind", "reshard", "--json").lines
    assert [line["type"] for line in shown] == ["job", "run", "run"]
    assert shown[0]["status"] == "completed"
    assert shown[0]["slots"] == {"planned": 400, "moved": 400, "left": 0, "open": 0}
    assert "--max-duration" in shown[1]["why"]
    text = run("jobs", "show", "both", "--kind", "reshard").stdout
    assert "400 of 400 moved" in text
    assert "work_left" in text
    assert run("jobs", "show", "both", "--kind", "migrate", "--json").lines[0]["kind"] == "migrate"

    assert run("jobs", "discard", "both", "--kind", "reshard").code == 0
    assert [line["kind"] for line in run("jobs", "list", "--json").lines] == ["migrate"]


def test_a_killed_reshard_is_interrupted_and_kept_while_it_may_have_open_slots(own: LocalCluster) -> None:
    plan = plan_away(own)
    with ReshardJournal(default_journal_path()) as journal:
        journal.begin("killed", plan)
        journal.set_open("killed", {7: ""})
        with cluster_lock(journal.path, read_cluster(connect(own.url))):
            assert run("jobs", "show", "killed", "--json").lines[0]["status"] == "running"
            busy = run("jobs", "discard", "killed")
            assert busy.code != 0
            assert "are being moved by" in busy.stderr
        assert run("jobs", "show", "killed", "--json").lines[0]["status"] == "interrupted"
        kept = run("jobs", "discard", "killed")
        assert kept.code == 4
        assert "may have left slots open: 7" in kept.stderr
        journal.forget_open([7])
        assert run("jobs", "discard", "killed").code == 0
        assert journal.slots("killed", "open") == []
        assert journal.jobs() == []
