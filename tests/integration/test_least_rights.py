"""The permissions that docs/permissions.md names are enough for a user without others, and each is needed.

Invariant: they are read from that page, so what is tested is what is documented.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from redis import Redis

from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer
from tests.command import Outcome, run
from tests.faults.followed import FollowedJob
from tests.servers.compare import assert_equal
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect

_PAGE = Path(__file__).parents[2] / "docs/permissions.md"
_SECRET = "mover-secret"
_PASSWORDS = {"SLOTFERRY_SOURCE_PASSWORD": _SECRET, "SLOTFERRY_TARGET_PASSWORD": _SECRET}
_KEYS = 2_000


def documented() -> dict[str, dict[str, str]]:
    """Return what stands above the first section: command → party → rights."""
    found: dict[str, dict[str, str]] = {}
    commands: list[str] = []
    for line in _PAGE.read_text().split("\n## ")[0].splitlines():
        if line.startswith("**`"):
            commands = re.findall(r"`([^`]*)`", line)
        elif commands and (named := re.fullmatch(r"- (\w+): `([^`]*)`", line)):
            for command in commands:
                found.setdefault(command, {})[named[1].lower()] = named[2]
    return found


def _rights(command: str, party: str, kind: ServerKind) -> list[str]:
    """Return the rights of a party at that kind of server: the table names both commands that tell a TTL."""
    other = {"+pttl"} if kind.version >= (7, 0) else {"+pexpiretime"}
    if party == "target" and kind.version >= (7, 0) and command != "check":
        other.add("+time")
    if kind.version < (7, 0):
        other.add("+function|list")
    return [right for right in documented()[command][party].split() if right not in other]


def besides(option: str) -> list[str]:
    """Return the rights that an option's own line names."""
    (line,) = re.findall(rf"^- \*\*`{option}`\*\*:.*?(?=^- |^$)", _PAGE.read_text(), re.M | re.S)
    return re.findall(r"\+[\w|-]+", line)


def large_rights(server: LocalServer) -> tuple[list[str], list[str]]:
    """Return the rights of both sides that copying large keys takes, of those that the server knows."""
    paragraph = _PAGE.read_text().split("## Large keys\n\n")[1].split("\n\n")[0]
    source, target = paragraph.split("Without `+memory`")
    with server.client() as client:
        known = {f"+{name}" for name in client.command()}
    return [right for right in re.findall(r"\+\w+", source) if right in known], re.findall(r"\+@\w+", target)


def _allow(server: LocalServer, rights: list[str], keys: str = "~*") -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "mover", "reset", "on", f">{_SECRET}", keys, *rights)


class Sides:
    """A filled source and a cluster of one primary, which has some of the keys already."""

    def __init__(self, kind: ServerKind, stack: ExitStack) -> None:
        self.kind = kind
        self.source = stack.enter_context(LocalServer(kind.binary))
        self.cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1))
        self.target = self.cluster.primaries[0]
        with connect(self.source) as connection:
            fill(connection, _KEYS)
        with self.source.client() as old, self.target.client() as new:
            for i in range(20):  # so that keys are compared as well
                old.set(f"both:{i}", i)
                new.set(f"both:{i}", i)

    def run(self, command: str, source_rights: list[str], target_rights: list[str]) -> Outcome:
        _allow(self.source, source_rights)
        _allow(self.target, target_rights)
        return run(
            *(*command.split(), _as_mover(self.source.url), _as_mover(self.cluster.url)),
            "--json",
            env=_PASSWORDS,
        )


def _as_mover(url: str) -> str:
    return url.replace("://", "://mover@")


_ALL = [
    "redis-7.0",
    pytest.param("redis-6.2", marks=pytest.mark.long),
    pytest.param("valkey-9.1", marks=pytest.mark.long),
]


@pytest.mark.parametrize("name", _ALL)
def test_a_user_with_just_these_rights(name: str, stack: ExitStack) -> None:
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    sides = Sides(available()[name], stack)
    for command in ("migrate --dry-run", "check", "migrate", "verify"):
        rights = [_rights(command, party, sides.kind) for party in ("source", "target")]
        done = sides.run(command, *rights)
        assert done.code == 0, (command, done.stdout, done.stderr)
        if command == "check":
            assert [line for line in done.lines if "not checked" in line.get("message", "")] == []

    with sides.target.client() as client:
        assert int(client.dbsize()) >= _KEYS


