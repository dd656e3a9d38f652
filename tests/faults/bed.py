"""A migration under way, and all that a fault may lay hands on.

Invariant: everything is a real process: the servers, and `slotferry migrate` as a command of its own, which
is slowed down by its own `--max-keys-per-second`, so that a fault meets it in the middle. What is random
comes from one seed, which is printed.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from slotferry.errors import SlotferryError
from slotferry.jobs.control.control_socket import ask, live_status
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Outcome, Running, run
from tests.faults.writer import Writer
from tests.servers.dataset import fill
from tests.servers.kinds import ServerKind
from tests.servers.proxy import Proxy, put_behind_proxies
from tests.servers.raw import connect

JOB = "fault"
DURABLE = {"appendonly": "yes"}
QUICK = {"cluster-node-timeout": "1500", "repl-ping-replica-period": "1"}
_SECONDS = 6  # what a run takes at its own rate


class Bed:
    """Source, cluster and run of one fault."""

    def __init__(
        self,
        stack: ExitStack,
        folder: Path,
        kind: ServerKind,
        seed: int,
        *,
        keys: int,
        replicas: int = 0,
        config: Mapping[str, str] | None = None,
        source: LocalServer | None = None,
        source_config: Mapping[str, str] | None = None,
    ) -> None:
        self.stack, self.folder, self.kind = stack, folder, kind
        self.rng = random.Random(seed)
        self.cluster = stack.enter_context(
            LocalCluster(kind.binary, replicas_per_primary=replicas, config={**QUICK, **(config or {})})
        )
        self.source = source or stack.enter_context(LocalServer(kind.binary, config=source_config))
        with connect(self.source) as connection:
            self.keys = fill(connection, keys, seed=seed, big=False)
        self.proxy = stack.enter_context(Proxy(self.source.host, self.source.port))
        self.proxies: list[Proxy] = []
        self.source_url = f"redis://{self.proxy.address}"
        self.arguments: list[str] = []
        self.env: dict[str, str] = {}
        self.writer = Writer(lambda: self.source, self.rng)
        # With a writer a key may differ when it is looked at again; without one, every conflict is ours.
        self.on_conflict = self.rng.choice(["replace", "error"])
        self.journal = folder / "journal.db"
        self.running: Running | None = None
        self.codes: list[int] = []
        """The exit codes of the runs so far."""
        self._report = folder / "report.json"

    @property
    def command(self) -> tuple[str, ...]:
        """The command that is run, and run again until it is done."""
        fixed = ("--job", JOB, "--journal", str(self.journal), "--on-conflict", self.on_conflict)
        shown = ("--report", str(self._report), "--progress", "none", "--retry-for", "60s")
        return ("migrate", self.source_url, self.cluster.url, *fixed, *shown, *self.arguments)

    def start(self, share: float = 0.0, *, seconds: float = _SECONDS) -> Running:
        """Start the run, slowed down to take `seconds`, and wait until a `share` of the keys is settled."""
        rate = ("--max-keys-per-second", str(round(self.keys / seconds)))
        self.running = self.stack.enter_context(Running(*self.command, *rate, env=self.env))
        if share:
            self.wait_for(share)
        return self.running

    def put_behind_proxies(self) -> list[Proxy]:
        """Put a proxy before each node of the cluster."""
        self.proxies = put_behind_proxies(self.cluster, self.stack)
        return self.proxies

    def stop_meddling(self) -> None:
        """Let every proxy pass on what comes, at once."""
        for proxy in (self.proxy, *self.proxies):
            proxy.cut_after()
            proxy.delay = 0.0
            proxy.resume()

    def wait_for(self, share: float) -> None:
        """Wait until a `share` of the keys is settled, or the run has ended."""
        wait_until(
            lambda: self._ended() or self.settled() >= share * self.keys,
            f"{share:.0%} of the keys to be settled",
            timeout=120,
        )

    def settled(self) -> int:
        """How many keys the run knows as settled at this instant; 0 where none is to be asked."""
        status = live_status(self.journal, JOB)
        if status is None or "keys" not in status:
            return 0
        keys = status["keys"]
        return int(sum(count for name, count in keys.items() if name not in ("scanned", "pending", "failed")))

    def state(self) -> str:
        """The state of the run and its reason."""
        status = live_status(self.journal, JOB) or {"state": "gone", "reason": ""}
        return f"{status['state']}: {status['reason']}"

    def wait_state(self, part: str) -> None:
        """Wait until the run's state or its reason says `part`."""
        wait_until(lambda: self._ended() or part in self.state(), f"the run to say {part!r}", timeout=120)

    def hurry(self) -> None:
        """Let the run go on without its rate."""
        with contextlib.suppress(SlotferryError):  # it has ended, or is about to
            ask(self.journal, JOB, "rate", max_keys_per_second=None)

    def end(self, timeout: float = 240) -> Outcome:
        """Wait for the end of the run."""
        assert self.running is not None
        outcome = self.running.finish(timeout=timeout)
        self.codes.append(outcome.code)
        self.running = None
        return outcome

    def complete(self, most: int = 3) -> dict[str, Any]:
        """Run to the end, with the same command again where a run ends early; return the last summary."""
        if self.running is not None:
            self.hurry()
            self.end()
        while self.codes[-1] != 0:
            assert len(self.codes) <= most or self.codes[-1] not in (1, 2), self.codes
            outcome = run(*self.command, env=self.env)
            self.codes.append(outcome.code)
            assert outcome.code == 0 or most > 0, outcome.stderr + outcome.stdout[-3000:]
            most -= 1
        summary: dict[str, Any] = json.loads(self._report.read_text())
        return summary

    def _ended(self) -> bool:
        return self.running is None or self.running.ended
