"""What TLS on both sides costs the engine: its CPU per key beside that of plain connections.

Invariant: both are measured in turns, on the same servers and the same keys; the best of each counts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from slotferry import Migration, Options
from slotferry.net.endpoints import Tls
from slotferry.testing.servers import LocalServer, LocalServerError, free_port, wait_until

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.integration.test_tls import _tls_config, _write_certificates
from tests.servers.dataset import fill_strings
from tests.servers.kinds import available
from tests.servers.raw import connect


def _servers(stack: ExitStack, files: Path, ports: tuple[int, int]) -> tuple[LocalServer, LocalServer]:
    cluster = {"cluster-enabled": "yes", "tls-cluster": "no"}
    for kind in available().values():
        try:
            source = stack.enter_context(LocalServer(kind.binary, config=_tls_config(files, ports[0])))
            target = stack.enter_context(
                LocalServer(kind.binary, config={**cluster, **_tls_config(files, ports[1])})
            )
        except LocalServerError:
            continue  # built without TLS
        return source, target
    raise SystemExit("no server binary of this machine was built with TLS")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with ExitStack() as stack:
        files = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _write_certificates(files)
        ports = free_port(), free_port()
        source, target = _servers(stack, files, ports)
        with target.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
            wait_until(
                lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"),
                "the cluster to be ok",
            )
        with connect(source) as connection:
            fill_strings(connection, options.keys)
        tls = Tls(files / "ca.pem", files / "client.pem", files / "client.key")
        ways = {
            "plain": (source.url, f"redis+cluster://{target.address}", Options(restart=True)),
            "TLS": (
                f"rediss://localhost:{ports[0]}",
                f"rediss+cluster://127.0.0.1:{ports[1]}",
                Options(
                    source_tls=tls,
                    target_tls=tls,
                    restart=True,
                    # Without tls-cluster a node announces its plain port, whoever asks.
                    address_map=[f"{target.address}=127.0.0.1:{ports[1]}"],
                ),
            ),
        }
        best: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, (from_url, to_url, settings) in ways.items():
                with target.client() as client:
                    client.flushall()
                report = Migration(from_url, to_url, settings).run()
                assert report.keys.migrated == options.keys
                cost = report.engine_cpu_seconds / options.keys * 1e6
                best[name] = min(cost, best.get(name, cost))
    for name, cost in best.items():
        print(f"{name:6} {cost:6.2f} µs of engine CPU per key")
    print(f"TLS costs {best['TLS'] / best['plain']:.2f} times the plain connection's")


if __name__ == "__main__":
    main()
