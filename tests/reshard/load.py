"""A client that reads and writes all the while: `python load.py SEED FILE RATE`, until its stdin ends.

FILE holds a key a line. Each write gives its key a larger number than before, each read checks that the
number is not older than the last acknowledged write. Redirects are followed as a cluster client does it. At
the end it prints what it saw as JSON.

Invariant: what counts as an error is an error reply that is no redirect, or a value that can't be; a
connection that breaks and a cluster that is down for a moment are counted apart.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import sys
import time
from pathlib import Path


class Connection:
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def ask(self, *commands: tuple[bytes, ...]) -> bytes | None:
        """Send commands and return the last one's reply: a line, or a bulk with `$` before it."""
        self.socket.sendall(b"".join(encode(command) for command in commands))
        reply: bytes | None = None
        for _ in commands:
            reply = self.reply()
        return reply

    def reply(self) -> bytes | None:
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("closed")
        if line.startswith(b"$"):
            size = int(line[1:])
            return None if size < 0 else b"$" + self.file.read(size + 2)[:-2]
        return line[:-2]


def encode(command: tuple[bytes, ...]) -> bytes:
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)


class Load:
    def __init__(self, seed: str, keys: list[bytes]) -> None:
        self.seeds = [seed]
        self.keys = keys
        self.connections: dict[str, Connection] = {}
        self.owner: dict[bytes, str] = {}
        self.written: dict[bytes, int] = {}
        self.doubted: dict[bytes, int] = {}
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.redirects = self.disconnects = self.unavailable = self.gone = 0
        self.rng = random.Random(1)

    def connection(self, node: str) -> Connection:
        if node not in self.connections:
            host, _, port = node.rpartition(":")
            self.connections[node] = Connection(host, int(port))
        return self.connections[node]

    def step(self) -> None:
        key = self.rng.choice(self.keys)
        begun = time.perf_counter()
        if self.rng.random() < 0.5:
            number = max(self.written.get(key, 0), self.doubted.get(key, 0)) + 1
            self.doubted[key] = number
            if self.run(key, (b"SET", key, b"%d" % number)) == b"+OK":
                self.written[key] = number
        else:
            reply = self.run(key, (b"GET", key))
            number = int(reply[1:]) if reply is not None and reply[:1] == b"$" and reply[1:].isdigit() else 0
            if reply is not None and reply[:1] == b"!":
                return
            if number < self.written.get(key, 0):
                self.errors.append(f"{key!r} is {number}, and {self.written[key]} was acknowledged")
                self.written[key] = number
        self.latencies.append(time.perf_counter() - begun)

    def run(self, key: bytes, command: tuple[bytes, ...]) -> bytes | None:
        """Run a command where the key is, however often it is sent on; `!` when it had no answer in 60 s."""
        deadline = time.monotonic() + 60
        node, asking = self.owner.get(key, self.seeds[0]), False
        while time.monotonic() < deadline:
            try:
                commands = [(b"ASKING",), command] if asking else [command]
                reply = self.connection(node).ask(*commands)
            except OSError:
                self.disconnects += 1
                self.connections.pop(node, None)
                self.owner.clear()
                time.sleep(0.02)
                node, asking = self.rng.choice(self.seeds), False
                continue
            match = re.match(rb"-(MOVED|ASK) \d+ (\S+)", reply or b"")
            if match:
                self.redirects += 1
                node, asking = match[2].decode(), match[1] == b"ASK"
                if node not in self.seeds:
                    self.seeds.append(node)
                if not asking:
                    self.owner[key] = node
                continue
            if reply and reply.startswith((b"-CLUSTERDOWN", b"-TRYAGAIN", b"-LOADING", b"-MASTERDOWN")):
                self.unavailable += 1
                time.sleep(0.02)
                asking = False
                continue
            if reply and reply.startswith(b"-"):
                self.errors.append(reply.decode())
            return reply
        self.errors.append(f"no answer for {key!r}")
        return b"!"

    def report(self) -> dict[str, object]:
        ordered = sorted(self.latencies) or [0.0]

        def at(part: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1000, 3)

        return {
            "operations": len(self.latencies),
            "errors": self.errors[:20],
            "error_count": len(self.errors),
            "redirects": self.redirects,
            "disconnects": self.disconnects,
            "unavailable": self.unavailable,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "max_ms": at(1),
            "written": {key.decode(): number for key, number in self.written.items()},
        }


def main() -> None:
    seed, file, rate = sys.argv[1:4]
    load = Load(seed, Path(file).read_bytes().split())
    period = 1 / float(rate)
    due = time.monotonic()
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        # A client that is behind does not make up for it: each operation is measured by itself.
        due = max(due + period, time.monotonic())
        load.step()
    print(json.dumps(load.report()), flush=True)


if __name__ == "__main__":
    main()
