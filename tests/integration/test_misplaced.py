"""`verify` tells of keys on a node that does not own their slots, and `reshard fix` brings them home.

Invariant: such copies are put there by the servers' own commands, as an interrupted reshard leaves them.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry import key_slot
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import Outcome, run
from tests.integration.migrating import migrate
from tests.reshard.broken import half_moved, node_id, put_astray, setslot
from tests.servers.kinds import available
from tests.servers.raw import connect

_KEYS = 300
_CLUSTERS = ["redis-6.2", "redis-7.0", "redis-8.0", "valkey-8.1", "valkey-9.1"]


@pytest.fixture
def own(request: pytest.FixtureRequest, stack: ExitStack) -> LocalCluster:
    """Return a cluster of this test alone."""
    name = getattr(request, "param", "redis-7.0")
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    return stack.enter_context(LocalCluster(available()[name].binary))


@pytest.fixture
def copied(source: LocalServer, own: LocalCluster) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(_KEYS)})
    assert migrate(source, own).ok
    return source


def _verify(source: LocalServer, cluster: LocalCluster, *options: str) -> Outcome:
    return run("verify", source.url, cluster.url, "--recheck", "1", *options)


def _ends(cluster: LocalCluster, key: str) -> tuple[LocalServer, LocalServer]:
    """Return the owner of a key's slot, and another primary."""
    slot = key_slot(key.encode())
    for node in cluster.primaries:
        with connect(node) as connection:
            slots = connection.execute("CLUSTER", "SLOTS")
    port = next(entry[2][1] for entry in slots if entry[0] <= slot <= entry[1])
    owner = next(node for node in cluster.primaries if node.port == port)
    return owner, next(node for node in cluster.primaries if node is not owner)


def _value(node: LocalServer, key: str) -> bytes | None:
    with connect(node) as connection:
        value: bytes | None = connection.execute("GET", key)
        return value


@pytest.mark.parametrize("own", _CLUSTERS, indirect=True)
def test_misplaced_keys_are_told_and_brought_home(
    copied: LocalServer, own: LocalCluster, tmp_path: Path
) -> None:
    """An extra key that its owner lacks, an equal second copy, and one with another value."""
    expected = {"lost": "lost", "key:1": "1", "key:2": "other"}
    places = {}
    for key, value in expected.items():
        owner, other = _ends(own, key)
        put_astray(other, owner, key_slot(key.encode()), key, value=value)
        places[key] = (owner, other)
    file = tmp_path / "differences"

    found = _verify(copied, own, "--json", "--differences", str(file))

    assert found.code == 3, found.stderr
    lines = {line["key"]: line for line in map(json.loads, file.read_text().splitlines())}
    assert set(lines) == set(expected)
    for key, (owner, other) in places.items():
        line = lines[key]
        assert line["kind"] == "misplaced"
        assert (line["node"], line["slot"]) == (other.address, key_slot(key.encode()))
        assert owner.address in line["target"]
        assert line["source"] == ("absent" if key == "lost" else "there")
    assert found.summary["keys"]["misplaced"] == 3
    assert found.summary["keys"]["equal"] == _KEYS
    assert found.summary["keys"]["extra"] == 0
    assert not found.summary["equal"]
    command = f"slotferry reshard fix {own.url} --apply"
    assert found.summary["misplaced_repair"] == command

    table = _verify(copied, own)
    assert table.code == 3
    assert "3 keys are misplaced" in table.stdout
    assert command in table.stdout
    assert "misplaced" in run("jobs", "show", f"{found.summary['job']}").stdout

    # The command that was told: what differs is kept until a person has said which one.
    fixed = run(*command.split()[1:])
    assert fixed.code == 3, fixed.stdout + fixed.stderr
    assert _value(places["lost"][0], "lost") == b"lost"
    assert _value(places["key:2"][0], "key:2") == b"2"
    rest = _verify(copied, own, "--json").summary["keys"]
    assert (rest["extra"], rest["different"]) == (1, 0)
    fixed = run(*command.split()[1:], "--keep", "owner")
    assert fixed.code == 0, fixed.stdout + fixed.stderr
    assert _value(places["key:2"][0], "key:2") == b"2"
    last = _verify(copied, own, "--json").summary["keys"]
    assert (last["misplaced"], last["extra"], last["equal"]) == (0, 1, _KEYS)


def test_a_key_that_only_the_wrong_node_holds_is_missing_as_well(
    copied: LocalServer, own: LocalCluster
) -> None:
    owner, other = _ends(own, "key:1")
    put_astray(other, owner, key_slot(b"key:1"), "key:1", value="1")
    with connect(owner) as connection:
        connection.execute("DEL", "key:1")

    found = _verify(copied, own, "--json")

    assert found.code == 3
    assert {kind: found.summary["keys"][kind] for kind in ("missing", "misplaced")} == {
        "missing": 1,
        "misplaced": 1,
    }
    fixed = run("reshard", "fix", own.url, "--apply")
    assert fixed.code == 0, fixed.stderr
    assert _verify(copied, own, "--json").code == 0


def test_a_copy_in_a_slot_that_is_open_is_not_judged_and_that_is_said(
    copied: LocalServer, own: LocalCluster
) -> None:
    """As `reshard fix` leaves a slot whose two nodes hold a key with two values."""
    owner, other = _ends(own, "key:1")
    put_astray(other, owner, key_slot(b"key:1"), "key:1", value="another")
    assert run("reshard", "fix", own.url, "--apply").code == 3

    found = _verify(copied, own, "--json")

    assert found.summary["keys"]["equal"] == _KEYS
    assert f"slots {key_slot(b'key:1')} are open" in found.stderr
    assert f"their keys on {other.address} are not judged" in found.stderr
    assert "slotferry reshard fix" in found.stderr


def test_deleting_extra_keys_leaves_misplaced_ones_alone(copied: LocalServer, own: LocalCluster) -> None:
    owner, other = _ends(own, "lost")
    put_astray(other, owner, key_slot(b"lost"), "lost")

    done = _verify(copied, own, "--json", "--repair", "--delete-extra", "--yes")

    assert done.code == 3, done.stderr
    assert (done.summary["to_delete"], done.summary["deleted"]) == (0, 0)
    with connect(other) as connection:
        assert connection.execute("CLUSTER", "COUNTKEYSINSLOT", key_slot(b"lost")) == 1


def test_what_lies_in_an_open_slot_is_on_its_way(copied: LocalServer, own: LocalCluster) -> None:
    """Half moved: keys are on the node that imports the slot, and a comparison by name finds them there."""
    owner, other = _ends(own, "key:1")
    slot = key_slot(b"key:1")
    half_moved(owner, other, slot, keys=1)

    found = _verify(copied, own, "--json")

    assert found.code == 0, found.stdout
    assert found.summary["keys"]["misplaced"] == 0
    assert found.summary["misplaced_repair"] is None

    # Importing alone, with a copy that nobody else knows of: open, so it is not judged before it is closed.
    setslot(owner, slot, "STABLE")
    assert _verify(copied, own, "--json").summary["keys"]["misplaced"] == 0
    setslot(other, slot, "STABLE")
    closed = _verify(copied, own, "--json").summary["keys"]
    assert (closed["misplaced"], closed["missing"]) == (1, 1)
    assert node_id(other) != node_id(owner)
