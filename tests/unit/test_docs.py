"""The documentation names what there is: pages, options, exit codes, kinds of errors, sections, messages.

Invariant: nothing here repeats what the code says; each test compares the pages with the code itself.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import slotferry.errors
from slotferry.cli.common.reference import commands, root
from slotferry.errors import ExitCode, SlotferryError
from slotferry.jobs.engine_errors import ENGINE_ERRORS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

_ROOT = Path(__file__).parents[2]
_DOCS = _ROOT / "docs"
_PAGES = sorted(path for path in _DOCS.glob("*.md") if path.name != "commands.md")
_TEXTS = [*_PAGES, *(path for path in sorted(_ROOT.glob("*.md")) if path.name != "CHANGELOG.md")]

# Options of other programs that the pages show.
_OTHERS = {
    *("--all-targets", "--cluster", "--cluster-pipeline", "--fault-seed", "--fuzz-dir", "--locked", "--long"),
    *("--manifest-path", "--rdb", "--release", "--scan", "--workspace", "--durations"),
}


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def test_every_page_is_in_the_navigation() -> None:
    site = tomllib.loads((_ROOT / "zensical.toml").read_text())["project"]
    assert sorted(_leaves(site["nav"])) == sorted([*(path.name for path in _PAGES), "commands.md"])


def _leaves(nav: list[dict[str, object]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            if isinstance(target, str):
                yield target
            else:
                assert isinstance(target, list)
                yield from _leaves(target)


def test_the_index_leads_to_every_page() -> None:
    index = (_DOCS / "index.md").read_text()
    missing = [path.name for path in _PAGES if path.name != "index.md" and f"({path.name})" not in index]
    assert missing == []


@pytest.mark.parametrize("path", [path for path in _TEXTS if path.parent == _ROOT], ids=_name)
def test_links_of_pages_outside_of_the_site_lead_to_files(path: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (_ROOT / link).exists()] == []


@pytest.mark.parametrize("path", _TEXTS, ids=_name)
def test_files_that_are_named_exist(path: Path) -> None:
    named = set(re.findall(r"`((?:python|rust|tests|docs)/[^`\s]*)`", path.read_text()))
    assert sorted(name for name in named if not (_ROOT / name).exists()) == []


@pytest.mark.parametrize("path", _TEXTS, ids=_name)
def test_examples_in_python_import_what_there_is(path: Path) -> None:
    for example in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S):
        for statement in ast.parse(example).body:
            if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("slotferry"):
                module = importlib.import_module(statement.module or "")
                assert [name.name for name in statement.names if not hasattr(module, name.name)] == []


def test_the_readme_is_a_tour_and_no_manual() -> None:
    assert len((_ROOT / "README.md").read_text().splitlines()) <= 200


@cache
def _options() -> frozenset[str]:
    return frozenset(
        option
        for command, _ in commands(*root())
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in (*parameter.opts, *parameter.secondary_opts)
    )


@pytest.mark.parametrize("path", _TEXTS, ids=_name)
def test_every_option_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b(?!-)", path.read_text()))
    assert named - _options() - _OTHERS - {"--help", "--version"} == set()


def test_every_exit_code_is_explained() -> None:
    table = (_DOCS / "output.md").read_text()
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, re.M) for code in row.split(",")}
    assert codes == {int(code) for code in ExitCode}


def test_every_kind_of_error_is_explained() -> None:
    page = (_DOCS / "output.md").read_text()
    kinds = {
        *(error.kind for error in vars(slotferry.errors).values() if _is_error(error)),
        *(kind.value for kind in ENGINE_ERRORS),
    }
    assert sorted(kind for kind in kinds if f"| `{kind}` |" not in page) == []


def _is_error(candidate: object) -> bool:
    return isinstance(candidate, type) and issubclass(candidate, SlotferryError)


def test_sections_that_modules_cite_exist() -> None:
    headings = set(re.findall(r"^## (.+)$", (_DOCS / "protocol.md").read_text(), re.M))
    cited = {
        section
        for path in _sources()
        for section in re.findall(r"docs/protocol\.md, ([A-Z][\w ]*?)[).;]", path.read_text())
    }
    assert cited
    assert cited <= headings


def _sources() -> list[Path]:
    return [*(_ROOT / "python").rglob("*.py"), *(_ROOT / "rust").glob("*/src/**/*.rs")]


def test_messages_that_are_explained_exist() -> None:
    page = (_DOCS / "troubleshooting.md").read_text()
    explained = re.findall(r"^### `(.+)`$", page, re.M)
    assert explained
    known = "\n".join(_messages())
    assert [message for message in explained if _normal(message) not in known] == []


def _messages() -> Iterator[str]:
    """Yield the texts of the code, with … for what is filled in."""
    for path in _sources():
        text = path.read_text()
        if path.suffix == ".rs":
            for literal in re.findall(r'"((?:[^"\\]|\\.)*)"', text, re.S):
                yield _normal(re.sub(r"\{[^}]*\}", "…", re.sub(r"\\\n\s*", "", literal)))
        else:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.JoinedStr):
                    parts = [
                        str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values
                    ]
                    yield _normal("".join(parts))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield _normal(node.value)


def _normal(message: str) -> str:
    return re.sub("…+", "…", message)
