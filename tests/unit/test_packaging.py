"""The image and wheels are made of what there is; linters check their syntax (`make lint-packaging`)."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_ROOT = Path(__file__).parents[2]
_IMAGE = (_ROOT / "Containerfile").read_text()
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]


def _copied() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", _IMAGE, re.M)
    return [name for line in lines for name in line.split()[:-1]]


def test_the_image_is_built_of_files_that_there_are() -> None:
    assert [name for name in _copied() if not (_ROOT / name).exists()] == []


def test_nothing_that_the_image_needs_is_kept_from_it() -> None:
    let_in = {line[1:] for line in (_ROOT / ".containerignore").read_text().splitlines() if line[:1] == "!"}
    assert let_in == set(_copied())
    needed = {_PROJECT["readme"], *_PROJECT["license-files"], "pyproject.toml", "Cargo.lock"}
    assert needed <= let_in


def test_the_image_has_extras_that_there_are() -> None:
    (extras,) = re.findall(r"\.whl\)\[([a-z,]+)\]", _IMAGE)
    assert set(extras.split(",")) <= _PROJECT["optional-dependencies"].keys()


def test_the_image_is_built_by_the_oldest_rust_that_is_promised() -> None:
    workspace = tomllib.loads((_ROOT / "Cargo.toml").read_text())["workspace"]
    assert f"rust:{workspace['package']['rust-version']}-" in _IMAGE


def test_the_image_runs_as_a_user_without_rights() -> None:
    (user,) = re.findall(r"^USER (\d+)$", _IMAGE, re.M)
    assert int(user) > 0
    assert f"--uid {user} " in _IMAGE
