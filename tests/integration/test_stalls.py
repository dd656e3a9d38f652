"""What makes no progress ends, and what can't be had does not keep the rest from being copied."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from slotferry import Migration, key_slot
from slotferry.errors import SlotferryError, SourceLostError, SourceNotReadyError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.integration.test_odd_replies import Sides
from tests.servers.compare import assert_equal
from tests.servers.forger import Forge, Forgery, answering

_KEYS = 300


@pytest.fixture
def sides(source: LocalServer, cluster: LocalCluster, stack: ExitStack) -> Sides:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(_KEYS)})
    return Sides(source, cluster, stack)


def _page(cursor: int, keys: list[bytes]) -> bytes:
    listed = b"".join(b"$%d\r\n%b\r\n" % (len(key), key) for key in keys)
    return b"*2\r\n$%d\r\n%d\r\n*%d\r\n%b" % (len(str(cursor)), cursor, len(keys), listed)


def _scans(forge: Forge) -> Forge:
    """Forge the engine's SCANs, not those of the preflight's sample: it asks for INFO server before."""
    begun = False

    def forged(arguments: tuple[bytes, ...]) -> Forgery | None:
        nonlocal begun
        begun = begun or arguments == (b"INFO", b"server")
        return forge(arguments) if begun and arguments[0] == b"SCAN" else None

    return forged


@pytest.mark.parametrize("keys", [[], [b"key:1", b"key:2"]], ids=["empty", "keys"])
@pytest.mark.parametrize("way", ["circle", "grows", "creeps", "stands"])
def test_a_scan_without_an_end_ends(sides: Sides, way: str, keys: list[bytes]) -> None:
    pages = iter(range(1, 10**9))

    def forge(_: tuple[bytes, ...]) -> Forgery | None:
        page = next(pages)
        cursor = {
            "circle": (page % 7 + 1) << 20,
            "grows": page,
            "creeps": int(f"{page:064b}"[::-1], 2),
            "stands": 1,
        }[way]
        return Forgery(_page(cursor, keys), withheld=True)

    sides.source.forge = _scans(forge)
    with pytest.raises(SourceNotReadyError, match=r"makes no progress: its SCAN .*cursor \d+") as raised:
        sides.migrate(retry_for=2.0).run()
    assert sides.source.address in raised.value.message


def test_a_page_of_much_more_than_was_asked_for_is_read(sides: Sides) -> None:
    names = [b"key:%d" % number for number in range(50_000)]
    sides.source.forge = _scans(lambda _: Forgery(_page(0, names), withheld=True))

    report = sides.migrate().run()

    assert report.keys.scanned == 50_000
    assert report.keys.migrated == count_keys(sides.cluster) == _KEYS
    assert report.keys.vanished == 50_000 - _KEYS


def _cutting(key: bytes, *names: bytes) -> Forge:
    """Cut the connection in the middle of the value of `key`, whatever it is read with."""

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if arguments[0] in names and arguments[1] == key:
            return Forgery(change=lambda reply: reply[: len(reply) // 2], close=True)
        return None

    return forge


@pytest.mark.parametrize("verify", [False, True], ids=["copy", "verify"])
def test_a_value_that_does_not_come_whole_is_read_in_parts(sides: Sides, verify: bool) -> None:
    if verify:
        sides.migrate().run()
    sides.source.forge = _cutting(b"key:7", b"DUMP")

    report = sides.migrate(verify=verify, restart=True).run()

    assert report.keys.failed == report.keys.pending == 0
    assert count_keys(sides.cluster) == _KEYS


def test_a_value_that_never_comes_is_a_recorded_failure_and_the_others_go_on(sides: Sides) -> None:
    sides.source.forge = _cutting(b"key:7", b"DUMP", b"GETRANGE")

    report = sides.migrate().run()

    assert report.keys.migrated == count_keys(sides.cluster) == _KEYS - 1
    (failure,) = report.failures
    assert failure.key == b"key:7"
    assert "client-output-buffer-limit" in failure.message


@pytest.mark.parametrize(
    ("name", "reply"),
    [("SCAN", b"*2\r\n$1\r\n0\r\n*1\r\n$10000\r\n"), ("DUMP", b"$10000\r\n")],
    ids=["scan", "dump"],
)
def test_a_source_that_sends_a_byte_now_and_then_is_lost(sides: Sides, name: str, reply: bytes) -> None:
    odd = answering(reply + b"x" * 10_000, name, drip=0.05)

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        return odd(arguments) if len(arguments) > 1 and arguments[1].startswith(b"key:") else None

    sides.source.forge = forge if name == "DUMP" else _scans(odd)
    with pytest.raises(SourceLostError) as raised:
        sides.migrate().run()

    assert sides.source.address in raised.value.message


def _writes(arguments: tuple[bytes, ...]) -> bool:
    return arguments[0] in (b"RESTORE", b"SET")


def test_a_busy_key_where_nothing_is_becomes_a_recorded_failure(sides: Sides) -> None:
    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if _writes(arguments) and arguments[1] == b"key:7":
            return Forgery(b"-BUSYKEY Target key name already exists.\r\n", withheld=True)
        return None

    sides.forge_target(forge)
    report = sides.migrate().run()

    assert report.keys.migrated == count_keys(sides.cluster) == _KEYS - 1
    (failure,) = report.failures
    assert (failure.key, "holds nothing" in failure.message) == (b"key:7", True)


def test_a_reply_that_is_left_out_counts_for_no_other_key(sides: Sides) -> None:
    """The command does not reach the server, and the replies behind it are one too few."""
    left = [3]

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if _writes(arguments) and arguments[1].startswith(b"key:") and left[0]:
            left[0] -= 1
            return Forgery(b"", withheld=True)
        return None

    sides.forge_target(forge)
    report = sides.migrate(retry_for=4.0).run()

    assert left == [0]
    assert report.keys.migrated == count_keys(sides.cluster) == _KEYS


def _exit_code(migration: Migration) -> int:
    """Return what the command would end with; 0 only where every key is there."""
    try:
        report = migration.run()
    except SlotferryError as error:
        return int(error.exit_code)
    return 3 if report.keys.pending or report.keys.failed else 0


@pytest.mark.parametrize(
    ("policy", "name"), [("error", b"RENAMENX"), ("replace", b"RENAME")], ids=["error", "replace"]
)
def test_a_command_that_is_left_out_of_a_transaction_is_no_success(
    sides: Sides, source: LocalServer, cluster: LocalCluster, policy: str, name: bytes
) -> None:
    """A large key keeps its temporary name then, and EXEC tells of one result fewer."""
    with source.client() as client:
        client.sadd("large", *(f"member {i}" * 20 for i in range(2_000)))
    left = [1]

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if arguments[0] == name and left[0]:
            left[0] -= 1
            return Forgery(b"$0\r\n\r\n", withheld=True)
        return None

    sides.forge_target(forge)
    report = sides.migrate(on_conflict=policy, big_key_bytes=64_000).run()

    assert left == [0]
    assert report.ok
    assert_equal(source, cluster)


def test_a_reply_that_is_always_left_out_ends_the_run_or_leaves_the_key(sides: Sides) -> None:
    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        return Forgery(b"", withheld=True) if _writes(arguments) and arguments[1] == b"key:7" else None

    sides.forge_target(forge)

    assert _exit_code(sides.migrate()) in (3, 6)


def test_redirects_to_ever_new_ports_come_to_an_end(sides: Sides) -> None:
    ports = iter(range(20_000, 60_000))

    def forge(arguments: tuple[bytes, ...]) -> Forgery | None:
        if _writes(arguments) and arguments[1] == b"key:7":
            return Forgery(b"-MOVED %d 127.0.0.1:%d\r\n" % (key_slot(b"key:7"), next(ports)), withheld=True)
        return None

    sides.forge_target(forge)

    assert _exit_code(sides.migrate()) in (3, 6)
    assert count_keys(sides.cluster) <= _KEYS - 1
