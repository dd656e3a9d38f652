"""`verify --repair --delete-extra`: a typo must not empty a target.

Invariant: nothing is deleted, and nothing repaired, before all that would be deleted is counted and allowed.
"""

from __future__ import annotations

import json
import os
import pty
from pathlib import Path

import pytest

from slotferry import Verification, VerifyOptions
from slotferry.errors import RefusedError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import COMMAND, run
from tests.integration.migrating import count_keys, migrate
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_EXTRA = 3_000


@pytest.fixture
def copied(source: LocalServer, cluster: LocalCluster) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(200)})
    assert migrate(source, cluster).ok
    return source


def _delete(source: LocalServer | str, cluster: LocalCluster, **options: object) -> Verification:
    url = source if isinstance(source, str) else source.url
    chosen = {"recheck": 0, "repair": True, "delete_extra": True, "yes": True, **options}
    return Verification(url, cluster.url, VerifyOptions(**chosen))  # type: ignore[arg-type]


def test_an_empty_database_of_the_source_deletes_nothing(copied: LocalServer, cluster: LocalCluster) -> None:
    with cluster.client() as new:
        new.set("key:1", "other")
    for verification, says in (
        (_delete(f"{copied.url}/5", cluster), "database 5"),
        (_delete(copied, cluster, match="nosuch:*"), "filters"),
    ):
        with pytest.raises(RefusedError, match=says) as refused:
            verification.run()
        assert "200" in refused.value.message or "filters" in refused.value.message
    done = run(
        "verify",
        f"{copied.url}/5",
        cluster.url,
        "--repair",
        "--delete-extra",
        "--yes",
        "--max-delete",
        "99999",
    )
    assert done.code == 4, done.stderr
    assert "database 0 holds 200" in done.stderr
    assert count_keys(cluster) == 200
    with cluster.client() as new:
        assert new.get("key:1") == b"other"


def test_more_than_a_tenth_or_a_thousand_is_refused_with_the_number(
    copied: LocalServer, cluster: LocalCluster
) -> None:
    with cluster.client() as new:
        new.set("key:1", "other")
        for i in range(_EXTRA):
            new.set(f"extra:{i}", i)

    with pytest.raises(RefusedError, match=r"3,000 .* extra.*1,000") as refused:
        _delete(copied, cluster).run()
    assert "max_delete" in refused.value.hint or "--max-delete" in refused.value.hint
    with pytest.raises(RefusedError, match="2,999"):
        _delete(copied, cluster, max_delete=_EXTRA - 1).run()

    assert count_keys(cluster) == 200 + _EXTRA
    with cluster.client() as new:
        assert new.get("key:1") == b"other"  # nor was anything repaired
    report = _delete(copied, cluster, max_delete=_EXTRA).run()
    assert (report.ok, report.deleted, report.repaired) == (True, _EXTRA, 1)
    assert count_keys(cluster) == 200


def test_a_tenth_of_a_large_target_may_be_deleted(source: LocalServer, cluster: LocalCluster) -> None:
    with connect(source) as connection:
        fill_strings(connection, 15_000)
    assert migrate(source, cluster).ok
    with cluster.client() as new:
        for i in range(1_600):
            new.set(f"extra:{i}", i)
    assert _delete(source, cluster).run().deleted == 1_600


def test_without_a_terminal_it_takes_yes(copied: LocalServer, cluster: LocalCluster) -> None:
    with cluster.client() as new:
        new.set("extra", 1)
    command = ("verify", copied.url, cluster.url, "--recheck", "0", "--repair", "--delete-extra")

    refused = run(*command)

    assert refused.code == 2
    assert "--yes" in refused.stderr
    assert count_keys(cluster) == 201
    done = run(*command, "--yes", "--json")
    assert done.code == 0, done.stderr
    assert done.summary["deleted"] == 1
    (planned,) = [line for line in done.lines if line["type"] == "repair_planned"]
    assert (planned["to_send"], planned["to_delete"]) == (0, 1)


@pytest.mark.parametrize(
    ("answer", "code", "left"), [(b"y\n", 0, 200), (b"n\n", 4, 201), (b"\x03", 130, 201)]
)
def test_on_a_terminal_it_asks(
    copied: LocalServer, cluster: LocalCluster, answer: bytes, code: int, left: int
) -> None:
    with cluster.client() as new:
        new.set("extra", 1)
    pid, terminal = pty.fork()
    if pid == 0:
        options = ("--recheck", "0", "--repair", "--delete-extra", "--progress", "none")
        os.execv(COMMAND, [COMMAND, "verify", copied.url, cluster.url, *options])
    shown = b""
    while b"[y/N]" not in shown:
        shown += os.read(terminal, 4096)
    assert b"Delete 1 key of the target" in shown
    assert count_keys(cluster) == 201

    os.write(terminal, answer)

    while True:
        try:
            if not (more := os.read(terminal, 4096)):
                break
        except OSError:  # how a terminal says that nobody is left at its other end
            break
        shown += more
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == code, shown
    assert b"Traceback" not in shown
    assert count_keys(cluster) == left


def test_a_dry_run_shows_what_would_be_sent_and_deleted(
    copied: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with cluster.client() as new:
        new.set("key:1", "other")
        new.delete("key:2", "key:3")
        for i in range(40):
            new.set(f"extra:{i}", i)
    file = tmp_path / "differences"
    command = ("verify", copied.url, cluster.url, "--recheck", "0", "--repair", "--dry-run")

    table = run(*command, "--delete-extra", "--differences", str(file))

    assert table.code == 3, table.stderr
    assert "nothing was written" in table.stdout + table.stderr
    for says in ("to send", "to delete", "key:2", "extra:"):
        assert says in table.stdout
    kinds = [json.loads(line)["kind"] for line in file.read_text().splitlines()]
    assert (kinds.count("extra"), len(kinds)) == (40, 43)
    done = run(*command, "--delete-extra", "--json")
    assert (done.summary["to_send"], done.summary["to_delete"]) == (3, 40)
    assert (done.summary["repaired"], done.summary["deleted"]) == (0, 0)
    kept = run(*command, "--json")
    assert (kept.summary["to_send"], kept.summary["to_delete"]) == (3, 0)
    tight = run(*command, "--delete-extra", "--max-delete", "39", "--json")
    assert "--max-delete" in tight.stderr
    assert count_keys(cluster) == 238
    with cluster.client() as new:
        assert new.get("key:1") == b"other"
