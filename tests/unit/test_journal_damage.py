"""A damaged journal is refused, or reads as it was written: no traceback, and never something else."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from slotferry.cli import main
from slotferry.errors import JournalError
from slotferry.jobs.journal.file import SCHEMA_VERSION
from slotferry.jobs.journal.journal import Journal
from slotferry.jobs.journal.records import Advance, Mark, PendingKey, Setup
from slotferry.jobs.journal.row_checks import COUNTED
from slotferry.model.counts import FailedKey, Keys, Totals
from slotferry.model.history import HistoryEntry
from slotferry.reshard.journal import ReshardJournal
from slotferry.reshard.plan.model import Holding, Plan, PlannedNode, Policy, Transfer

_CASES = 400
_SETUP = Setup("redis://old:6379/0", "redis+cluster://new:7000/0", "user:*", None, "error")
_TABLES = (
    *("jobs", "partitions", "unsettled", "runs", "notes", "story", "big_keys"),
    *("reshard_jobs", "reshard_slots", "reshard_runs"),
)
_JUNK = (
    *(None, -1, 2**63 - 1, 0.5, "", "x", "{", "[]", '{"unknown": 1}', '{"source": []}', "[" * 20_000),
    *(b"\xff\xfe", b"", "18446744073709551616", "-1", "running", "migrate"),
)


def fill(path: Path) -> None:
    """Write a journal with two migrations and a reshard, and something in each table."""
    with Journal.open(path) as journal:
        for name in ("one", "two"):
            journal.create(name, _SETUP, 16, f"run-id-{name}", {0: 16, 3: 4})
            number = journal.begin_run(name, resumed=False)
            keys = [f"key:{index:04}".encode() for index in range(60)]
            journal.record(
                name,
                Advance(
                    totals=Totals(Keys(scanned=500, migrated=440), 10_000, 1, 2, 3),
                    marks=[Mark(index, index * 1000, index % 3 == 0) for index in range(16)],
                    failures=[FailedKey(key, 7, "conflict", "another value", "n:1") for key in keys[:30]],
                    pending=[PendingKey(key, 8, "slot 8 is not served") for key in keys[30:]],
                    notes=[FailedKey(key, 7, "field_ttl", "without TTLs", "n:1") for key in keys[:10]],
                    big_positions=[(key, "3 of 9") for key in keys[:5]],
                ),
            )
            journal.tell(name, [HistoryEntry(number, 1.5, 2.5, "notice", f"thing {n}") for n in range(10)])
            journal.end_run(name, number, "interrupted", 1.5, None)
    holding = Holding(100, 1000, 10_000)
    nodes = tuple(PlannedNode(i * 40, f"n:{i}", (i * 40,), 0.5, "0-9", holding, holding) for i in "ab")
    plan = Plan(
        cluster="redis+cluster://n:1",
        created=1.5,
        policy=Policy(),
        fingerprint="print",
        nodes=nodes,
        transfers=(Transfer("a" * 40, "b" * 40, "0-9", 10, 100),),
        remarks=(),
        estimated=False,
    )
    with ReshardJournal(path) as journal:
        journal.begin("moves", plan)
        journal.set_open("moves", dict.fromkeys(range(10), "process"))
        journal.settle("moves", range(5), {7: "left: in use"}, 50, 500)


def contents(path: Path) -> list[object]:
    """Return all that is read of a journal: what a resume goes by, and what is shown."""
    found: list[object] = []
    with Journal.open(path) as journal:
        for record in journal.jobs():
            name = record.name
            found += [journal.job(name), journal.marks(name), journal.runs(name), journal.databases(name)]
            found += [journal.failures(name, 99), journal.pending(name, 99), journal.notes(name, 99)]
            found += [
                sorted(journal.big_positions(name, 0)),
                journal.history(name),
                journal.count_notes(name),
            ]
            found += list(journal.unsettled_keys(name, with_failed=True))
            found += [list(journal.failed_of((name, "none"))), journal.difference_counts((name, "none"))]
    with ReshardJournal(path) as reshards:
        for moves in reshards.jobs():
            found += [moves, reshards.runs(moves.name), reshards.reasons(moves.name)]
            found += [reshards.slots(moves.name, state) for state in ("open", "moved", "left")]
        found += [reshards.open_slots(), reshards.copied_from()]
    return found


def flip(content: bytearray, rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def overwrite(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(content))
    content[start : start + rng.randrange(1, 64)] = rng.randbytes(rng.randrange(1, 64))


def replace_a_digit(content: bytearray, rng: random.Random) -> None:
    """Change a figure that stands as text somewhere: nothing but a checksum notices it."""
    digits = [place for place, byte in enumerate(content) if 0x30 <= byte <= 0x39]
    content[rng.choice(digits)] = rng.choice(b"0123456789")


def blank_a_block(content: bytearray, rng: random.Random) -> None:
    start = rng.randrange(0, len(content), 512)
    content[start : start + 512] = bytes(512)


def swap_pages(content: bytearray, rng: random.Random) -> None:
    one, other = (rng.randrange(0, len(content), 4096) for _ in range(2))
    content[one : one + 4096], content[other : other + 4096] = (
        content[other : other + 4096],
        content[one : one + 4096],
    )


def cut(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


_DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip,
    overwrite,
    replace_a_digit,
    blank_a_block,
    swap_pages,
    cut,
)


def change_a_cell(path: Path, rng: random.Random, *, sealed: bool) -> str:
    """Put junk into a cell, as another program would; without `sealed`, into a file without checksums."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        if not sealed:
            for table in _TABLES:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
            connection.execute("PRAGMA user_version = 2")
        table = rng.choice(_TABLES)
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column, junk = rng.choice(columns), rng.choice(_JUNK)
        key = "rowid" if table in ("jobs", "unsettled", "notes", "story", "reshard_jobs") else None
        where = f"WHERE {key} = (SELECT min({key}) FROM {table})" if key else ""
        try:
            connection.execute(f"UPDATE {table} SET {column} = ? {where}", (junk,))
        except sqlite3.IntegrityError:
            return "refused by SQLite"  # such as two rows of one name
        return f"{table}.{column} = {str(junk)[:20]!r}"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "journal.db"
    fill(path)
    return path


