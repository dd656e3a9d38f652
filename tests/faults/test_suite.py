"""The fault suite: each fault against a migration under way, with a writer at the source, and one end check.

`pytest tests/faults` runs a short set; with `--long` all of them, on more keys. `--fault-seed N` repeats a
run: the seed is printed with the counts, a line a fault (`-rP` shows them all).
"""

from __future__ import annotations

import contextlib
import random
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis.crc import key_slot

from slotferry.testing.servers import LocalSentinelService, LocalServer, wait_until
from tests.faults.bed import Bed
from tests.faults.ending import check_ending
from tests.faults.suite_faults import FAULTS, Fault, fail_over, node_id, redis_cli
from tests.servers.kinds import ServerKind, available, on_path_or_embedded

_SHORT_KEYS, _LONG_KEYS = 12_000, 60_000


@pytest.mark.parametrize(
    "fault",
    [pytest.param(fault, id=fault.name, marks=() if fault.short else pytest.mark.long) for fault in FAULTS],
)
def test_fault(fault: Fault, request: pytest.FixtureRequest, stack: ExitStack, tmp_path: Path) -> None:
    kind = _kind(fault)
    seed = _seed(request)
    keys = _LONG_KEYS if request.config.getoption("--long") else _SHORT_KEYS
    print(f"fault={fault.name} seed={seed} server={kind.name}")  # first, in case that it never ends
    bed = Bed(
        *(stack, tmp_path, kind, seed),
        keys=keys,
        replicas=fault.replicas,
        config=fault.config,
        source_config=fault.source_config,
    )
    bed.arguments += fault.arguments
    _run(bed, fault, seed)


def test_source_failover_by_sentinel(
    request: pytest.FixtureRequest, stack: ExitStack, tmp_path: Path
) -> None:
    def source_failover_by_sentinel(bed: Bed) -> None:
        bed.start(bed.rng.uniform(0.1, 0.6))
        _fail_over_source(bed, service)

    seed = _seed(request)
    bed, service = _bed_behind_sentinel(request, stack, tmp_path, seed)
    _run(bed, Fault(source_failover_by_sentinel, reloads=True), seed)


@pytest.mark.long
def test_the_whole_story(request: pytest.FixtureRequest, stack: ExitStack, tmp_path: Path) -> None:
    """From a Sentinel pair into a cluster with replicas, with all that an operator can meet on one day."""

    def the_whole_story(bed: Bed) -> None:
        running = bed.start(0.1, seconds=90)
        _fail_over_source(bed, service)
        bed.wait_for(0.1)
        fail_over(bed, 1)
        here, there = bed.cluster.primaries[0], bed.cluster.primaries[2]
        redis_cli(
            *(
                "--cluster",
                "reshard",
                here.address,
                "--cluster-from",
                node_id(here),
                "--cluster-to",
                node_id(there),
            ),
            *("--cluster-slots", "300", "--cluster-yes"),
        )
        running.kill()
        bed.running = None
        bed.codes.append(-9)

    seed = _seed(request)
    bed, service = _bed_behind_sentinel(request, stack, tmp_path, seed, replicas=1)
    bed.arguments += ["--wait-replicas", "1"]
    _run(bed, Fault(the_whole_story, reloads=True, codes=(-9,)), seed)


def _bed_behind_sentinel(
    request: pytest.FixtureRequest, stack: ExitStack, folder: Path, seed: int, replicas: int = 0
) -> tuple[Bed, LocalSentinelService]:
    kind = on_path_or_embedded()
    keys = _LONG_KEYS if request.config.getoption("--long") else _SHORT_KEYS
    service = stack.enter_context(LocalSentinelService(kind.binary, replicas=1))
    bed = Bed(stack, folder, kind, seed, keys=keys, replicas=replicas, source=service.primary)
    bed.source_url = service.url
    return bed, service


def _fail_over_source(bed: Bed, service: LocalSentinelService) -> None:
    """Kill the source when its replica has what was written; the writer's own last words are not compared."""
    with bed.source.client() as client:
        wait_until(lambda: client.wait(1, 1_000) >= 1, "the replica to have what was written")
    bed.source = service.fail_over()


def _run(bed: Bed, fault: Fault, seed: int) -> None:
    if fault.reloads:
        # A server that replays commands forgets how far a stream's groups have read (Redis 7.0): what was
        # copied before then differs, and `error` would rightly call it a conflict.
        bed.on_conflict = "replace"
    with bed.writer if bed.on_conflict == "replace" else contextlib.nullcontext():
        fault.act(bed)
        summary = bed.complete()
    bed.stop_meddling()
    assert {*bed.codes[:-1]} <= {*fault.codes}, bed.codes
    ignored = bed.writer.touched | _streams(bed.source, fault.moved_by_servers)
    comparison = check_ending(bed.source, bed.cluster, summary, ignored, byte_equal=not fault.reloads)
    figures = {
        **summary["keys"],
        **summary["redirects"],
        "retries": summary["retries"],
        "runs": len(bed.codes),
        "compared": comparison.keys,
        "touched": len(bed.writer.touched),
    }
    counts = " ".join(f"{figure}={count}" for figure, count in figures.items())
    about = f"fault={fault.name} seed={seed} server={bed.kind.name} on_conflict={bed.on_conflict}"
    print(f"{about} {counts} lost=0")


def _streams(source: LocalServer, slots: int) -> set[bytes]:
    """Return the streams in the first `slots` slots."""
    with source.client() as client:
        names = client.scan_iter(count=10_000, _type="stream") if slots else ()
        return {name for name in names if key_slot(name) < slots}


def _kind(fault: Fault) -> ServerKind:
    if not fault.valkey:
        return on_path_or_embedded()
    kind = available().get("valkey-9.1")
    if kind is None:
        pytest.skip("this machine has no valkey-9.1")
    return kind


def _seed(request: pytest.FixtureRequest) -> int:
    given = request.config.getoption("--fault-seed")
    return random.SystemRandom().randrange(1_000_000) if given is None else int(given)
