"""A cluster compared with the RDB file that it was copied from: what differs is found, and sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from slotferry.api.verification import Verification, VerifyOptions, VerifyReport
from slotferry.errors import OptionError
from slotferry.model.events import Event
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.test_rdb_file import copy, save, told
from tests.servers.dataset import fill
from tests.servers.raw import connect


@pytest.fixture
def copied(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> Path:
    """A file of 1,000 keys of every type, which are in the cluster."""
    with connect(source) as connection:
        fill(connection, 1_000)
    file = save(source, tmp_path)
    report, _ = copy(file, cluster, tmp_path, field_ttl="drop")
    assert report.ok, (report.error, report.failures)
    return file


def verify(
    file: Path, cluster: LocalCluster, folder: Path, **options: Any
) -> tuple[VerifyReport, list[Event]]:
    """Compare, and return the report and what was told."""
    chosen = VerifyOptions(journal=folder / "journal.db", **{"recheck": 1, **options})
    with Verification(str(file), cluster.url, chosen) as verification:
        events = list(verification.events())
        report = verification.report
        assert isinstance(report, VerifyReport)
        return report, events


def test_what_was_copied_is_the_same(copied: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    report, events = verify(copied, cluster, tmp_path, field_ttl="drop", ttl_tolerance=2)
    assert report.ok, (report.error, report.differences, report.examples)
    assert report.keys.scanned >= 1_000
    assert "an RDB file can't be asked for them" in told(events)


def test_what_differs_is_found_and_sent_again(copied: Path, cluster: LocalCluster, tmp_path: Path) -> None:
    with cluster.client() as client:
        names = sorted(key for key in client.scan_iter(count=1000) if client.type(key) == b"string")
        client.delete(names[0])
        client.set(names[1], "another")
    options: dict[str, Any] = {"field_ttl": "drop", "ttl_tolerance": 2}
    report, _ = verify(copied, cluster, tmp_path, **options)
    assert not report.ok
    assert report.differences == {"missing": 1, "different": 1}
    assert {difference.key for difference in report.examples} == set(names[:2])

    repaired, _ = verify(copied, cluster, tmp_path, repair=True, **options)
    assert repaired.repaired == 2, (repaired.error, repaired.differences)
    assert verify(copied, cluster, tmp_path, **options)[0].ok


def test_a_migration_from_a_file_is_verified_at_once(
    source: LocalServer, cluster: LocalCluster, tmp_path: Path
) -> None:
    with connect(source) as connection:
        fill(connection, 500)
    report, _ = copy(save(source, tmp_path), cluster, tmp_path, verify=True, field_ttl="drop")
    assert report.ok, report.error
    assert report.verification is not None
    assert report.verification.keys.scanned == report.keys.scanned


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("-", {}, "comes from stdin"),
        ("dump.rdb", {"quick": True}, "{quick}|quick"),
        ("dump.rdb", {"repair": True, "delete_extra": True, "yes": True}, "delete"),
        ("dump.rdb", {"db": "all"}, "RDB file"),
    ],
)
def test_what_a_file_can_not_be_asked_for_is_refused(source: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        Verification(source, "redis://127.0.0.1:1", VerifyOptions(**options))