def read_or_refuse(path: Path, what: str) -> list[object] | None:
    """Return what the journal holds, None where it is refused in order."""
    refusal = None
    try:
        return contents(path)
    except JournalError as error:
        refusal = error
    assert (refusal.exit_code, bool(refusal.hint), "\n" in refusal.message) == (4, True, False), what
    return None


def test_a_damaged_file_is_refused_or_reads_as_it_was_written(sound: Path, tmp_path: Path) -> None:
    content, truth = sound.read_bytes(), contents(sound)
    refused = 0
    for seed in range(_CASES):
        rng = random.Random(seed)
        damaged = bytearray(content)
        damage = rng.choice(_DAMAGES)
        damage(damaged, rng)
        path = tmp_path / f"{seed}.db"
        path.write_bytes(damaged)
        found = read_or_refuse(path, f"seed {seed}, {damage.__name__}")
        refused += found is None
        # A cut to nothing is a new journal.
        assert found in (None, truth) or not damaged, f"seed {seed}, {damage.__name__}"
        path.unlink(missing_ok=True)
    assert refused > _CASES // 4


@pytest.mark.parametrize("sealed", [True, False], ids=["with checksums", "of an older version"])
def test_junk_in_a_cell_never_brings_a_traceback(sound: Path, tmp_path: Path, sealed: bool) -> None:
    content, truth = sound.read_bytes(), contents(sound)
    refused = 0
    for seed in range(_CASES // 2 if sealed else _CASES // 4):
        path = tmp_path / f"{seed}.db"
        path.write_bytes(content)
        what = f"seed {seed}: {change_a_cell(path, random.Random(seed), sealed=sealed)}"
        found = read_or_refuse(path, what)
        refused += found is None
        if sealed:
            assert found in (None, truth), what
        path.unlink()
    assert refused > _CASES // 16


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        (
            "UPDATE partitions SET cursor = '7' WHERE job = 'one' AND (db, idx) = (3, 2)",
            "job 'one', db 3, idx 2",
        ),
        ("UPDATE unsettled SET key = x'00' WHERE id = 5", "id 5"),
        ("UPDATE jobs SET scanned = 7 WHERE name = 'one'", "name 'one'"),
    ],
)
def test_the_row_is_named_and_only_its_job_is_refused(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], statement: str, row: str
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)

    assert main(["jobs", "show", "one", "--journal", str(path)]) == 4
    told = capsys.readouterr().err
    table = statement.split()[1]
    assert f"is damaged: in the table {table}, the row {row} has changed since it was written" in told
    assert "--restart" in told
    assert main(["jobs", "show", "two", "--journal", str(path)]) == 0
    # What the hint says helps.
    assert main(["jobs", "discard", "one", "--journal", str(path)]) == 0
    assert main(["jobs", "list", "--journal", str(path)]) == 0


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DELETE FROM partitions WHERE job = 'one'", "the table partitions lacks 20 rows of the job one"),
        ("DELETE FROM partitions WHERE job = 'one' AND (db, idx) = (0, 15)", "partitions lacks 1 rows"),
        ("DELETE FROM unsettled WHERE id = 5", "the table unsettled lacks 1 rows of the job one"),
        ("DROP TABLE partitions", "is damaged or no journal: it has no table partitions"),
        ("DROP TABLE runs", "is damaged or no journal: it has no table runs"),
    ],
)
def test_rows_that_are_gone_are_missed(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], statement: str, told: str
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)

    assert main(["jobs", "show", "one", "--journal", str(path)]) == 4
    assert told in capsys.readouterr().err
    if not statement.startswith("DROP"):
        assert main(["jobs", "show", "two", "--journal", str(path)]) == 0
        assert main(["jobs", "discard", "one", "--journal", str(path)]) == 0
        assert main(["jobs", "list", "--journal", str(path)]) == 0