def write_elements(client: Redis, numbers: range) -> None:
    """Write these elements of keys that are large."""
    client.zadd("large:zset", {f"member {number}": number for number in numbers})
    client.hset("large:hash", mapping={f"field {number}": number for number in numbers})
    client.sadd("large:set", *(f"member {number}" for number in numbers))


@pytest.mark.parametrize("name", _ALL)
def test_following_and_cutting_over_with_just_these_rights(
    name: str, stack: ExitStack, tmp_path: Path
) -> None:
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    sides = Sides(available()[name], stack)
    rights = [_rights("migrate --follow", party, sides.kind) for party in ("source", "target")]
    large = large_rights(sides.source)
    _allow(sides.source, rights[0] + large[0] + besides("migrate --follow") + besides("cutover"))
    _allow(sides.target, rights[1] + large[1])
    job = FollowedJob(_as_mover(sides.source.url), _as_mover(sides.cluster.url), tmp_path / "journal.db")
    client = stack.enter_context(sides.source.client())
    write_elements(client, range(5000))
    words = ("--skip-check", "existing-keys", "--big-key-bytes", "100000")
    with job.start(*words, env=_PASSWORDS) as running:
        job.wait_following(running)
        write_elements(client, range(4990, 5010))
        client.delete("both:1")
        client.config_set("repl-backlog-size", 16_384)
        client.client_kill_filter(_type="replica")
        client.mset({f"new:{number}": "x" * 100 for number in range(1000)})
        job.wait_settled()  # a gap: both sides are compared, in both directions
        for stop, check in (("pause", "full"), ("refuse", "sample")):
            abandoned = job.cut_over("--stop-writes", stop, "--check", check, "--run", "false")
            assert (abandoned.code, abandoned.lines[-1]["step"]) == (3, "run"), abandoned
        done = job.cut_over("--stop-writes", "refuse", "--hold", "0s")
        assert done.code == 0, done
        assert running.finish().code == 0
    undone = job.undo("--source", job.url, env=_PASSWORDS)
    assert undone.code == 0, undone
    assert_equal(sides.source, sides.cluster)


@pytest.mark.parametrize("role", ["primary", "replica"])
def test_users_behind_sentinel_with_just_these_rights(kind: ServerKind, stack: ExitStack, role: str) -> None:
    service = stack.enter_context(LocalSentinelService(kind.binary, sentinels=1))
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1))
    with service.primary.client() as client:
        client.set("key", "value")
    for server in service.servers:
        _allow(server, _rights("migrate", "source", kind))
    rights = _rights("migrate", "sentinel", kind)
    _allow(service.sentinels[0], [r for r in rights if role != "primary" or "replicas" not in r])
    url = _as_mover(service.url) + f"?role={role}&sentinel_username=mover"

    done = run(
        *("migrate", url, cluster.url, "--json"),
        env={"SLOTFERRY_SOURCE_PASSWORD": _SECRET, "SLOTFERRY_SENTINEL_PASSWORD": _SECRET},
    )

    assert done.code == 0, done.stderr
    assert done.keys["migrated"] == 1


@pytest.mark.long
@pytest.mark.parametrize("party", ["source", "target"])
def test_each_right_is_needed(kind: ServerKind, party: str, stack: ExitStack) -> None:
    sides = Sides(kind, stack)
    rights = {party: _rights("migrate", party, kind) for party in ("source", "target")}
    for right in rights[party]:
        fewer = {**rights, party: [other for other in rights[party] if other != right]}
        done = sides.run("migrate", fewer["source"], fewer["target"])
        assert done.code == 4, (right, done.stderr)
        assert done.summary["error"]["kind"] == f"{party}_not_ready"
        name = right.lstrip("+").split("|")[0]
        assert name in done.stderr.lower(), (right, done.stderr)
        assert "Traceback" not in done.stderr
