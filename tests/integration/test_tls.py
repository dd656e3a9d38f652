"""TLS on both sides: verified by default, client certificates, and what is said of a wrong certificate."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme

from slotferry.errors import SourceNotReadyError
from slotferry.net.access_keeper import AccessKeeper
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Endpoint, Tls
from slotferry.testing.servers import LocalSentinel, LocalServer, LocalServerError, free_port, wait_until
from tests.command import Running, run
from tests.servers.kinds import available

KEYS = 5_000


@dataclass(frozen=True)
class TlsPair:
    """A standalone server and a cluster of one primary, both over TLS with client certificates asked for."""

    source: str
    target: str
    server: LocalServer
    node: LocalServer
    files: Path

    def arguments(self, *, ca: str = "ca.pem") -> list[str]:
        """The command's arguments with everything that the handshake takes."""
        arguments = ["migrate", self.source, self.target, "--json"]
        for side in ("source", "target"):
            arguments += [f"--{side}-ca", str(self.files / ca)]
            arguments += [f"--{side}-cert", str(self.files / "client.pem")]
            arguments += [f"--{side}-key", str(self.files / "client.key")]
        return arguments


def _tls_config(files: Path, port: int, certificate: str = "server") -> dict[str, str]:
    return {
        "tls-port": str(port),
        "tls-cert-file": str(files / f"{certificate}.pem"),
        "tls-key-file": str(files / f"{certificate}.key"),
        "tls-ca-cert-file": str(files / "ca.pem"),
        "tls-auth-clients": "yes",
    }


def _write_certificates(files: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    long_ago = datetime.now(timezone.utc) - timedelta(days=9)
    yesterday = datetime.now(timezone.utc) - timedelta(days=1)
    authority.cert_pem.write_to_path(str(files / "ca.pem"))
    stranger.cert_pem.write_to_path(str(files / "other-ca.pem"))
    for name, certificate in [
        ("server", authority.issue_cert("localhost", "127.0.0.1")),
        ("client", authority.issue_cert("operator")),
        ("stranger", stranger.issue_cert("operator")),
        ("elsewhere", authority.issue_cert("elsewhere.example")),
        (
            "expired",
            authority.issue_cert("localhost", "127.0.0.1", not_before=long_ago, not_after=yesterday),
        ),
    ]:
        certificate.private_key_pem.write_to_path(str(files / f"{name}.key"))
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(str(files / f"{name}.pem"), append=True)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPair]:
    files = tmp_path_factory.mktemp("tls")
    _write_certificates(files)
    for kind in available().values():
        with ExitStack() as stack:
            source_port, target_port = free_port(), free_port()
            cluster = {"cluster-enabled": "yes", "tls-cluster": "yes"}
            try:
                server = stack.enter_context(LocalServer(kind.binary, config=_tls_config(files, source_port)))
                node = stack.enter_context(
                    LocalServer(kind.binary, config={**cluster, **_tls_config(files, target_port)})
                )
            except LocalServerError:
                continue  # this binary was built without TLS: another may have it
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
                wait_until(
                    lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),
                    "the cluster of one to be ok",
                )
            yield TlsPair(
                f"rediss://localhost:{source_port}",
                f"rediss+cluster://127.0.0.1:{target_port}",
                server,
                node,
                files,
            )
            return
    pytest.skip("no server binary of this machine was built with TLS")


@pytest.fixture(autouse=True)
def _as_at_first(pair: TlsPair) -> None:
    with pair.node.client() as client:
        client.flushall()
    with pair.server.client() as client:
        client.mset({f"key:{i}": i for i in range(KEYS)})


def _count(pair: TlsPair) -> int:
    with pair.node.client() as client:
        return int(client.dbsize())


def test_both_sides_with_client_certificates(pair: TlsPair) -> None:
    outcome = run(*pair.arguments())

    assert outcome.code == 0, outcome.stderr
    assert outcome.keys["migrated"] == _count(pair) == KEYS


def test_a_source_is_followed_over_tls(pair: TlsPair, tmp_path: Path) -> None:
    journal = ("--journal", str(tmp_path / "journal.db"), "--job", "moving")
    with (
        pair.server.client() as client,
        pair.node.client() as target,
        Running(*pair.arguments(), "--follow", *journal) as running,
    ):
        wait_until(lambda: _count(pair) == KEYS, "it is not copied")
        client.set("key:0", "later")
        wait_until(lambda: target.get("key:0") == b"later", "it is not followed")
        running.send(signal.SIGINT)
        done = running.finish()
    assert done.code == 130, done.stderr
    assert done.summary["follow"]["connected"]


def test_a_certificate_of_another_authority_is_refused(pair: TlsPair) -> None:
    outcome = run(*pair.arguments(ca="other-ca.pem"))

    assert outcome.code == 4
    assert "certificate" in outcome.stderr
    assert "--source-ca" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert _count(pair) == 0


def _server(pair: TlsPair, stack: ExitStack, certificate: str) -> str:
    """Start a source with that certificate and return its URL."""
    port = free_port()
    config = _tls_config(pair.files, port, certificate)
    stack.enter_context(LocalServer(pair.server.binary, config=config))
    return f"rediss://localhost:{port}"


