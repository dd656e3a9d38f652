"""`--help`: what is asked for most stands on the first screen, and no option is left out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click
import pytest

from slotferry.cli.common.help_groups import headings
from slotferry.cli.common.man_pages import write_man_pages
from slotferry.cli.common.reference import commands, root
from tests.cli.conftest import Invoke

_SCREEN = 40  # lines of a terminal

# What people want of a migration, and the option that does it.
_TASKS = {
    "see what would be done, and write nothing": "--dry-run",
    "move while the application goes on writing": "--follow",
    "prove that both sides are the same": "--verify",
    "overwrite what the target has": "--on-conflict",
    "copy some keys only": "--match",
    "copy another database": "--db",
    "copy all databases": "--all-dbs",
    "call the keys something else": "--rewrite",
    "spare the source": "--max-keys-per-second",
    "begin anew": "--restart",
    "read the outcome in a script": "--json",
    "show the outcome to others": "--html",
}


_COMMANDS = {
    context.command_path: (command, context)
    for command, context in commands(*root())
    if not isinstance(command, click.Group)
}


@pytest.mark.parametrize("option", _TASKS.values(), ids=_TASKS)
def test_the_first_screen_has_what_people_want(
    invoke: Invoke, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")

    screen = invoke("migrate", "--help").out.splitlines()[:_SCREEN]

    assert any(line.startswith(f"  {option} ") for line in screen), "\n".join(screen)


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_option_is_listed_once_under_a_heading(name: str) -> None:
    command, context = _COMMANDS[name]
    options = [one for one in command.get_params(context) if isinstance(one, click.Option)]

    listed = [option for _, below in headings(options) for option in below]

    assert sorted(map(id, listed)) == sorted(map(id, options))
    assert "Other options" not in dict(headings(options))


def test_the_commands_stand_in_the_order_in_which_they_are_used(invoke: Invoke) -> None:
    commands = invoke("--help").out.partition("Commands:")[2].split("\n  ")

    names = [line.split()[0] for line in commands if line.strip()]

    assert names[:5] == ["check", "migrate", "migrate", "cutover", "verify"]  # one of them is 'migrate run'


def test_every_command_has_a_man_page_with_all_of_its_help(tmp_path: Path) -> None:
    pages = {path.stem: path.read_text() for path in write_man_pages(tmp_path / "man1")}

    assert pages.keys() == {context.command_path.replace(" ", "-") for _, context in commands(*root())}
    pages = {name: page.replace("\\-", "-") for name, page in pages.items()}
    for path, (command, _) in _COMMANDS.items():
        options = [option for one in command.params for option in one.opts if option.startswith("--")]
        assert [option for option in options if option not in pages[path.replace(" ", "-")]] == []
    assert "slotferry migrate dump.rdb redis+cluster://new1:7000" in pages["slotferry-migrate"]


@pytest.mark.skipif(shutil.which("man") is None, reason="this machine has no man")
def test_the_formatter_has_nothing_to_say_of_the_pages(tmp_path: Path) -> None:
    for path in write_man_pages(tmp_path):
        shown = subprocess.run(["man", "--warnings", "-l", path], capture_output=True, text=True, check=True)
        assert shown.stderr == ""
        assert "DESCRIPTION" in shown.stdout
