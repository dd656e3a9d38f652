"""The judgement of a survey: each fault of a target or a pair of servers in a row of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from slotferry.errors import SourceNotReadyError, TargetNotReadyError, UsageError
from slotferry.jobs.options import Options
from slotferry.model.checks import CHECKS, check_skips
from slotferry.net.cluster_nodes import ClusterNode, cluster_nodes
from slotferry.net.replies import MalformedReplyError
from slotferry.preflight import apply_skips, judge_survey
from slotferry.preflight.compatibility import rdb_version, takes_rdb
from slotferry.preflight.fitness import expected_bytes, tag_might_overflow
from slotferry.preflight.report import CheckReport
from slotferry.preflight.rows import Row
from slotferry.preflight.survey import Clock, ServerView, Survey
from slotferry.topology.discovery import Topology
from slotferry.topology.product import Product

GB = 1 << 30
NODES = (
    ClusterNode("a", "new", 1, frozenset({"myself", "master"}), None, slots=frozenset(range(4096))),
    ClusterNode("b", "new", 2, frozenset({"master"}), None, slots=frozenset(range(12288))),
    ClusterNode("c", "new", 3, frozenset({"master"}), None, slots=frozenset({0})),
    *(ClusterNode(f"r-{p}", "new", number, frozenset({"slave"}), p) for number, p in enumerate("abc", 10)),
)
SOURCE = ServerView(
    "old:6379",
    Product("redis", "7.0.15"),
    {"used_memory": "9000000", "used_memory_startup": "1000000", "db0": "keys=75,expires=0,avg_ttl=0",
     "db3": "keys=25,expires=0,avg_ttl=0"},
    clock=Clock(0.0, 0.001),
)  # fmt: skip
ONE = ServerView(
    "new:1",
    Product("redis", "7.0.15"),
    {"maxmemory_policy": "noeviction"},
    clock=Clock(0.0, 0.001),
    nodes=NODES,
)
TWO = replace(ONE, node="new:2", nodes=tuple(replace(n, flags=n.flags - {"myself"}) for n in NODES))
SURVEY = Survey(
    replace(SOURCE, info={**SOURCE.info, "db3": "keys=0"}),
    (ONE, TWO),
    Topology(((0, 4095, "new", 1), (4096, 16383, "new", 2))),
    source_keys=75,
)


def with_info(view: ServerView, **fields: object) -> ServerView:
    return replace(view, info={**view.info, **{name: str(value) for name, value in fields.items()}})


def _failed(node: ClusterNode) -> ClusterNode:
    return replace(node, flags=node.flags | {"fail"})


def _row(survey: Survey, name: str) -> Row:
    (row,) = [row for row in judge_survey(survey) if row.name == name]
    return row


def test_a_fit_pair_has_nothing_but_ok_rows() -> None:
    rows = judge_survey(SURVEY)

    assert {row.status for row in rows} == {"ok"}, rows
    assert all(row.message and not row.advice for row in rows)


@pytest.mark.parametrize(
    ("survey", "name", "status", "says"),
    [
        (replace(SURVEY, source=replace(SOURCE, clock=None)), "clocks", "warning", "not checked"),
        (
            replace(SURVEY, primaries=(ONE, replace(TWO, clock=Clock(-90.0, 0.001)))),
            "clocks",
            "warning",
            "new:2 is 1m30s behind the source's: keys live longer",
        ),
        (
            replace(SURVEY, primaries=(ONE, replace(TWO, clock=Clock(30.0, 0.001)))),
            "clocks",
            "warning",
            "new:2 is 30s ahead of the source's: keys expire too early",
        ),
        (
            replace(SURVEY, primaries=(ONE, replace(TWO, clock=Clock(172_800.0, 0.001)))),
            "clocks",
            "error",
            "new:2 is 48h00m ahead of the source's: keys expire too early",
        ),
        (
            replace(SURVEY, primaries=(replace(ONE, denied=("RESTORE", "ASKING")), TWO)),
            "target-rights",
            "error",
            "may not run RESTORE, ASKING at new:1",
        ),
        (
            replace(
                SURVEY,
                primaries=(replace(ONE, nodes=(replace(NODES[0], migrating={7: "b"}), *NODES[1:])), TWO),
            ),
            "open-slots",
            "warning",
            "7->-b at new:1",
        ),
        (
            replace(
                SURVEY,
                primaries=(
                    replace(ONE, nodes=(NODES[0], *(_failed(n) for n in NODES[1:]))),
                ),
            ),
            "majority",
            "error",
            "only 1 of 3",
        ),
        (
            replace(SURVEY, primaries=(replace(ONE, nodes=NODES[:5]), TWO)),
            "replicas",
            "warning",
            "1 of 3 primaries have no live replica: new:3",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, db0="keys=1200,expires=0"))),
            "existing-keys",
            "warning",
            "1,200 at new:2",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=5_000_000, used_memory=1_000_000,
                                                       used_memory_startup=1_000_000))),
            "memory",
            "error",
            "new:2 expects 6.0 MB and has room for 4.0 MB",
        ),
        (
            # 6 MB may take 5.5 MB there: too near to refuse.
            replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=6_500_000, used_memory=1_000_000,
                                                       used_memory_startup=1_000_000))),
            "memory",
            "warning",
            "may overflow (by slot share), unless the keys they hold are the same, or take less there",
        ),
        (
            replace(SURVEY, filtered=True,
                    primaries=(ONE, with_info(TWO, maxmemory=2_000_000, used_memory=1_000_000))),
            "memory",
            "warning",
            "unless the filters leave enough out",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, min_slaves_good_slaves=0))),
            "replicas",
            "error",
            "new:2 refuses writes (NOREPLICAS)",
        ),
        (
            # Of the 7 MB, 5 are data that may be the very keys: a resume is not refused.
            replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=10_000_000, used_memory=7_000_000,
                                                       used_memory_startup=2_000_000, db0="keys=9"))),
            "memory",
            "warning",
            "new:2 expects 6.0 MB and has room for 3.0 MB",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, total_system_memory=4_000_000))),
            "memory",
            "ok",  # new:1 is on the same host and does not say
            "there is room",
        ),
        (
            replace(SURVEY, primaries=(with_info(ONE, total_system_memory=4_000_000), TWO)),
            "memory",
            "warning",
            "new has 4.0 MB of memory for primaries that will need about 8.0 MB",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=GB, maxmemory_policy="volatile-ttl"))),
            "eviction",
            "warning",
            "volatile-ttl at new:2",
        ),
        (
            replace(SURVEY, source=with_info(SURVEY.source, rdb_bgsave_in_progress=1)),
            "persistence",
            "warning",
            "under way at old:6379",
        ),
        (
            replace(SURVEY, primaries=(ONE, with_info(TWO, rdb_last_bgsave_status="err"))),
            "persistence",
            "warning",
            "failed at new:2",
        ),
        (
            replace(SURVEY, primaries=(replace(ONE, product=Product("redis", "6.2.14")), TWO)),
            "versions",
            "warning",
            "different versions: Redis 6.2.14, Redis 7.0.15",
        ),
        (
            replace(SURVEY, source=replace(SURVEY.source, product=Product("redis", "8.0.2"))),
            "versions",
            "ok",
            "writes RDB version 12, which Redis 7.0.15 does not take: payloads are translated",
        ),
        (
            replace(SURVEY, source=replace(SURVEY.source, modules=frozenset({"bf"}))),
            "modules",
            "warning",
            "missing at new:1, new:2: bf",
        ),
        (
            replace(SURVEY, source=with_info(SURVEY.source, number_of_libraries=2)),
            "functions",
            "ok",
            "2 function libraries",
        ),
        (replace(SURVEY, source=SOURCE), "databases", "warning", "3 (25 keys)"),
    ],
)  # fmt: skip
def test_faults(survey: Survey, name: str, status: str, says: str) -> None:
    row = _row(survey, name)

    assert row.status == status, row
    assert says in row.message
    assert row.advice or status == "ok"


def test_a_sample_is_worth_it_only_where_one_tag_could_fill_a_primary() -> None:
    def with_room(limit: int) -> Survey:
        return replace(SURVEY, primaries=(ONE, with_info(TWO, maxmemory=limit, used_memory=1_000_000)))

    assert not tag_might_overflow(SURVEY)
    assert not tag_might_overflow(with_room(9_500_000))
    assert tag_might_overflow(with_room(8_500_000))


def test_expected_memory_follows_the_slots_and_the_database() -> None:
    survey = replace(SURVEY, source=SOURCE)

    # 8 MB of data, three quarters of the keys in database 0, a quarter of the slots at new:1.
    assert expected_bytes(survey) == {"new:1": 1_500_000, "new:2": 4_500_000}
    assert expected_bytes(survey, {"new:1": 0.5, "new:2": 0.5}) == {"new:1": 3_000_000, "new:2": 3_000_000}


def _product(text: str) -> Product:
    family, version = text.split()
    return Product("redis" if family == "Redis" else "valkey", version)


@pytest.mark.parametrize(
    ("source", "target", "taken"),
    [
        ("Redis 6.2.14", "Redis 6.2.14", True),
        ("Redis 7.0.15", "Redis 6.2.14", False),
        ("Redis 8.0.2", "Redis 7.4.1", True),
        ("Redis 8.0.2", "Valkey 9.1.2", False),
        ("Valkey 9.1.2", "Valkey 9.0.0", True),
        ("Valkey 9.1.2", "Redis 8.0.2", False),
        ("Redis 7.2.4", "Valkey 7.2.5", True),
        ("Valkey 8.1.0", "Valkey 9.1.2", True),
        ("Redis 8.8.0", "Redis 8.6.0", False),
    ],
)
def test_rdb_versions(source: str, target: str, taken: bool) -> None:
    assert (
        takes_rdb(replace(ONE, product=_product(target)), rdb_version(replace(ONE, product=_product(source))))
        is taken
    )


def test_cluster_nodes_are_read_whole_or_not_at_all() -> None:
    text = (
        b"07c3 127.0.0.1:30004@31004,hostname4 slave e7d1 0 1426238317239 4 connected\n"
        b"67ed ::1:30002@31002 myself,master - 0 1426238316232 2 connected 0 5-9 [77->-e7d1] [78-<-e7d1]\n"
    )
    replica, primary = cluster_nodes(text)
    assert (replica.address, replica.primary_id, replica.slots) == ("127.0.0.1:30004", "e7d1", frozenset())
    assert (primary.address, len(primary.slots), primary.is_alive) == ("[::1]:30002", 6, True)
    assert (primary.bus_port, primary.migrating, primary.importing) == (31002, {77: "e7d1"}, {78: "e7d1"})
    assert cluster_nodes(text, only_itself=True) == (primary,)
    for odd in (b"no line of a node\n", text.replace(b"5-9", b"5-99999"), text.replace(b"30004", b"70000")):
        with pytest.raises(MalformedReplyError):
            cluster_nodes(odd)


def test_skipped_errors_are_warnings_and_only_known_names_can_be_skipped() -> None:
    rows = [
        Row("memory", "error", "full", "more", "target"),
        Row("slots", "error", "gaps", "mend", "target"),
        Row("replicas", "warning", "none", "add"),
    ]
    memory, slots, replicas = apply_skips(rows, check_skips(["memory", "replicas"]))

    assert (memory.status, memory.skipped) == ("warning", True)
    assert (slots.status, slots.skipped) == ("error", False)
    assert (replicas.status, replicas.skipped) == ("warning", False)
    with pytest.raises(UsageError, match="no check 'memroy'"):
        Options(skip_check=["memroy"])
    with pytest.raises(UsageError, match="'servers' can't be skipped"):
        Options(skip_check=("servers",))


def test_exit_codes_follow_the_rows() -> None:
    fine, odd = Row("slots", "ok", "fine"), Row("replicas", "warning", "none", "add")
    bad = Row("memory", "error", "full", "more", "target")

    def code(*rows: Row, strict: bool = False) -> int:
        return CheckReport("s", "t", rows, strict=strict).exit_code

    assert (code(fine), code(fine, odd), code(fine, odd, strict=True)) == (0, 0, 3)
    assert (code(fine, odd, bad), code(bad, strict=True)) == (4, 4)


def test_an_error_row_is_raised_as_the_error_of_its_side() -> None:
    row = Row("memory", "error", "full", "more", "target")

    assert isinstance(row.error(), TargetNotReadyError)
    assert isinstance(replace(row, side="source").error(), SourceNotReadyError)
    assert row.error().hint == "more"
    assert set(CHECKS) == {
        "reach",
        "rights",
        "target",
        "compatibility",
        "following",
        "snapshot",
        "data",
        "commands",
    }
