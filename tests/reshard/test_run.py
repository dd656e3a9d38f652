"""`slotferry reshard run`: named jobs of a file, as a scheduler starts them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slotferry.local import LocalCluster
from tests.command import run
from tests.reshard.moving import assert_clean


def write(folder: Path, text: str) -> str:
    file = folder / "jobs.toml"
    file.write_text(text)
    return str(file)


def window_at(offset: timedelta) -> str:
    begin = datetime.now(timezone.utc) + offset
    return f"{begin:%H:%M:%S}-{begin + timedelta(hours=1):%H:%M:%S}"


def test_a_job_moves_in_its_window_and_then_finds_nothing_to_do(
    own: LocalCluster,
    tmp_path: Path,
) -> None:
    text = f"""
        [defaults]
        cluster = "{own.url}"
        tz = "UTC"
        [jobs.nightly]
        by = "bytes"
        threshold = "5%"
        window = "WINDOW"
        weight = {{ "{own.primaries[0].address}" = 1, "{own.primaries[1].address}" = 2 }}
    """
    closed = run(
        "reshard", "run", "--config", write(tmp_path, text.replace("WINDOW", window_at(timedelta(hours=2))))
    )
    assert closed.code == 0, closed.stderr
    assert "the window is closed" in closed.stdout

    config = write(tmp_path, text.replace("WINDOW", window_at(timedelta(minutes=-5))))
    moved = run("reshard", "run", "--config", config, "nightly", "--json")
    assert moved.code == 0, moved.stderr
    assert (moved.summary["job"], moved.summary["status"]) == ("nightly", "completed")
    assert_clean(own)

    again = run("reshard", "run", "--config", config, "--json")
    assert (again.code, again.summary["status"]) == (0, "balanced")


def test_an_unfinished_plan_is_finished_first(own: LocalCluster, tmp_path: Path) -> None:
    text = f"""
        [jobs.drain]
        cluster = "{own.url}"
        drain = ["{own.primaries[0].address}"]
        max-duration = "LIMIT"
    """
    stopped = run("reshard", "run", "--config", write(tmp_path, text.replace("LIMIT", "1ms")), "--json")
    assert stopped.code == 75, stopped.stderr
    assert stopped.summary["status"] == "work_left"
    done = run("reshard", "run", "--config", write(tmp_path, text.replace("LIMIT", "1h")), "--json")
    assert done.code == 0, done.stderr
    assert done.summary["resumed"]
    assert done.summary["slots"]["moved"] == 5_461


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "is no TOML"),
        ("", "has no jobs"),
        ("[other]\n", "'other' outside of"),
        ("[jobs.a]\nbe = 1", "unknown setting 'be'"),
        ("[jobs.a]\nby = 'bytes'", "names no cluster"),
        ("[jobs.a]\ncluster = 'redis://h'\nby = 'colour'", "nothing to balance by"),
        ("[jobs.a]\ncluster = 'redis://h'\nwindow = '1-2'", "the window '1-2'"),
        ("[jobs.a]\ncluster = 'redis://h'\ntz = 'Nowhere'", "no time zone 'Nowhere'"),
        ("[jobs.a]\ncluster = 'redis://h'\nmax-duration = 'long'", "makes no sense"),
        ("[jobs.a]\ncluster = 'redis://h'\nweight = 2", "makes no sense"),
        ("[jobs.a]\ncluster = 'redis://h'\nmax-moves = 'x'", "makes no sense"),
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, text: str, message: str) -> None:
    refused = run("reshard", "run", "--config", write(tmp_path, text))
    assert refused.code == 2, refused.stdout
    assert message in refused.stderr


def test_a_job_that_is_not_there(tmp_path: Path) -> None:
    refused = run("reshard", "run", "--config", write(tmp_path, "[jobs.a]\ncluster = 'redis://h:1'"), "b")
    assert refused.code == 2
    assert "has no job 'b'" in refused.stderr
