"""A target that leaves replies out: no key counts on another one's `+OK`, whatever else it answers then.

Invariant: what a withheld key counts as is compared with what the real servers hold.
"""

from __future__ import annotations

import contextlib
import threading
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from slotferry import Migration, Options
from slotferry.errors import RefusedError, TargetLostError
from slotferry.testing.servers import LocalCluster, LocalServer
from tests.integration.migrating import count_keys
from tests.servers.compare import assert_equal
from tests.servers.forger import Arguments, Forger, Forgery
from tests.servers.kinds import ServerKind

_KEYS = 3_000
_CLOSINGS = frozenset({b"ECHO", b"INFO", b"PEXPIRETIME", b"PTTL"})
"""What may close a batch; INFO as `INFO none`."""
_LOADING = Forgery(b"-LOADING Redis is loading the dataset in memory\r\n", withheld=True)


@dataclass
class _Omission:
    """Of one node: leaves out the reply to the `nth` write, which does not reach the server.

    `after` says what the closing question of that batch, and the first write behind it, are answered.
    """

    nth: int
    after: Forgery | None
    writes: int = 0
    left_out: bool = False
    closed: bool = False
    met: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, arguments: Arguments) -> Forgery | None:
        name = arguments[0].upper()
        with self._lock:
            if name in (b"SET", b"RESTORE") and arguments[1].startswith(b"key:"):
                self.writes += 1
                if self.writes == self.nth:
                    self.left_out = True
                    return Forgery(b"", withheld=True)
                if self.closed and not self.met:
                    self.met = True
                    return self.after
            if name in _CLOSINGS and arguments[1:] != (b"server",) and self.left_out and not self.closed:
                self.closed = True
                return self.after
        return None


@pytest.mark.parametrize("after", [None, _LOADING], ids=["nothing", "loading"])
@pytest.mark.parametrize("nth", [1, 2, 150, 700])
def test_no_key_counts_on_the_reply_of_another(
    source: LocalServer, cluster: LocalCluster, stack: ExitStack, nth: int, after: Forgery | None
) -> None:
    with source.client() as client:
        client.mset({f"key:{number}": "value" * 50 for number in range(_KEYS)})
    forges = [_Omission(nth, after) for _ in cluster.primaries]
    nodes = [
        stack.enter_context(Forger(node.host, node.port, forge))
        for node, forge in zip(cluster.primaries, forges, strict=True)
    ]
    pairs = zip(cluster.primaries, nodes, strict=True)
    options = Options(
        address_map=tuple(f"{node.host}:{node.port}={forger.address}" for node, forger in pairs),
        retry_for=5.0,
    )
    migration = Migration(source.url, f"redis+cluster://{nodes[0].address}", options)

    with contextlib.suppress(RefusedError, TargetLostError):
        migration.run()

    assert all(forge.left_out for forge in forges)
    report = migration.result()
    assert report.keys.migrated + report.keys.unchanged <= count_keys(cluster)
    if report.ok:
        assert_equal(source, cluster)


def test_a_script_that_runs_long_at_the_target_ends_well(
    source: LocalServer, cluster: LocalCluster, kind: ServerKind, stack: ExitStack
) -> None:
    """Its node answers BUSY to all that comes, what closes a batch among it."""
    with source.client() as client:
        client.mset({f"key:{number}": number for number in range(_KEYS)})
    node = cluster.primaries[0]
    setting = "busy-reply-threshold" if kind.version >= (7, 0) else "lua-time-limit"
    with node.client() as client:
        client.config_set(setting, 10)
    begun, busy = threading.Event(), threading.Event()
    forger = stack.enter_context(Forger(node.host, node.port))

    def run_script() -> None:
        begun.wait()
        with node.client() as client:
            busy.set()
            client.eval("local n = 0 while n < 30000000 do n = n + 1 end return n", 0)

    def forge(arguments: Arguments) -> Forgery | None:
        if arguments[0] == b"SET":
            begun.set()
            busy.wait()
        return None

    forger.forge = forge
    script = threading.Thread(target=run_script)
    script.start()
    options = Options(address_map=(f"{node.host}:{node.port}={forger.address}",), retry_for=60.0)
    others = ",".join(other.address for other in cluster.primaries[1:])

    report = Migration(source.url, f"redis+cluster://{others}", options).run()

    script.join()
    assert report.ok
    assert_equal(source, cluster)
