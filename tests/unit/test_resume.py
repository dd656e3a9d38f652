"""Where a run starts: anew, from its marks, or void."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slotferry.errors import JobMismatchError
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark
from slotferry.jobs.options import Options
from slotferry.migrate.resume import check_setup, default_job_name, make_setup, prepare_job
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.rules import AddPrefix
from slotferry.net.endpoints import Endpoint
from slotferry.topology.discovery import ServerFacts, SourceFacts
from slotferry.topology.product import Product

SOURCE = Endpoint.parse("redis://u:secret@old:6379/2", "source")
TARGET = Endpoint.parse("redis+cluster://new2:7000,new1:7000", "target")
OPTIONS = Options(match=b"user:\xff*")
SETUP = make_setup(SOURCE, TARGET, OPTIONS)
FACTS = SourceFacts(
    ServerFacts("old:6379", "id-1", (7, 0, 15), Product("redis", "7.0.15"), False), 1_000_000, 0.0001
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "journal.db") as opened:
        yield opened


def prepare(
    journal: Journal, options: Options = OPTIONS, facts: SourceFacts = FACTS
) -> tuple[bool, list[str]]:
    notices: list[str] = []
    return prepare_job(journal, "job", SETUP, facts, options, notices.append), notices


def leave(journal: Journal, status: str) -> None:
    """Let an earlier run have ended so, with a partition done and a key failed."""
    prepare(journal)
    number = journal.begin_run("job", resumed=False)
    failure = FailedKey(b"a", 1, "conflict", "differs", "n:1")
    counts = Totals(Keys(scanned=5, migrated=4))
    journal.record("job", Advance(totals=counts, marks=[Mark(0, 77, True)], failures=[failure]))
    journal.end_run("job", number, status, 1.0, None)


def test_a_new_job_is_planned(journal: Journal) -> None:
    assert prepare(journal) == (False, [])
    assert len(journal.marks("job")) == 16


@pytest.mark.parametrize("status", ["interrupted", "failed", "running", "completed_with_failures"])
def test_what_was_not_finished_is_resumed(journal: Journal, status: str) -> None:
    leave(journal, status)
    resumed, notices = prepare(journal)
    assert resumed
    assert [notice for notice in notices if "scanned to its end" not in notice] == []
    assert bool(notices) == (status == "completed_with_failures")
    assert journal.marks("job")[0] == Mark(0, 77, True)
    assert journal.totals("job").keys == Keys(scanned=5, migrated=4, failed=1)


@pytest.mark.parametrize(
    ("status", "options"), [("completed", OPTIONS), ("interrupted", replace(OPTIONS, restart=True))]
)
def test_what_was_completed_or_is_restarted_starts_over(
    journal: Journal, status: str, options: Options
) -> None:
    leave(journal, status)
    assert prepare(journal, options) == (False, [])
    assert journal.totals("job") == Totals()
    assert journal.marks("job")[0] == Mark(0, 0, False)
    assert len(journal.runs("job")) == 1


def test_another_run_id_voids_everything_and_says_so(journal: Journal) -> None:
    leave(journal, "interrupted")
    changed = replace(FACTS, server=replace(FACTS.server, run_id="id-2"))
    resumed, (notice,) = prepare(journal, facts=changed)
    assert not resumed
    assert "run_id" in notice
    assert journal.totals("job") == Totals()
    assert journal.failures("job", 9) == []
    record = journal.job("job")
    assert record is not None
    assert record.run_id == "id-2"


def test_the_number_of_partitions_is_the_jobs(journal: Journal) -> None:
    leave(journal, "interrupted")
    resumed, (notice,) = prepare(journal, replace(OPTIONS, parallel_scans=4))
    assert resumed
    assert "--parallel-scans 4 is not used" in notice
    assert len(journal.marks("job")) == 16
    assert prepare(journal, replace(OPTIONS, parallel_scans=16)) == (True, [])
    assert prepare(journal, replace(OPTIONS, parallel_scans=4, restart=True)) == (False, [])
    assert len(journal.marks("job")) == 4


def test_another_setup_is_refused_with_the_difference(journal: Journal) -> None:
    leave(journal, "interrupted")
    record = journal.job("job")
    assert record is not None
    check_setup(record, SETUP)
    other = make_setup(SOURCE, TARGET, replace(OPTIONS, on_conflict="replace"))
    with pytest.raises(
        JobMismatchError, match="on-conflict: the journal has error, the command says replace"
    ):
        check_setup(record, other)


@pytest.mark.parametrize("status", ["completed", "completed_with_failures"])
def test_a_job_that_has_ended_takes_another_policy_for_a_fresh_pass(journal: Journal, status: str) -> None:
    leave(journal, status)
    options = replace(OPTIONS, on_conflict="replace", field_ttl="drop", wait_replicas=1)
    record = journal.job("job")
    assert record is not None
    setup = make_setup(SOURCE, TARGET, options)
    check_setup(record, setup)
    notices: list[str] = []
    assert not prepare_job(journal, "job", setup, FACTS, options, notices.append)
    assert "on-conflict: the journal has error, the command says replace" in notices[0]
    assert journal.totals("job") == Totals()
    again = journal.job("job")
    assert again is not None
    assert again.setup == setup


@pytest.mark.parametrize("status", ["completed", "completed_with_failures", "interrupted"])
def test_what_says_which_keys_go_where_is_never_another(journal: Journal, status: str) -> None:
    leave(journal, status)
    record = journal.job("job")
    assert record is not None
    elsewhere = Endpoint.parse("redis+cluster://new3:7000", "target")
    other_source = Endpoint.parse("redis://old:6379/3", "source")
    for setup in (
        make_setup(SOURCE, elsewhere, OPTIONS),
        make_setup(other_source, TARGET, OPTIONS),
        make_setup(SOURCE, TARGET, replace(OPTIONS, match="other*")),
        make_setup(SOURCE, TARGET, replace(OPTIONS, type="hash")),
        make_setup(SOURCE, TARGET, replace(OPTIONS, slots=[(0, 5)])),
        make_setup(SOURCE, TARGET, replace(OPTIONS, rules=[AddPrefix("new:")])),
        replace(SETUP, databases="0,2"),
        replace(SETUP, map_db="2=0"),
        replace(SETUP, keys_from="digest"),
        replace(SETUP, purpose="verify"),
    ):
        with pytest.raises(JobMismatchError):
            check_setup(record, setup)


def test_a_setup_holds_no_secret_and_any_bytes() -> None:
    assert SETUP.source == "redis://old:6379/2"
    assert SETUP.target == "redis+cluster://new1:7000,new2:7000/0"
    assert SETUP.match == r"user:\xff*"


def test_the_default_name_is_readable_and_tells_places_apart() -> None:
    name = default_job_name(SOURCE, TARGET)
    assert name.startswith("old-6379-to-new1-7000-")
    Options(job=name)  # is a name that can be given
    other_database = replace(SOURCE, database=3)
    assert default_job_name(other_database, TARGET) != name
    # The same places by another login and in another order are the same job.
    same = Endpoint.parse("redis+cluster://x:y@new1:7000,new2:7000/0", "target")
    assert default_job_name(replace(SOURCE, password=None), same) == name
    socket = Endpoint.parse("unix:///run/redis/redis.sock", "source")
    Options(job=default_job_name(socket, TARGET))


def test_a_verification_is_not_told_to_start_a_migration_over(journal: Journal) -> None:
    leave(journal, "completed")
    record = journal.job("job")
    assert record is not None
    with pytest.raises(JobMismatchError) as raised:
        check_setup(record, replace(SETUP, purpose="verify"))
    assert "another --job" in raised.value.hint
    assert "--restart" not in raised.value.hint
