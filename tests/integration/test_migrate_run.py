"""`slotferry migrate run`: named migrations of a file, as a scheduler starts them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.integration.migrating import count_keys


def _window(offset: timedelta, length: timedelta = timedelta(hours=1)) -> str:
    begin = datetime.now(timezone.utc) + offset
    return f"{begin:%H:%M:%S}-{begin + length:%H:%M:%S}"


def _write(folder: Path, text: str) -> str:
    file = folder / "jobs.toml"
    file.write_text(text)
    return str(file)


def _nightly(source: LocalServer, cluster: LocalCluster, more: str) -> str:
    return f"""
        [defaults]
        target = "{cluster.url}"
        on-conflict = "replace"
        tz = "UTC"
        [jobs.nightly]
        source = "{source.url}"
        {more}
    """


@pytest.fixture
def keys(source: LocalServer) -> int:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(500)})
    return 500


def test_a_job_copies_once_in_its_window(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    closed = _write(tmp_path, _nightly(source, cluster, f'window = "{_window(timedelta(hours=2))}"'))
    outside = run("migrate", "run", "--config", closed)
    assert (outside.code, count_keys(cluster)) == (0, 0), outside.stderr
    assert "nightly: nothing to do, the window opens at" in outside.stdout
    assert run("migrate", "run", "--config", closed, "--quiet").stdout == ""

    opened = _write(tmp_path, _nightly(source, cluster, f'window = "{_window(timedelta(minutes=-5))}"'))
    copied = run("migrate", "run", "--config", opened, "nightly", "--json")
    assert copied.code == 0, copied.stderr
    assert (copied.summary["job"], copied.summary["keys"]["migrated"]) == ("nightly", keys)
    assert count_keys(cluster) == keys

    again = run("migrate", "run", "--config", opened, "--json")
    assert again.code == 0, again.stderr
    assert json.loads(again.stdout)["status"] == "not_due"


def test_a_job_that_its_time_ends_is_gone_on_with(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    config = _write(
        tmp_path, _nightly(source, cluster, "max-duration = 1\nmax-keys-per-second = 200\nparallel-scans = 1")
    )

    ended = run("migrate", "run", "--config", config)

    assert ended.code == 75, ended.stderr
    assert "the next run goes on" in ended.stderr
    assert 0 < count_keys(cluster) < keys

    config = _write(tmp_path, _nightly(source, cluster, "parallel-scans = 1"))
    last = run("migrate", "run", "--config", config, "--json")
    assert last.code == 0, last.stderr
    assert last.summary["keys"]["migrated"] == keys
    assert count_keys(cluster) == keys


def test_a_job_that_the_run_before_is_at_work_on_is_left_to_it(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    config = _write(tmp_path, _nightly(source, cluster, "max-keys-per-second = 50\nparallel-scans = 1"))
    with Running("migrate", "run", "--config", config):
        wait_until(lambda: count_keys(cluster) > 0, "the first keys")
        second = run("migrate", "run", "--config", config)
        assert second.code == 75, second.stderr
        assert "nothing was begun" in second.stderr


def test_a_source_that_is_gone_keeps_no_other_job_from_running(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    text = _nightly(source, cluster, "")
    config = _write(tmp_path, f'{text}\n[jobs.gone]\nsource = "redis://127.0.0.1:1"\nretry-for = "1s"\n')

    done = run("migrate", "run", "--config", config, "gone", "nightly")

    assert done.code == 5
    assert "job gone: " in done.stderr
    assert count_keys(cluster) == keys


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("wndow = '01:00-02:00'", "'wndow'.*did you mean 'window'"),
        ("follow = true", "'follow'.*not for a job of a schedule"),
        ("journal = 'x.db'", "'journal'.*give it to the command"),
        ("window = '25:00-26:00'", "job nightly.*window"),
        ("every = 'often'", "job nightly.*'often'"),
        ("on-conflict = 'perhaps'", "job nightly.*perhaps"),
        ("max-keys-per-second = 'fast'", "job nightly.*fast"),
        ("match = {a = 1}", "'match'.*not a text"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_job_begins(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path, more: str, told: str
) -> None:
    text = _nightly(source, cluster, more)
    config = _write(tmp_path, f'[jobs.first]\nsource = "{source.url}"\n{text}')

    done = run("migrate", "run", "--config", config)

    assert done.code == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(told, " ".join(done.stderr.split())), done.stderr
    assert count_keys(cluster) == 0


def test_a_name_that_the_file_lacks_is_told(tmp_path: Path) -> None:
    config = _write(tmp_path, '[jobs.a]\nsource = "redis://127.0.0.1:1"\ntarget = "redis://127.0.0.1:2"\n')

    done = run("migrate", "run", "--config", config, "b")

    assert done.code == 2
    assert "has no job 'b'" in done.stderr
    assert "its jobs are a" in done.stderr


def test_a_key_that_fails_each_time_keeps_no_new_key_from_the_next_copy(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    text = _nightly(source, cluster, 'on-conflict = "error"')
    config = _write(tmp_path, text.replace('        on-conflict = "replace"\n', ""))
    with cluster.client() as client:
        client.set("key:1", "another value")
    first = run("migrate", "run", "--config", config, "--json")
    assert (first.code, first.keys["failed"]) == (3, 1), first.stderr
    with source.client() as client:
        client.set("new", 1)

    second = run("migrate", "run", "--config", config, "--json")

    assert (second.code, second.keys["failed"]) == (3, 1), second.stderr
    assert count_keys(cluster) == keys + 1


def test_variables_of_migrate_neither_rename_a_job_nor_take_its_journal(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path
) -> None:
    config = _write(tmp_path, _nightly(source, cluster, ""))
    journal = tmp_path / "journal.db"
    env = {"SLOTFERRY_JOB": "other", "SLOTFERRY_JOURNAL": str(tmp_path / "other.db")}

    done = run("migrate", "run", "--config", config, "--journal", str(journal), "--json", env=env)

    assert (done.code, done.summary["job"]) == (0, "nightly"), done.stderr
    assert journal.exists()
    assert not (tmp_path / "other.db").exists()


@pytest.mark.parametrize("name", ["FOLLOW", "DRY_RUN", "RESTART"])
def test_a_variable_that_makes_no_sense_for_a_job_is_refused(
    source: LocalServer, cluster: LocalCluster, keys: int, tmp_path: Path, name: str
) -> None:
    config = _write(tmp_path, _nightly(source, cluster, ""))

    done = run("migrate", "run", "--config", config, env={f"SLOTFERRY_{name}": "1"})

    assert done.code == 2, done.stderr
    assert f"SLOTFERRY_{name} is set, which is not for a job of a schedule" in done.stderr
    assert count_keys(cluster) == 0
