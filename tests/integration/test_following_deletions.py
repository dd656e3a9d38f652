"""Keys that the source deletes by the thousand are no keys that the target has lost."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from redis.exceptions import ResponseError

from slotferry import CutoverOptions, Migration, Options
from slotferry.jobs.journal.reader import JournalReader
from slotferry.migrate.account.target_watch import LOOK_SECONDS
from slotferry.model.events import Progress
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 12_000


@pytest.mark.parametrize("source", ["redis-7.0"], indirect=True)
def test_a_burst_of_deletions_leads_to_no_comparison(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    path = tmp_path / "journal.db"
    with Migration(source.url, cluster.url, Options(journal=path, follow=True)) as migration:
        deleted_at: float | None = None
        for event in migration.events():
            if "all is copied" in getattr(event, "message", ""):
                with source.client() as client:
                    client.delete(*(f"key:{number}" for number in range(_KEYS // 2)))
            if not isinstance(event, Progress) or event.follow is None:
                continue
            if deleted_at is None and count_keys(cluster) == _KEYS // 2:
                deleted_at = event.elapsed_seconds
            # Several looks at the target have seen that it has fewer, and have been judged.
            if deleted_at is not None and event.elapsed_seconds > deleted_at + 6 * LOOK_SECONDS:
                assert event.follow.comparisons == 0
                break
        report = migration.cutover(CutoverOptions(hold=0))
        assert report.is_done, report.reason
    with contextlib.suppress(ResponseError), source.client() as client:
        client.execute_command("CLIENT", "UNPAUSE")
    assert_equal(source, cluster)
    with JournalReader.open(path) as journal:
        (record,) = journal.jobs()
        assert [entry.message for entry in journal.history(record.name) if "fewer" in entry.message] == []
