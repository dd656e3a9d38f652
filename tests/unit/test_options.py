"""Options: an object that exists is valid, and its text shows no password."""

from pathlib import Path
from typing import Any

import pytest

from slotferry.errors import UsageError
from slotferry.jobs.names import default_journal_path
from slotferry.jobs.options import Options


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("on_conflict", "merge"),
        ("memory_limit", 1000),
        ("retry_for", -1.0),
        ("retry_for", float("nan")),
        ("retry_for", float("inf")),
        ("parallel_scans", 0),
        ("parallel_scans", 3),
        ("parallel_scans", 2048),
        ("max_keys_per_second", 0),
        ("max_bytes_per_second", -1),
        ("pause_above_latency", 0.0),
        ("wait_replicas", -1),
        ("wait_timeout", 0.0),
        ("wait_timeout", 30_000.0),
        ("pause_above_latency", float("nan")),
        ("job", ""),
        ("job", "../escape"),
        ("job", ".hidden"),
        ("job", "-dash"),
        ("job", "a" * 101),
        ("type", "no type"),
    ],
)
def test_a_wrong_value_is_refused_by_name(field: str, value: Any) -> None:
    arguments: dict[str, Any] = {field: value}
    with pytest.raises(UsageError, match=field if field != "job" else "name of a job"):
        Options(**arguments)


def test_passwords_do_not_show() -> None:
    text = repr(Options(source_password="hunter2", target_password="hunter3", job="nightly"))
    assert "hunter" not in text
    assert "nightly" in text


def test_match_is_bytes_whatever_it_was_given_as() -> None:
    assert Options(match="ä*").selection.scan_match == "ä*".encode()
    assert Options(match=b"\xff*").selection.scan_match == b"\xff*"
    assert Options(match="\udcff*").selection.scan_match == b"\xff*"  # as Python decodes such an argument
    assert Options().selection.scan_match is None
    assert Options(match=["a*", "b*"]).selection.scan_match is None  # SCAN takes one


def test_the_journal_lives_in_the_state_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_journal_path() == Path("/state/slotferry/journal.db")
    monkeypatch.setenv("XDG_STATE_HOME", "relative is ignored")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_journal_path() == Path("/home/somebody/.local/state/slotferry/journal.db")
    assert Options(journal="here.db").journal_path == Path("here.db")
