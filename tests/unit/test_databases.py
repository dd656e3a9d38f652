"""Which databases go where: what `--db` and `--map-db` mean, and what they may not."""

from __future__ import annotations

import pytest

from slotferry.errors import SourceNotReadyError, UsageError
from slotferry.net.endpoints import Endpoint
from slotferry.topology.databases import (
    Route,
    check_databases,
    may_collide,
    parse_map,
    plan_routes,
    total_keys,
)
from slotferry.topology.discovery import ServerFacts, SourceFacts
from slotferry.topology.product import Product

SOURCE = Endpoint.parse("redis://old:6379", "source")
TARGET = Endpoint.parse("redis://new:7000", "target")
SERVER = ServerFacts("old:6379", "id-1", (7, 0, 15), Product("redis", "7.0.15"), False)
FACTS = SourceFacts(SERVER, 10, 0.0001, databases={0: 10, 2: 20, 5: 30})


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("2=prefix:db2:", Route(2, 0, b"db2:")),
        ("2={db2}:", Route(2, 0, b"{db2}:")),
        ("2=0", Route(2, 0)),
        ("0=3", Route(0, 3)),
        ("2=prefix:0", Route(2, 0, b"0")),
    ],
)
def test_ways(text: str, route: Route) -> None:
    assert parse_map(text) == route


@pytest.mark.parametrize("text", ["", "2", "2=", "x=0", "2=db2:", "2=prefix:", "-1=0"])
def test_ways_that_lead_nowhere(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_map(text)
    assert "2=prefix:db2:" in caught.value.hint


def test_without_a_word_the_urls_databases_count() -> None:
    source, target = Endpoint.parse("redis://h/2", "source"), Endpoint.parse("redis://h/1", "target")
    assert plan_routes(source, target, None, (), FACTS) == (Route(2, 1),)


def test_each_database_goes_to_its_own_number_unless_mapped() -> None:
    routes = plan_routes(SOURCE, TARGET, "all", ("2=prefix:db2:",), FACTS)
    assert routes == (Route(0, 0), Route(2, 0, b"db2:"), Route(5, 5))
    assert total_keys(routes, FACTS) == 60
    assert plan_routes(SOURCE, TARGET, (5, 0), (), FACTS) == (Route(0, 0), Route(5, 5))


def test_an_empty_source_has_a_route_all_the_same() -> None:
    facts = SourceFacts(SERVER, 0, 0.0001)
    assert plan_routes(SOURCE, TARGET, "all", (), facts) == (Route(0, 0),)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="database 2 is mapped twice"):
        check_databases(None, ("2=0", "2=1"))
    with pytest.raises(UsageError, match="database 3 is mapped, and not among") as caught:
        check_databases((0, 2), ("3=0",))
    assert "--db 0,2,3" in caught.value.hint
    with pytest.raises(UsageError, match="database 2 is named twice"):
        check_databases((2, 2), ())
    with pytest.raises(UsageError, match="no database is named"):
        check_databases((), ())
    with pytest.raises(UsageError, match="not among those to copy"):
        plan_routes(SOURCE, TARGET, None, ("2=0",), FACTS)
    with pytest.raises(UsageError, match="source's URL names database 2"):
        plan_routes(Endpoint.parse("redis://h/2", "source"), TARGET, "all", (), FACTS)
    with pytest.raises(UsageError, match="target's URL names database 2"):
        plan_routes(SOURCE, Endpoint.parse("redis://h/2", "target"), "all", (), FACTS)
    with pytest.raises(SourceNotReadyError, match=r"database 9 is mapped, and the source .* no keys there"):
        plan_routes(SOURCE, TARGET, (0, 9), ("9=0",), FACTS)


def test_where_keys_may_collide() -> None:
    assert not may_collide((Route(0, 0), Route(2, 2)), renames=False)
    assert may_collide((Route(0, 0), Route(2, 0)), renames=False)
    assert may_collide((Route(0, 0), Route(2, 0, b"db2:")), renames=False)
    assert may_collide((Route(0, 0),), renames=True)
