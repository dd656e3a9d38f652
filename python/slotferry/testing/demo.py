"""The demo: embedded servers, a keyspace of every type, a migration, and a check that shares no code with it.

Invariant: whatever the demo started is gone when it ends, however it ends, unless `keep` was asked for; it
touches nothing but its own servers on loopback and their temporary directories.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis

from slotferry.api.migration import Migration, Options, Report
from slotferry.errors import InternalError
from slotferry.report.tables import summary_table
from slotferry.testing.servers import LocalCluster, LocalServer, embedded_binary

CHECKED_KEYS = 20_000

_FILL_STEP = 10_000

# The server fills itself, which is far quicker than sending it every key. Of 20 keys 11 are strings; every
# fourth has a TTL.
_FILL = """
local first, last, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = first, last do
  local kind, key = i % 20, nil
  if kind < 10 then
    key = 'session:' .. i
    redis.call('SET', key, string.rep('payload of session ' .. i .. ' ', 4))
  elseif kind == 10 then
    key = 'counter:' .. i
    redis.call('SET', key, i * 977)
  elseif kind < 13 then
    key = '{user:' .. i .. '}:profile'
    redis.call('HSET', key, 'name', 'user ' .. i, 'visits', i % 100)
  elseif kind == 13 then
    key = '{user:' .. i .. '}:inbox'
    redis.call('RPUSH', key, 'first', i, 'last')
  elseif kind == 14 then
    key = 'tags:' .. i
    redis.call('SADD', key, 'red', 'green', i)
  elseif kind == 15 then
    key = 'numbers:' .. i
    redis.call('SADD', key, 1, 2, i)
  elseif kind == 16 then
    key = 'ranking:' .. i
    redis.call('ZADD', key, 0.5, 'gold', i, 'silver', '-inf', 'last')
  elseif kind == 17 then
    key = 'events:' .. i
    redis.call('XADD', key, i + 1 .. '-1', 'event', 'created', 'id', i)
    redis.call('XGROUP', 'CREATE', key, 'workers', '0')
  elseif kind == 18 then
    key = 'visitors:' .. i
    redis.call('PFADD', key, i, i + 1, i + 2)
  else
    key = 'days seen:' .. i
    redis.call('SETBIT', key, i % 365, 1)
  end
  if i % 4 == 0 then
    redis.call('PEXPIREAT', key, now + 3600000 + i)
  end
end
"""

Say = Callable[[str], None]


def run_demo(keys: int, *, keep: bool = False, say: Say = print) -> Report:
    """Start servers, fill the source with `keys` keys, migrate them with a bar on stderr, check the result.

    `say` is given what the reader is told, in paragraphs. With `keep` the servers live on, and how to stop
    them is told. Raises `LocalServerError` where no server can be started, `InternalError` where the check
    finds a difference, and whatever `Migration.run` raises.
    """
    binary = embedded_binary()
    say("Starting a standalone Valkey server and a cluster of three primaries on free loopback ports …")
    with LocalServer(binary) as source, LocalCluster(binary) as cluster:
        say(f"  source  {source.url}\n  target  {cluster.url}")
        say(f"Filling the source with {keys:,} keys of every type, a quarter of them with a TTL …")
        fill(source, keys)
        say("Migrating …")
        # In the source's directory, so that it is gone with it and no other job is touched.
        options = Options(journal=source.directory / "journal.db")
        with Migration(source.url, cluster.url, options) as migration:
            report = migration.run(progress=True)
        say(summary_table(report))
        say(_checked(source, cluster, report))
        if keep:
            say(_kept(source, cluster))
            cluster.detach()
            source.detach()
    if not keep:
        say(_NEXT)
    return report


def fill(source: LocalServer, keys: int) -> None:
    """Give the server `keys` keys, numbered from 1."""
    now = int(time.time() * 1000)
    with source.client() as client:
        for first in range(1, keys + 1, _FILL_STEP):
            client.eval(_FILL, 0, str(first), str(min(first + _FILL_STEP - 1, keys)), str(now))


def find_differences(source: LocalServer, cluster: LocalCluster, sample: int = CHECKED_KEYS) -> list[str]:
    """Compare the number of keys, and of the first `sample` keys of a SCAN every byte and expiry time."""
    with source.client() as old, cluster.client() as new:
        here, there = int(old.dbsize()), _count(cluster)
        problems = [] if here == there else [f"the source has {here:,} keys, the cluster {there:,}"]
        compared = 0
        for page in _pages(old):
            problems += _compare_page(old, new, page)
            compared += len(page)
            if compared >= sample:
                break
    return problems


def _count(cluster: LocalCluster) -> int:
    total = 0
    for node in cluster.primaries:
        with node.client() as client:
            total += int(client.dbsize())
    return total


def _pages(client: redis.Redis) -> Any:
    cursor: Any = 0
    while True:
        cursor, page = client.scan(cursor, count=1000)
        yield page
        if cursor == 0:
            return


def _compare_page(old: Any, new: Any, page: list[bytes]) -> list[str]:
    here, there = _read(old.pipeline(transaction=False), page), _read(new.pipeline(), page)
    return [
        f"{key!r} differs: {was!r} became {became!r}"
        for key, was, became in zip(page, here, there, strict=True)
        if was != became
    ]


def _read(pipeline: Any, keys: list[bytes]) -> list[tuple[bytes, int]]:
    """Return each key's DUMP, and when it expires (milliseconds, -1 for never)."""
    for key in keys:
        pipeline.dump(key)
        pipeline.pexpiretime(key)
    replies = pipeline.execute()
    return list(zip(replies[::2], replies[1::2], strict=True))


def _checked(source: LocalServer, cluster: LocalCluster, report: Report) -> str:
    problems = find_differences(source, cluster)
    if problems:
        raise InternalError(f"the check of the demo found {len(problems):,} differences: {problems[0]}")
    keys = report.keys.migrated
    return (
        f"Checked with redis-py: the cluster has all {keys:,} keys, and {min(keys, CHECKED_KEYS):,} of them, "
        "compared with the source, are equal to the byte and expire at the same millisecond."
    )


def _kept(source: LocalServer, cluster: LocalCluster) -> str:
    servers = [source, *cluster.nodes]
    pids = " ".join(str(server.pid) for server in servers)
    directories = " ".join(str(server.directory) for server in servers)
    return (
        "The servers stay up. Try this next:\n"
        f"  slotferry migrate {source.url} {cluster.url}\n"
        "    every key is unchanged: it is safe to run twice\n"
        f"  slotferry migrate {source.url} {cluster.url} --restart --on-conflict replace\n"
        "  slotferry jobs list\n"
        "Stop them with:\n"
        f"  kill {pids} && rm -r {directories}"
    )


_NEXT = """\
The servers are gone now. Try this next:
  slotferry demo --keep            leaves them up, with their URLs
  slotferry demo --keys 2000000    takes a little longer: press Ctrl-C
  slotferry migrate --dry-run redis://YOUR-SERVER:6379 redis+cluster://YOUR-NODE:6379
                                   looks and counts, writes nothing
  slotferry migrate --help"""
