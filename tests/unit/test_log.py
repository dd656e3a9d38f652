"""What a run logs: records with fields, one line each, without secrets, and to a file that may be lost."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slotferry.errors import SourceLostError, UsageError
from slotferry.model.counts import Keys, Totals
from slotferry.model.events import CheckpointSaved, EngineNews, Notice, Progress, RunEnded
from slotferry.model.report import Report
from slotferry.redaction import remember_secret
from slotferry.report.log.file import LogFile
from slotferry.report.log.records import EventLog

_PROGRESS = Progress("running", "", Keys(5, 5), 10, 50, None, 1.0, 0, 0, 0, 0, 5)
_LOGGER = logging.getLogger("slotferry")


@contextmanager
def logged(path: Path, style: str = "text", level: int = logging.INFO) -> Iterator[EventLog]:
    file = LogFile(path, style, level)  # type: ignore[arg-type]
    before = _LOGGER.level
    _LOGGER.addHandler(file)
    _LOGGER.setLevel(level)
    try:
        yield EventLog()
    finally:
        _LOGGER.removeHandler(file)
        _LOGGER.setLevel(before)
        file.close()


def test_lines_have_time_zone_and_level(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logged(path) as log:
        log.handle(Notice("something\nover two lines"))
        log.handle(EngineNews("node_lost", "a node is away", "n:1", None))
        log.handle(RunEnded(Report("job", "failed", Totals(), 1.0, 1.0, 1, False, SourceLostError("gone"))))
    lines = path.read_text().splitlines()
    assert [re.sub(r"^\S+ ", "", line) for line in lines] == [
        "INFO something over two lines",
        "WARNING a node is away",
        "ERROR job: failed: gone",
    ]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d([+-]\d\d:\d\d|Z) ", line) for line in lines)


def test_json_has_all_fields(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logged(path, "json") as log:
        log.handle(EngineNews("node_lost", "a node is away", "n:1", 7))
    (line,) = [json.loads(text) for text in path.read_text().splitlines()]
    assert line.items() >= {"level": "warning", "logger": "slotferry", "type": "engine", "slot": 7}.items()
    assert line["text"] == line["message"] == "a node is away"
    assert line["time"].endswith("Z")


def test_what_comes_often_is_logged_now_and_then(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with logged(path) as log:
        for _ in range(50):
            log.handle(_PROGRESS)
            log.handle(CheckpointSaved(Keys(), 1, 2))
    assert len(path.read_text().splitlines()) == 1
    with logged(path, level=logging.DEBUG) as log:  # appended
        log.handle(CheckpointSaved(Keys(), 1, 2))
    assert "DEBUG checkpoint, 0 keys are recorded" in path.read_text()
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("style", ["text", "json"])
def test_secrets_are_in_no_line(tmp_path: Path, style: str) -> None:
    remember_secret("hunter2-Hunter2")
    path = tmp_path / "log"
    with logged(path, style) as log:
        log.handle(Notice("the server said: hunter2-Hunter2 is wrong"))
        _LOGGER.warning("another library said hunter2-Hunter2")
    assert "hunter2" not in path.read_text().lower()
    assert path.read_text().count("***") >= 2


def test_a_program_that_sets_nothing_up_hears_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    EventLog().handle(EngineNews("node_lost", "a node is away", "n:1", None))
    assert capsys.readouterr().err == ""


def test_a_file_that_can_not_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the log can't be written to"):
        LogFile(tmp_path / "nowhere" / "log", "text", logging.INFO)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_ends_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    file = LogFile(Path("/dev/full"), "text", logging.INFO)
    _LOGGER.addHandler(file)
    try:
        _LOGGER.error("something")
    finally:
        _LOGGER.removeHandler(file)
        file.close()
    assert file.lost is not None
    assert "the log is not whole in /dev/full" in file.lost.message
    assert capsys.readouterr().err == ""
