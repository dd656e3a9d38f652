"""A damaged journal on the command line: which row, exit 4, and what the hint says helps."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.integration.migrating import count_keys

REFUSED = 4


def test_a_damaged_row_stops_the_job_until_it_is_restarted(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(50)})
    path = tmp_path / "journal.db"
    arguments = (source.url, cluster.url, "--journal", str(path))
    for command in ("migrate", "verify"):
        assert run(command, *arguments, "--job", command).code == 0
        with closing(sqlite3.connect(path)) as connection:
            # A resume that believed it would leave keys out.
            connection.execute("UPDATE jobs SET status = 'interrupted'")
            connection.execute("UPDATE partitions SET cursor = '0', done = 1")
            connection.commit()

        done = run(command, *arguments, "--job", command)
        assert done.code == REFUSED
        assert "is damaged: in the table " in done.stderr
        assert "--restart" in done.stderr
        assert "Traceback" not in done.stderr

        again = run(command, *arguments, "--job", command, "--restart")
        assert again.code == 0, again.stderr
        assert f"what the journal has of the job {command} is damaged" in again.stderr
    assert count_keys(cluster) == 50