def enter_a_row(path: Path, table: str) -> None:
    """Give the job `one` a row more in that table, whatever stands in it."""
    samples = {"TEXT": "text", "INTEGER": 77, "REAL": 7.5, "BLOB": b"blob"}
    with Journal.open(path) as journal, journal.transaction() as execute:
        columns = {name: declared for _, name, declared, *_ in execute(f"PRAGMA table_info({table})")}
        values = [
            "one" if name == "job" else samples[declared]
            for name, declared in columns.items()
            if name not in ("id", "checksum")
        ]
        names = ", ".join(name for name in columns if name not in ("id", "checksum"))
        # As most of the tables are written: what is there gives way, and is not counted twice.
        for _ in range(2):
            execute(
                f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", values
            )


@pytest.mark.parametrize("table", COUNTED)
def test_a_row_that_is_gone_is_missed_in_any_table(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str
) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    enter_a_row(path, table)
    assert main(["jobs", "show", "two", "--journal", str(path)]) == 0
    with Journal.open(path) as journal:
        if table not in ("runs", "partition_counts"):  # what stands there now means nothing
            assert journal.job("one") is not None
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        order = " ORDER BY rowid DESC" if table in ("notes", "story", "doubts", "changed_settings") else ""
        key = "rowid" if order or table == "slot_owners" else "job"
        rows = connection.execute(f"SELECT count(*) FROM {table} WHERE job = 'one'").fetchone()[0]
        chosen = f"(SELECT {key} FROM {table} WHERE job = 'one'{order} LIMIT 1)"
        gone = connection.execute(f"DELETE FROM {table} WHERE job = 'one' AND {key} IN {chosen}").rowcount
        assert 0 < gone <= rows

    capsys.readouterr()
    with Journal.open(path) as journal, pytest.raises(JournalError, match=f"{table} lacks {gone} rows"):
        journal.job("one")
    assert main(["jobs", "show", "one", "--journal", str(path)]) == 4
    assert "--restart" in capsys.readouterr().err
    assert main(["jobs", "show", "two", "--journal", str(path)]) == 0
    assert main(["jobs", "discard", "one", "--journal", str(path)]) == 0
    assert main(["jobs", "list", "--journal", str(path)]) == 0


