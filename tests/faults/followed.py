"""What the tests of `migrate --follow` and `cutover` share: the job between a source and a cluster.

Invariant: it is run, and asked how it is, by the command alone, as a user does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Outcome, Running, run
from tests.servers.compare import assert_equal

SOURCES = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")
JOB = "moving"


@dataclass
class FollowedJob:
    """A job from the source at `url` into the cluster at `target`, and its journal."""

    url: str
    target: str
    journal: Path

    @property
    def named(self) -> tuple[str, ...]:
        """The options that name the job."""
        return ("--journal", str(self.journal), "--job", JOB)

    def words(self, *more: str) -> tuple[str, ...]:
        """Return the words of the command `migrate --follow`."""
        follows = ("migrate", self.url, self.target, "--follow", "--json", "--progress", "none")
        return (*follows, *self.named, *more)

    def start(self, *more: str, env: Mapping[str, str] | None = None) -> Running:
        """Start `migrate --follow`."""
        return Running(*self.words(*more), env=env)

    def cutover_words(self, *more: str) -> tuple[str, ...]:
        """Return the words of the command `cutover`, which has time enough."""
        return ("cutover", JOB, "--journal", str(self.journal), "--json", "--within", "60s", *more)

    def cut_over(self, *more: str) -> Outcome:
        """Cut over."""
        return run(*self.cutover_words(*more))

    def undo(self, *more: str, env: Mapping[str, str] | None = None) -> Outcome:
        """Let the source take writes again."""
        return run("cutover", JOB, "--journal", str(self.journal), "--undo", *more, env=env)

    def jobs(self, command: str, *more: str) -> Outcome:
        """Run that command of `slotferry jobs`; all of them but `list` are about the job."""
        about = () if command == "list" else (JOB,)
        return run("jobs", command, *about, "--journal", str(self.journal), *more)

    def show(self) -> list[dict[str, Any]]:
        """Return the lines of `jobs show --json`."""
        return self.jobs("show", "--json").lines

    def live(self) -> dict[str, Any]:
        """Return how it is just now; empty where it does not run."""
        return next((line for line in self.show() if line["type"] == "live"), {})

    def wait_following(self, running: Running) -> None:
        """Wait until the copy is done."""

        def follows() -> bool:
            assert not running.ended, running.finish()
            return bool(self.live().get("state") == "following")

        wait_until(follows, "it does not come to follow", timeout=60)

    def wait_settled(self) -> None:
        """Wait until a comparison has ended, and what it found is copied."""

        def settled() -> bool:
            follow = self.live()["follow"]
            return follow["comparisons"] > 0 and not follow["in_doubt"] and follow["touched"] == 0

        wait_until(settled, "both sides are not compared", timeout=60)


def keys_held(cluster: LocalCluster) -> int:
    """Return how many keys a cluster holds."""
    held = 0
    for node in cluster.primaries:
        with node.client() as client:
            held += int(client.dbsize())
    return held


def assert_soon_equal(source: LocalServer, cluster: LocalCluster) -> None:
    """Wait until both sides hold as many keys, then compare them."""
    with source.client() as client:
        wait_until(lambda: keys_held(cluster) == client.dbsize(), "the counts differ")
    assert_equal(source, cluster)
