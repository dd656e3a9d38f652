"""What the servers alone need for a copy: their CPU per key for SCAN, DUMP + PTTL and RESTORE.

Invariant: the streams are encoded beforehand and their replies are not parsed, so that the servers' own
figures (INFO cpu) depend on their work and not on the driver's. Run as
`python server_bound.py SOURCE SEED`, both HOST:PORT, with an empty cluster; prints JSON, CPU in seconds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redis.crc import key_slot

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.servers.raw import RawConnection, encode

_PAGE = 1000
_SCAN_COUNT = 1000
_RESTORE_CHUNK = 10_000
_MARKER = b"-end of the stream-"
_MARK = encode("ECHO", _MARKER)
_MARKED = b"$%d\r\n%b\r\n" % (len(_MARKER), _MARKER)

Keyspace = list[tuple[bytes, bytes]]
"""Every key of the source with its payload, in the order of SCAN."""


def measure(source: RawConnection, seed: RawConnection) -> dict[str, float]:
    """Return the keys there are and the CPU seconds of each stream over all of them."""
    scans, keyspace = _read(source)
    restores = _restores(seed, keyspace)
    return {
        "keys": len(keyspace),
        "scan": _cpu_of([source], [(source, scans)]),
        "dump_pttl": _cpu_of([source], [(source, _dumps(keyspace))]),
        "restore": _cpu_of(list(restores), restores.items()),
    }


def _read(source: RawConnection) -> tuple[list[bytes], Keyspace]:
    """Return the SCAN commands that walk the whole keyspace, and what they walk over."""
    scans: list[bytes] = []
    keyspace: Keyspace = []
    cursor = b"0"
    while True:
        scan = encode("SCAN", cursor, "COUNT", _SCAN_COUNT)
        (reply,) = source.pipeline_checked([scan])
        scans.append(scan)
        cursor, keys = reply
        payloads = source.pipeline_checked([encode("DUMP", key) for key in keys])
        keyspace += zip(keys, payloads, strict=True)
        if cursor == b"0":
            return _joined(scans, 10), keyspace


def _dumps(keyspace: Keyspace) -> list[bytes]:
    commands = [encode("DUMP", key) + encode("PTTL", key) for key, _ in keyspace]
    return _joined(commands, _PAGE)


def _restores(seed: RawConnection, keyspace: Keyspace) -> dict[RawConnection, list[bytes]]:
    """Return a stream for each primary; a stretch of the scan is in slot order, as a good client sends it."""
    owner: list[RawConnection] = [seed] * 16384
    for first, last, (host, port, *_), *_ in seed.execute("CLUSTER", "SLOTS"):
        owner[first : last + 1] = [RawConnection(host.decode(), port)] * (last + 1 - first)
    streams: dict[RawConnection, list[bytes]] = {node: [] for node in owner}
    for start in range(0, len(keyspace), _RESTORE_CHUNK):
        stretch = keyspace[start : start + _RESTORE_CHUNK]
        for slot, key, payload in sorted((key_slot(key), key, payload) for key, payload in stretch):
            streams[owner[slot]].append(encode("RESTORE", key, 0, payload))
    return {node: _joined(commands, _PAGE) for node, commands in streams.items()}


def _joined(commands: Sequence[bytes], size: int) -> list[bytes]:
    return [b"".join(commands[at : at + size]) for at in range(0, len(commands), size)]


def _cpu_of(servers: list[RawConnection], streams: Iterable[tuple[RawConnection, list[bytes]]]) -> float:
    before = sum(_cpu(server) for server in servers)
    for server, chunks in streams:
        for chunk in chunks:
            server.send(chunk + _MARK)
            _skip_replies(server)
    return sum(_cpu(server) for server in servers) - before


def _skip_replies(server: RawConnection) -> None:
    tail = b""
    while not tail.endswith(_MARKED):
        tail = (tail + server.receive())[-len(_MARKED) :]


def _cpu(server: RawConnection) -> float:
    text: bytes = server.execute("INFO", "cpu")
    fields = dict(line.split(":", 1) for line in text.decode().split() if ":" in line)
    return float(fields["used_cpu_sys"]) + float(fields["used_cpu_user"])


def main() -> None:
    source, seed = (_connection(address) for address in sys.argv[1:])
    print(json.dumps(measure(source, seed)))


def _connection(address: str) -> Any:
    host, _, port = address.rpartition(":")
    return RawConnection(host, int(port))


if __name__ == "__main__":
    main()
