"""Preflight: what makes a pair of servers unsuitable, each in a sentence of its own."""

from dataclasses import replace

import pytest

from slotferry.errors import SlotferryError, SourceNotReadyError, TargetNotReadyError
from slotferry.model.address import Address
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint
from slotferry.preflight import find_problems
from slotferry.topology.discovery import PrimaryFacts, ServerFacts, SourceFacts, TargetFacts, Topology
from slotferry.topology.product import Product

SERVER = ServerFacts("old:6379", "id-source", (7, 0, 15), Product("redis", "7.0.15"), False)
SOURCE = SourceFacts(SERVER, 1000, 0.001)
SEED = ServerFacts("new:7000", "id-target", (7, 2, 4), Product("valkey", "9.1.2"), True)
TARGET = TargetFacts(SEED, Topology(((0, 16383, "new", 7000),)), (PrimaryFacts(SEED, "ok"),))


@pytest.mark.parametrize(
    ("source", "target", "error", "says"),
    [
        (
            replace(SOURCE, server=replace(SERVER, cluster=True)),
            TARGET,
            SourceNotReadyError,
            "the source old:6379 is a node of a cluster",
        ),
        (
            replace(SOURCE, server=replace(SERVER, run_id="id-target")),
            TARGET,
            SourceNotReadyError,
            "source and target are the same server",
        ),
        (
            SOURCE,
            replace(TARGET, primaries=(PrimaryFacts(SEED, "ok"), PrimaryFacts(SERVER, "unknown"))),
            TargetNotReadyError,
            "the target's cluster names old:6379, and the server there is the source itself",
        ),
        (
            SOURCE,
            replace(TARGET, topology=replace(TARGET.topology, shared=frozenset({Address("new", 7000)}))),
            TargetNotReadyError,
            "several primaries of the target's cluster are to be reached at new:7000",
        ),
        (
            SOURCE,
            TargetFacts(replace(SEED, cluster=False)),
            TargetNotReadyError,
            "the target new:7000 is not a cluster",
        ),
        (
            SOURCE,
            replace(TARGET, topology=Topology(((5, 10, "new", 7000), (12, 16383, "new", 7000)))),
            TargetNotReadyError,
            "slots that no primary serves: 0-4,11$",
        ),
        (
            SOURCE,
            replace(TARGET, primaries=(PrimaryFacts(SEED, "fail"),)),
            TargetNotReadyError,
            "the target primary new:7000 says cluster_state:fail",
        ),
        (
            SOURCE,
            replace(TARGET, database_refusal="SELECT is not allowed in cluster mode"),
            TargetNotReadyError,
            "has no database 3: SELECT is not allowed",
        ),
    ],
)
def test_unsuitable_servers(
    source: SourceFacts, target: TargetFacts, error: type[SlotferryError], says: str
) -> None:
    connectors = (
        Connector(Endpoint.parse("redis://old", "source"), "source"),
        Connector(Endpoint.parse("redis://new:7000/3", "target"), "target"),
    )
    (problem,) = find_problems(connectors[0], source, connectors[1], target)
    assert type(problem) is error
    problem_text = str(problem)
    with pytest.raises(error, match=says):
        raise problem
    assert problem.exit_code == 4
    assert problem.hint
    assert "\n" not in problem_text
