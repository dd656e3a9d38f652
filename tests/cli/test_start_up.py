"""What a command loads: its own code and no other's, so that none waits for what it does not need."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from slotferry.cli.common.reference import commands, root
from slotferry.reshard.plan.model import Plan, Policy
from tests.cli.conftest import Invoke


def loaded_by(*arguments: str) -> set[str]:
    """Return which modules a command imports, with the packages that they are in."""
    script = "import sys; from slotferry.cli import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [("--help",), ("reshard", "--help"), ("slot", "key")])
def test_what_needs_no_server_loads_nothing_of_one(arguments: tuple[str, ...]) -> None:
    heavy = {"redis", "asyncio", "ssl", "socket", "sqlite3", "tqdm", "dataclasses", "logging", "tomllib"}
    rooms = (
        "api",
        "jobs",
        "migrate",
        "model",
        "net",
        "preflight",
        "report",
        "reshard",
        "testing",
        "topology",
    )
    assert not loaded_by(*arguments) & {*heavy, *(f"slotferry.{room}" for room in rooms)}


@pytest.mark.parametrize("group", ["slotferry", "slotferry jobs", "slotferry reshard"])
def test_help_lists_every_command_whole(invoke: Invoke, group: str) -> None:
    paths = {context.command_path for _, context in commands(*root())}
    listed = invoke(*group.split()[1:], "--help").out.partition("Commands:")[2].partition("Examples:")[0]
    assert "..." not in listed
    shown = {line.split()[0] for line in listed.splitlines() if line[:3].strip()}
    assert shown == {path.rpartition(" ")[2] for path in paths if path.rpartition(" ")[0] == group}


def test_a_run_that_copies_loads_no_more_than_it_needs(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        source, target = f"redis://127.0.0.1:{port}", f"redis+cluster://127.0.0.1:{port}"
        loaded = loaded_by("migrate", source, target, "--journal", str(tmp_path / "journal.db"))
    assert "slotferry.migrate.session" in loaded
    parts = ("migrate.cutover", "migrate.following", "verify", "reshard", "testing", "preflight.application")
    unneeded = {
        "redis",
        "asyncio",
        "ssl",
        "tqdm",
        "tomllib",
        "prometheus_client",
        *(f"slotferry.{part}" for part in parts),
    }
    assert not loaded & unneeded


def test_resharding_needs_no_client_library() -> None:
    script = """
import importlib, pkgutil, sys
import slotferry.cli.reshard, slotferry.reshard
for package in (slotferry.cli.reshard, slotferry.reshard):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(sorted({"redis", "asyncio", "ssl"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_carrying_a_plan_out_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    script = """
import sys
from slotferry.cli import main
main(sys.argv[1:])
ours = ("topology.discovery", "model.events", "jobs.options", "model.report", "model.rules")
print(sorted({"tomllib", "zoneinfo", "tqdm", *(f"slotferry.{name}" for name in ours)} & sys.modules.keys()))
"""
    plan = tmp_path / "plan.json"
    plan.write_text(Plan("redis+cluster://node:1", 0.0, Policy(), "", (), (), (), False).to_json())
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        cluster = f"redis://127.0.0.1:{bound.getsockname()[1]}"
        command = ("reshard", "apply", str(plan), cluster, "--journal", str(tmp_path / "journal.db"))
        done = subprocess.run(
            [sys.executable, "-c", script, *command], capture_output=True, text=True, check=True
        )
    assert "can't be reached" in done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("arguments", "frozen"), [("", True), ("['slot', 'key']", False)])
def test_only_a_process_of_its_own_ends_without_a_search_for_garbage(arguments: str, frozen: bool) -> None:
    script = f"""
import atexit, gc, sys
from slotferry.cli import main
atexit.register(lambda: print(gc.get_freeze_count() > 0))
sys.exit(main({arguments}))
"""
    done = subprocess.run([sys.executable, "-c", script, "slot", "key"], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(frozen))
