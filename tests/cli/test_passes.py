"""One job in several passes: the last one as docs/move.md tells it, and what is said of keys that failed."""

from __future__ import annotations

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.command import run
from tests.servers.compare import assert_equal


def test_the_last_pass_with_another_policy_as_readme_tells_it(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(2_000)})
    command = ("migrate", source.url, cluster.url, "--json")
    assert run(*command).code == 0
    with source.client() as client:
        client.mset({f"key:{i}": "changed" for i in range(0, 2_000, 10)})
        client.set("later", 1)

    told = run(*command)  # what changed is a conflict, by the policy
    assert (told.code, told.keys["failed"]) == (3, 200)
    last = run(*command, "--on-conflict", "replace")

    assert last.code == 0, last.stdout
    assert last.keys["scanned"] == last.keys["migrated"] == 2_001
    assert not last.summary["resumed"]
    assert_equal(source, cluster)


def test_a_filter_stays_refused_when_the_job_has_ended(source: LocalServer, cluster: LocalCluster) -> None:
    assert run("migrate", source.url, cluster.url, "--match", "a*").code == 0
    refused = run("migrate", source.url, cluster.url, "--match", "b*", "--on-conflict", "replace")
    assert refused.code == 4
    assert "match: the journal has a*, the command says b*" in refused.stderr


def test_a_run_that_only_tries_failed_keys_again_says_so(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.mset({"key": "source", "other": 1})
        new.set("key", "target")
        assert run("migrate", source.url, cluster.url).code == 3
        old.set("later", 1)
        new.delete("key")

    again = run("migrate", source.url, cluster.url)
    assert again.code == 0
    assert "1 key that it left will be tried again" in again.stderr
    assert "what the source has got since then is not looked for; --restart" in again.stderr
    with cluster.client() as new:
        assert (new.get("key"), new.get("later")) == (b"source", None)

    whole = run("migrate", source.url, cluster.url)
    assert (whole.code, "tried again" in whole.stderr) == (0, False)
    assert_equal(source, cluster)


def test_the_same_command_is_advised_only_where_it_helps(source: LocalServer, cluster: LocalCluster) -> None:
    with source.client() as old, cluster.client() as new:
        old.set("key", "source")
        new.set("key", "target")
    command = ("migrate", source.url, cluster.url)
    told = run(*command)
    assert told.code == 3
    assert "tries them again" not in told.stdout
    assert "--on-conflict replace or skip" in told.stdout
    assert run(*command, "--on-conflict", "replace").code == 0
    with cluster.client() as new:
        assert new.get("key") == b"source"