@pytest.mark.parametrize(
    ("certificate", "says"),
    [
        ("expired", "certificate has expired.*\n.*renew the server's certificate"),
        ("elsewhere", "not valid for 'localhost'.*\n.*--source-sni"),
    ],
)
def test_a_certificate_that_does_not_do(pair: TlsPair, stack: ExitStack, certificate: str, says: str) -> None:
    arguments = pair.arguments()
    arguments[1] = _server(pair, stack, certificate)

    outcome = run(*arguments)

    assert outcome.code == 4
    assert re.search(says, outcome.stderr), outcome.stderr
    assert _count(pair) == 0


def test_the_name_of_the_certificate_can_be_said(pair: TlsPair, stack: ExitStack) -> None:
    arguments = pair.arguments()
    arguments[1] = _server(pair, stack, "elsewhere")

    outcome = run(*arguments, "--source-sni", "elsewhere.example")

    assert outcome.code == 0, outcome.stderr


def test_a_client_certificate_of_another_authority(pair: TlsPair) -> None:
    arguments = pair.arguments()
    arguments[arguments.index("--source-cert") + 1] = str(pair.files / "stranger.pem")
    arguments[arguments.index("--source-key") + 1] = str(pair.files / "stranger.key")

    outcome = run(*arguments)

    assert outcome.code == 4
    assert "--source-cert" in outcome.stderr
    assert _count(pair) == 0


def test_sentinels_over_tls(pair: TlsPair, stack: ExitStack) -> None:
    port = free_port()
    config = {**_tls_config(pair.files, port), "tls-replication": "no"}
    sentinel = stack.enter_context(
        LocalSentinel(pair.server.binary, "mymaster", pair.server, quorum=1, config=config)
    )
    assert sentinel.running
    arguments = pair.arguments()
    arguments[1] = f"rediss+sentinel://localhost:{port}/mymaster"
    # What the Sentinel announces is the port without TLS.
    tls_address = pair.source.removeprefix("rediss://")

    outcome = run(*arguments, "--address-map", f"{pair.server.address}={tls_address}")

    assert outcome.code == 0, outcome.stderr
    assert outcome.keys["migrated"] == _count(pair) == KEYS


def test_certificates_that_change_are_used_from_the_next_connection_on(pair: TlsPair, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("ca.pem", "client.pem", "client.key")}
    for name, file in files.items():
        file.write_bytes((pair.files / name.replace("client", "stranger")).read_bytes())
    tls = Tls(files["ca.pem"], files["client.pem"], files["client.key"])
    endpoint = Endpoint.parse(pair.source, "source").with_credentials(None, tls)
    connector = Connector(endpoint, "source")
    keeper = AccessKeeper({"source": connector})
    with pytest.raises(SourceNotReadyError), connector.open() as node:
        node.call("PING")  # in TLS 1.3 a client learns only now that its certificate was refused
    files["client.key"].write_bytes((pair.files / "client.key").read_bytes())
    # The pair does not fit for a moment: what was there before holds.
    wait_until(lambda: not keeper.poll(), "nothing to be new")
    files["client.pem"].write_bytes((pair.files / "client.pem").read_bytes())
    renewed: list[object] = []

    def is_renewed() -> bool:
        renewed.extend(keeper.poll())
        return bool(renewed)

    wait_until(is_renewed, "the certificate to be read again")
    with connector.open() as node:
        assert node.call("PING") == b"PONG"


def test_a_certificate_for_another_name_is_refused(pair: TlsPair) -> None:
    outcome = run(*pair.arguments(), "--source-sni", "elsewhere.example")

    assert outcome.code == 4
    assert "Traceback" not in outcome.stderr
    assert _count(pair) == 0


def test_insecure_says_what_it_is_and_works(pair: TlsPair) -> None:
    arguments = pair.arguments(ca="other-ca.pem")

    outcome = run(*arguments, "--source-insecure", "--target-insecure")

    assert outcome.code == 0, outcome.stderr
    assert _count(pair) == KEYS


def test_a_missing_client_certificate_is_one_clear_sentence(pair: TlsPair) -> None:
    outcome = run("migrate", pair.source, pair.target, "--source-ca", str(pair.files / "ca.pem"))

    assert outcome.code == 4
    assert "Traceback" not in outcome.stderr
    assert _count(pair) == 0


def test_a_key_that_does_not_fit_its_certificate(pair: TlsPair) -> None:
    arguments = pair.arguments()
    arguments[arguments.index("--source-key") + 1] = str(pair.files / "server.key")

    outcome = run(*arguments)

    assert outcome.code == 2
    assert "do not fit" in outcome.stderr
    assert str(pair.files / "server.key") in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_check_and_its_watch_over_tls(pair: TlsPair) -> None:
    _, *others = pair.arguments()

    outcome = run("check", *others, "--watch", "1s")

    assert outcome.code == 0, outcome.stderr
    rows = {row["name"]: row for row in outcome.lines[:-1]}
    assert rows["source-reach"]["status"] == rows["observed"]["status"] == "ok"
    assert "MONITOR for" in rows["observed"]["message"]
    assert outcome.lines[-1]["data"]["keys"] == KEYS
