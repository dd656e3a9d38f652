"""`slotferry reshard run`: named jobs of a file, as a scheduler starts them."""

from __future__ import annotations

import re
import signal
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, wait_until
from tests.command import Running, run
from tests.reshard.client import open_slots
from tests.reshard.moving import MOVING, assert_clean


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
        ("x", "is not TOML"),
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


def draining(cluster: LocalCluster, window: timedelta, rate: str = "20kB") -> str:
    return f"""
        [jobs.drain]
        cluster = "{cluster.url}"
        tz = "UTC"
        method = "setslot"
        window = "{window_at(window)}"
        drain = ["{cluster.primaries[0].address}"]
        max-bytes-per-second = "{rate}"
    """


_OPEN, _CLOSED = timedelta(minutes=-5), timedelta(hours=2)


def _stopped_while_open(running: Running, cluster: LocalCluster) -> bool:
    """Stop the process where a slot is given up; let it go on where the slot was closed just then."""
    if not any("->-" in slot for slot in open_slots(cluster)):
        return False
    running.send(signal.SIGSTOP)
    # What had been sent before is served by the time of the second look.
    if all(any("->-" in slot for slot in open_slots(cluster)) for _ in range(2)):
        return True
    running.send(signal.SIGCONT)
    return False


def test_a_closed_window_still_closes_what_a_killed_run_left_open(own: LocalCluster, tmp_path: Path) -> None:
    command = ("reshard", "run", "--config", write(tmp_path, draining(own, _OPEN)))
    with Running(*command) as running:
        wait_until(lambda: running.ended or _stopped_while_open(running, own), "a slot to be given up")
        running.kill()
    assert open_slots(own)
    assert "job drain: interrupted" in run("reshard", "status", own.url).stdout
    write(tmp_path, draining(own, _CLOSED))

    done = run(*command)

    assert done.code == 75, done.stderr
    assert "the window is closed" in done.stderr
    assert "which an earlier run left open" in done.stderr
    (moved,) = re.findall(r"^  moved +([0-9,]+)  slots", done.stdout, re.M)
    assert f"{moved} of " in run("reshard", "status", own.url).stdout
    assert open_slots(own) == []
    assert_clean(own)


def test_an_overlap_is_no_failure_and_idleness_is_quiet(own: LocalCluster, tmp_path: Path) -> None:
    metrics = tmp_path / "slotferry.prom"
    command = ("reshard", "run", "--quiet", "--progress", "lines", "--metrics-file", str(metrics), "--config")
    config = write(tmp_path, draining(own, _OPEN))
    with Running(*command, config) as running:
        wait_until(lambda: running.ended or bool(open_slots(own)), "a slot to be open")
        overlapping = run(*command, config)
        assert overlapping.code == 75, overlapping.stderr
        assert overlapping.stdout == ""
        assert "nothing was begun" in overlapping.stderr
        elsewhere = run(*command, config, "--journal", str(tmp_path / "other" / "journal.db"))
        assert elsewhere.code == 75, elsewhere.stderr
        assert "slotferry_info{" in metrics.read_text()
        assert "exit_code{" not in metrics.read_text()
        assert not running.ended
        running.send(signal.SIGHUP)
        ended = running.finish()
    assert ended.code == 143, ended.stderr
    assert "slotferry_command_exit_code 143.0" in metrics.read_text()
    assert open_slots(own) == []
    assert run(*command, write(tmp_path, draining(own, _OPEN, "100MB"))).code == 0
    idle = run(*command, write(tmp_path, f'[jobs.idle]\ncluster = "{own.url}"\nthreshold = "99%"\n'))
    assert (idle.code, idle.stdout, idle.stderr) == (0, "", "")
    assert 'slotferry_exit_code{job_name="idle"} 0.0' in metrics.read_text()
    assert_clean(own, len(MOVING) * 10)
