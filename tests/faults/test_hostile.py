"""A hostile server answers each command of each phase with a fuzzed reply: no crash, hang or false success.

`--long` runs 10,000 seeds, some minutes for each thousand; `--fault-seed N` one of them again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.faults.hostile import command_name, run_case
from tests.faults.hostile_bed import Bed
from tests.faults.hostile_cases import KINDS, Case, Kind, case_of
from tests.servers.kinds import on_path_or_embedded

_SEEDS, _LONG_SEEDS, _SLICE = 100, 10_000, 25


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with ExitStack() as stack:
        yield Bed(stack, on_path_or_embedded(), tmp_path_factory.mktemp("hostile"))


def _slices() -> list[range]:
    return [range(at, at + _SLICE) for at in range(0, _LONG_SEEDS, _SLICE)]


@pytest.mark.parametrize(
    "seeds",
    [
        pytest.param(
            seeds, marks=[pytest.mark.long] if seeds.start >= _SEEDS else [], id=f"from-{seeds.start}"
        )
        for seeds in _slices()
    ],
)
def test_a_hostile_server(bed: Bed, seeds: range, request: pytest.FixtureRequest) -> None:
    again = request.config.getoption("--fault-seed")
    if again is not None:
        if seeds.start:
            pytest.skip("one seed is run, with the first ones")
        seeds = range(again, again + 1)
    verdicts = [run_case(bed, case_of(seed)) for seed in seeds]
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    assert not wrong, f"run them again with --fault-seed:\n{os.linesep.join(map(str, wrong))}"
    assert again is not None or sum(verdict.met for verdict in verdicts) > len(seeds) / 2


_BY_NAME = {kind.name: kind for kind in KINDS}
_FOUND = {
    "INFO is a number": Case(119, _BY_NAME["apply"], "target", "CLIENT SETNAME", 3, 5, "wrong length", False),
    "a reply too many loses a slot's keys": Case(
        1856, _BY_NAME["apply"], "target", "MEMORY USAGE", 9, 1, "extra", False
    ),
    "replies too many mix values up": Case(
        1987, _BY_NAME["apply"], "target", "MEMORY USAGE", 5, 5, "extra", False
    ),
    "a source that does not close a slot": Case(
        7019, _BY_NAME["apply"], "target", "CLUSTER SETSLOT", 11, 5, "redirect", True
    ),
    "a read that is answered BUSYKEY": Case(
        9922, _BY_NAME["verify repairs"], "target", "PEXPIRETIME", 6, 1_000_000, "error", True
    ),
    "a slot that is said to be empty": Case(
        8257, _BY_NAME["apply"], "target", "CLUSTER COUNTKEYSINSLOT", 16, 1, "odd", False
    ),
    "more members than there are to copy": Case(
        620, _BY_NAME["migrate chunked"], "target", "ZCARD", 1, 1_000_000, "text", True
    ),
    "a transaction with one command fewer": Case(
        3193, _BY_NAME["migrate chunked"], "target", "RENAMENX", 5, 1, "odd", True
    ),
    "a value that stops in the middle": Case(
        3628, _BY_NAME["verify repairs"], "source", "GETRANGE", 1, 1, "wrong length", False
    ),
    "a login that nobody answers": Case(
        4892, _BY_NAME["verify repairs"], "target", "CLUSTER SLOTS", 12, 5, "missing", False
    ),
}
"""What seeds have found, kept though the tables may change."""


@pytest.mark.parametrize("case", _FOUND.values(), ids=_FOUND)
def test_what_was_found(bed: Bed, case: Case) -> None:
    verdict = run_case(bed, case)
    assert not verdict.wrong, str(verdict)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_every_command_is_fuzzed(bed: Bed, kind: Kind) -> None:
    """What an honest run sends stands in the tables, and the run succeeds by the fuzz's own judgement."""
    honest = Case(0, kind, "target", "NOTHING", 1, 0, "odd", False)
    sent: dict[str, set[str]] = {"source": set(), "target": set()}

    def listen() -> None:
        bed.source.forge = lambda arguments: sent["source"].add(command_name(arguments))
        for forger in bed.nodes:
            forger.forge = lambda arguments: sent["target"].add(command_name(arguments))

    verdict = run_case(bed, honest, listen)
    assert verdict.wrong == []
    left = {"verify unlike", "migrate compares", "status"}
    assert verdict.ended.code == (3 if kind.name in left else 0), str(verdict)
    assert sent["source"] - kind.source.keys() == set()
    assert sent["target"] - kind.target.keys() == set()
