"""Bad input to `slotferry migrate`: one sentence that says what, where and what to do; nothing written."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer, free_port
from tests.command import Outcome, run
from tests.integration.migrating import count_keys
from tests.servers.fake import http_peer, mute_peer
from tests.servers.kinds import ServerKind

USAGE, REFUSED, SOURCE_LOST, TARGET_LOST = 2, 4, 5, 6
_SECRET = "hunter2-very-secret"


def _assert_one_sentence(done: Outcome, code: int, *says: str) -> None:
    lines = done.stderr.strip().splitlines()
    complaints = [line for line in lines if line.startswith("slotferry: ")]
    assert done.code == code, done.stderr
    assert "Traceback" not in done.stderr
    assert complaints
    assert re.match(r"slotferry: \S.*[^.]$", complaints[-1]), complaints
    assert lines[-1].startswith("  hint: "), done.stderr
    for part in says:
        assert re.search(part, done.stderr, re.IGNORECASE), f"{part!r} is not in {done.stderr!r}"


@pytest.fixture
def filled(source: LocalServer) -> LocalServer:
    with source.client() as client:
        client.mset({f"key:{i}": i for i in range(100)})
    return source


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:1", "http"),
        ("127.0.0.1:6379", "URL"),
        ("redis://127.0.0.1:port", "port"),
        ("redis://127.0.0.1:99999", "port|99999"),
        ("redis://[::1", r"source"),
        ("redis://127.0.0.1/x", "database|db"),
        ("unix://", "path"),
        ("", "URL"),
    ],
)
def test_a_source_url_that_makes_no_sense(cluster: LocalCluster, url: str, says: str) -> None:
    _assert_one_sentence(run("migrate", url, cluster.url), USAGE, "source", says)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--on-conflict", "maybe"),
        ("--memory-limit", "12 parsecs"),
        ("--memory-limit", "-5MB"),
        ("--parallel-scans", "3"),
        ("--retry-for", "soon"),
        ("--progress", "fireworks"),
        ("--no-such-option",),
        ("--config", "/nonexistent/slotferry.toml"),
        ("--source-password-file", "/nonexistent/password"),
        ("--report", "/nonexistent/folder/report.json"),
    ],
    ids=" ".join,
)
def test_options_that_make_no_sense(
    filled: LocalServer, cluster: LocalCluster, arguments: tuple[str, ...]
) -> None:
    done = run("migrate", filled.url, cluster.url, *arguments)

    assert done.code == USAGE, done.stderr
    assert "Traceback" not in done.stderr
    assert arguments[0].strip("-").split("-")[0] in done.stderr
    assert count_keys(cluster) == 0


def test_a_source_that_refuses_connections(cluster: LocalCluster) -> None:
    port = free_port()
    done = run("migrate", f"redis://127.0.0.1:{port}", cluster.url)

    _assert_one_sentence(done, SOURCE_LOST, "source", f"127.0.0.1:{port}", "refused")


def test_a_target_that_refuses_connections(filled: LocalServer) -> None:
    port = free_port()
    done = run("migrate", filled.url, f"redis+cluster://127.0.0.1:{port}")

    _assert_one_sentence(done, TARGET_LOST, "target", f"127.0.0.1:{port}", "refused")


def test_a_host_that_does_not_exist(cluster: LocalCluster) -> None:
    done = run("migrate", "redis://no-such-host.invalid:6379", cluster.url)

    _assert_one_sentence(done, SOURCE_LOST, "source", r"no-such-host\.invalid")


def test_a_socket_that_does_not_exist(cluster: LocalCluster) -> None:
    done = run("migrate", "unix:///nonexistent/redis.sock", cluster.url)

    _assert_one_sentence(done, SOURCE_LOST, "source", "/nonexistent/redis.sock")


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_peer_that_speaks_http(filled: LocalServer, cluster: LocalCluster, side: str) -> None:
    with http_peer() as port:
        url = f"redis://127.0.0.1:{port}"
        urls = (url, cluster.url) if side == "source" else (filled.url, url)
        done = run("migrate", *urls)

    _assert_one_sentence(done, REFUSED, side, "RESP", f"127.0.0.1:{port}")
    assert count_keys(cluster) == 0


@pytest.mark.parametrize(("side", "code"), [("source", SOURCE_LOST), ("target", TARGET_LOST)])
def test_a_peer_that_never_answers(filled: LocalServer, cluster: LocalCluster, side: str, code: int) -> None:
    with mute_peer() as port:
        url = f"redis://127.0.0.1:{port}"
        urls = (url, cluster.url) if side == "source" else (filled.url, url)
        done = run("migrate", *urls)

    _assert_one_sentence(done, code, side, f"127.0.0.1:{port}")


def test_a_wrong_password_is_named_by_side_and_never_repeated(
    kind: ServerKind, cluster: LocalCluster, stack: ExitStack
) -> None:
    guarded = stack.enter_context(LocalServer(kind.binary, password="right"))
    url = guarded.url.replace("://", f"://:{_SECRET}@")

    done = run("migrate", url, cluster.url)

    _assert_one_sentence(done, REFUSED, "source", guarded.address, "password|WRONGPASS")
    assert _SECRET not in done.stdout + done.stderr


def test_a_missing_password(kind: ServerKind, filled: LocalServer, stack: ExitStack) -> None:
    guarded = stack.enter_context(LocalCluster(kind.binary, primaries=1, password="right"))

    done = run("migrate", filled.url, guarded.url)

    _assert_one_sentence(done, REFUSED, "target", "password")
    assert count_keys(guarded) == 0


def test_passwords_from_the_environment_and_from_files(
    kind: ServerKind, stack: ExitStack, tmp_path: Path
) -> None:
    source = stack.enter_context(LocalServer(kind.binary, password=_SECRET))
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=1, password=_SECRET))
    with source.client() as client:
        client.set("key", "value")
    file = tmp_path / "password"
    file.write_text(f"{_SECRET}\n")
    folder = tmp_path / "state"
    folder.mkdir()
    journal = folder / "journal.db"

    by_environment = run(
        "migrate", source.url, cluster.url, "--json", "--journal", str(journal),
        env={"SLOTFERRY_SOURCE_PASSWORD": _SECRET, "SLOTFERRY_TARGET_PASSWORD": _SECRET},
    )  # fmt: skip
    by_file = run(
        "migrate", source.url, cluster.url, "--json", "--journal", str(journal),
        "--source-password-file", str(file), "--target-password-file", str(file),
    )  # fmt: skip

    assert by_environment.keys["migrated"] == by_file.keys["unchanged"] == 1
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert _SECRET.encode() not in written
    for done in (by_environment, by_file):
        assert _SECRET not in done.stdout + done.stderr


def test_a_standalone_target(kind: ServerKind, filled: LocalServer, stack: ExitStack) -> None:
    target = stack.enter_context(LocalServer(kind.binary))

    done = run("migrate", filled.url, target.url)

    _assert_one_sentence(done, REFUSED, "target", target.address, "not a cluster")
    with target.client() as client:
        assert client.dbsize() == 0


def test_a_source_that_is_a_cluster(cluster: LocalCluster) -> None:
    by_url = run("migrate", cluster.url, cluster.url)
    _assert_one_sentence(by_url, REFUSED, "source", "cluster")

    by_node = run("migrate", cluster.primaries[0].url, cluster.url)
    _assert_one_sentence(by_node, REFUSED, "source")


def test_source_and_target_are_the_same_server(filled: LocalServer) -> None:
    _assert_one_sentence(run("migrate", filled.url, filled.url), REFUSED, "same server")


def test_a_cluster_whose_slots_are_not_all_covered(
    kind: ServerKind, filled: LocalServer, stack: ExitStack
) -> None:
    cluster = stack.enter_context(LocalCluster(kind.binary))
    with cluster.primaries[0].client() as client:
        client.execute_command("CLUSTER", "DELSLOTS", 0, 1, 2, 77)

    done = run("migrate", filled.url, cluster.primaries[0].url)

    _assert_one_sentence(done, REFUSED, "target", "0-2", "77", "slots")
    assert count_keys(cluster) == 0


def test_a_database_that_the_cluster_does_not_have(filled: LocalServer, cluster: LocalCluster) -> None:
    done = run("migrate", filled.url, f"{cluster.url}/1")

    _assert_one_sentence(done, REFUSED, "target", "database 1")
    assert count_keys(cluster) == 0


def test_a_database_that_the_source_does_not_have(filled: LocalServer, cluster: LocalCluster) -> None:
    for arguments in ((f"{filled.url}/99", cluster.url), (filled.url, cluster.url, "--db", "99")):
        for command in ("migrate", "verify"):
            done = run(command, *arguments)
            _assert_one_sentence(done, REFUSED, "source has no database 99", "it has 16 databases, 0 to 15")
            assert "database 0 holds" in done.stderr, done.stderr


def test_a_journal_that_is_none(filled: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    journal.write_bytes(b"this is no database, but somebody's letter\n" * 100)

    done = run("migrate", filled.url, cluster.url, "--journal", str(journal))

    _assert_one_sentence(done, REFUSED, "journal", str(journal))
    assert journal.read_bytes().startswith(b"this is no database")
    assert count_keys(cluster) == 0


def test_a_journal_that_cannot_be_written(filled: LocalServer, cluster: LocalCluster, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()

    done = run("migrate", filled.url, cluster.url, "--journal", str(in_the_way / "journal.db"))

    _assert_one_sentence(done, REFUSED, "journal", str(in_the_way))
    assert count_keys(cluster) == 0


def test_another_setup_of_the_same_job_shows_the_difference(
    filled: LocalServer, cluster: LocalCluster
) -> None:
    with cluster.client() as new:
        new.set("key:1", "in the way")
    assert run("migrate", filled.url, cluster.url, "--job", "nightly").code == 3

    done = run(
        "migrate", filled.url, cluster.url, "--job", "nightly", "--match", "user:*", "--on-conflict", "skip"
    )

    _assert_one_sentence(done, REFUSED, "nightly", r"user:\*", "--restart")


def test_errors_come_in_the_json_summary_too(cluster: LocalCluster) -> None:
    done = run("migrate", f"redis://127.0.0.1:{free_port()}", cluster.url, "--json")

    assert done.code == SOURCE_LOST
    assert done.summary["status"] == "failed"
    assert done.summary["error"]["kind"] == "source_lost"
    assert done.summary["error"]["message"]
    assert done.summary["error"]["hint"]
