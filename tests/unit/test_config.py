"""The config file: what it may hold, and how it says what it may not."""

from pathlib import Path

import pytest

from slotferry.cli.config import load_config
from slotferry.errors import UsageError

KNOWN = {"source", "target", "on_conflict", "memory_limit", "dry_run", "rewrite"}


def load(tmp_path: Path, content: str | bytes) -> dict[str, object]:
    file = tmp_path / "config.toml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config(file, KNOWN, {"rewrite"})


def test_keys_are_option_names_with_dashes_or_underscores(tmp_path: Path) -> None:
    content = (
        '[migrate]\nsource = "redis://h"\non-conflict = "skip"\nmemory_limit = 9000000\ndry-run = true\n'
    )
    assert load(tmp_path, content) == {
        "source": "redis://h",
        "on_conflict": "skip",
        "memory_limit": 9_000_000,
        "dry_run": True,
    }


def test_an_option_that_may_be_repeated_holds_one_value_or_several(tmp_path: Path) -> None:
    assert load(tmp_path, "[migrate]\nrewrite = 'a => b'") == {"rewrite": ["a => b"]}
    assert load(tmp_path, "[migrate]\nrewrite = ['a => b', 'c => d']") == {"rewrite": ["a => b", "c => d"]}


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "") == {}


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        ('[migrate]\non-conflit = "skip"', "unknown option 'on-conflit'", "did you mean 'on-conflict'?"),
        ("[migrate]\nxyz = 1", "unknown option 'xyz'", "known are dry-run, memory-limit"),
        ('on-conflict = "skip"', r"'on-conflict' outside of \[migrate\]", "table"),
        ("[jobs]\nx = 1", r"'jobs' outside of \[migrate\]", "table"),
        ("migrate = 3", "is not a table", "migrate"),
        ("[migrate]\nsource = [1]", "'source' .* not a text, number or truth value", "one value"),
        ('[migrate]\non-conflict = "a"\non_conflict = "b"', "'on_conflict' twice", "leave one"),
        ("[migrate", "is not TOML", "place"),
        (b"\xff\xfe", "is not TOML", "place"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: str | bytes, says: str, hint: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load(tmp_path, content)
    assert hint in caught.value.hint


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read: No such file"):
        load_config(tmp_path / "none.toml", KNOWN)