def test_what_counts_rows_is_missed_too(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM row_counts WHERE job = 'one' AND name = 'doubts'")
    with Journal.open(path) as journal:
        with pytest.raises(JournalError, match="row_counts lacks 1 rows of the job one"):
            journal.job("one")
        assert journal.job("two") is not None


def test_a_job_is_shown_without_all_its_keys_being_read(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged key is refused where it is shown, and only there."""
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE unsettled SET message = 'x' WHERE id = 5")
    assert main(["jobs", "show", "one", "--limit", "4", "--journal", str(path)]) == 0
    assert main(["jobs", "show", "one", "--limit", "5", "--json", "--journal", str(path)]) == 4
    assert "in the table unsettled, the row id 5 has changed" in capsys.readouterr().err


def test_a_page_is_made_without_all_keys_being_read(
    sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged key is refused where it is shown, and only there."""
    path, page = tmp_path / "journal.db", tmp_path / "page.html"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE unsettled SET message = 'x' WHERE id = 5")
    command = ["report", "one", "--journal", str(path), "-o", str(page)]
    assert main(command) == 4
    assert "in the table unsettled, the row id 5 has changed" in capsys.readouterr().err
    monkeypatch.setattr("slotferry.report.page.jobs.MOST_KEYS", 4)
    assert main(command) == 0
    assert page.read_text().startswith("<!doctype html>")


def test_a_damaged_reshard_can_be_discarded(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE reshard_jobs SET plan = '{}'")
    assert main(["jobs", "list", "--journal", str(path)]) == 4
    assert main(["jobs", "discard", "moves", "--journal", str(path)]) == 0
    assert main(["jobs", "list", "--journal", str(path)]) == 0


def test_a_setting_of_a_newer_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        journal.create("job", _SETUP, 1, "id")
        settings = json.loads(journal.select("SELECT setup FROM jobs")[0][0])
        journal._connection.execute("UPDATE jobs SET setup = ?", (json.dumps({**settings, "turbo": True}),))
    with Journal.open(path) as journal:
        with pytest.raises(JournalError, match=r"a setting that .* does not know: turbo") as caught:
            journal.job("job")
        assert caught.value.hint.startswith("use the newer Slotferry")
        assert "--restart" in caught.value.hint
        assert journal.forget_damaged("job")
        assert journal.job("job") is None


def test_a_journal_of_the_version_before_is_read_as_it_was(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(sound.read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in _TABLES:
            connection.execute(f"ALTER TABLE {table} DROP COLUMN checksum")
        connection.execute("DROP TABLE row_counts")
        connection.execute("PRAGMA user_version = 2")
    assert contents(path) == contents(sound)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM story WHERE job = 'one' AND id = 1")
    with Journal.open(path) as journal, pytest.raises(JournalError, match="story lacks 1 rows"):
        journal.job("one")
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
        assert connection.execute("SELECT count(*) FROM unsettled WHERE checksum IS NULL").fetchone() == (0,)


def test_differences_and_purposes_of_version_3_are_divided(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    damaged = b"damaged"
    texts = {
        b"other": ("different", "string of 1 bytes <> list"),
        b"broken": ("payload", "string <> string: the values can't be compared, too short"),
        b"refused": ("denied", "the source answered NOPERM <> to EXISTS"),
        damaged: ("different", "string of 1 bytes <> list"),
    }
    with Journal.open(path) as journal:
        journal.create("check", replace(_SETUP, purpose="verify"), 1, "id")
        journal.create("sound", _SETUP, 1, "id")
        for key, (kind, text) in texts.items():
            job = "check" if key == damaged else "sound"
            journal.record(job, Advance(failures=[FailedKey(key, 7, kind, text, "n:1")]))
        note = FailedKey(b"there", 7, "misplaced", "there <> on n:1, slot 7 is of n:2", "n:1")
        journal.record("sound", Advance(notes=[note]))
        journal._connection.execute(
            "UPDATE jobs SET setup = replace(setup, '\"verify\"', '\"verify values, TTL within 1 s\"')"
        )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("unsettled", "notes"):
            for column in ("source", "target"):
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        connection.execute("UPDATE unsettled SET slot = 8 WHERE key = ?", (damaged,))
        connection.execute("PRAGMA user_version = 3")

    with Journal.open(path) as journal:
        sides = {f.key: (f.source, f.target, f.message) for f in journal.failures("sound", 9)}
        assert sides == {
            b"other": ("string of 1 bytes", "list", ""),
            b"broken": ("string", "string: the values can't be compared, too short", ""),
            b"refused": (None, None, "the source answered NOPERM <> to EXISTS"),
        }
        assert journal.notes("sound", 9) == [
            replace(note, message="", source="there", target="on n:1, slot 7 is of n:2")
        ]
        ((setup,),) = journal.select("SELECT setup FROM jobs WHERE name = 'check'")
        assert json.loads(setup)["purpose"] == "verify"
        assert json.loads(setup)["comparison"] == "values, TTL within 1 s"
        # What has changed since it was written is not made good by that.
        with pytest.raises(JournalError, match="has changed since it was written"):
            journal.job("check")
