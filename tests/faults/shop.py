"""A shop: an application of its own process that reads and writes all the time, and counts what failed.

Invariant: no counter has more than one writer, which knows what was acknowledged and what was only tried; so
each reply, and what it reads after a connection was lost, is checked: nothing lost, nothing doubled. A
source's failover may take what its replicas had not acknowledged (WAIT), and no more.
"""

from __future__ import annotations

import argparse
import json
import random
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.exceptions import ResponseError
from redis.retry import Retry
from redis.sentinel import Sentinel

from tests.faults.shop_visits import OPERATIONS, fill_commands, visit

Client = Any
"""`Redis` or `RedisCluster`: the application speaks to both with the same words."""

_USERS = 500
_SALES_KEPT = 50
_WAIT_EVERY = 10
_WAIT_MS = 50
_BETWEEN_TRIES = 0.05
_ACKNOWLEDGING = 2
"""A replica of the source, and the run that follows it: its ACK counts as a replica's."""

_SELL = """
local sold = redis.call('INCR', KEYS[1])
redis.call('ZADD', KEYS[2], sold, ARGV[1])
redis.call('HSET', KEYS[3], 'last', sold)
return sold
"""


class SurpriseError(Exception):
    """A reply that can't be right: something was lost or doubled."""


class RolledBackError(Exception):
    """A client that has reconnected by itself finds less than was acknowledged, as after a failover."""


class Ledger:
    """What one writer knows of its counters: `acknowledged`, `tried` and `safe` (acknowledged by WAIT)."""

    def __init__(self, worker: int) -> None:
        self.till = f"{{till:{worker}}}"
        self.names = ("plain", "field", "score", "sold", "scripted")
        self.acknowledged = dict.fromkeys(self.names, 0)
        self.tried = dict.fromkeys(self.names, 0)
        self.safe = dict.fromkeys(self.names, 0)

    def read(self, client: Client) -> dict[str, int]:
        """Return what each counter holds."""
        till = self.till
        read = {
            "plain": client.get(f"{till}:plain"),
            "field": client.hget(f"{till}:hash", "n"),
            "score": client.zscore(f"{till}:zset", "n"),
            "sold": client.get(f"{till}:sold"),
            "scripted": client.get(f"{till}:scripted"),
        }
        return {name: int(value or 0) for name, value in read.items()}

    def begin(self, client: Client, *, is_same_history: bool) -> None:
        """Take what is there for the truth, if it can be true. Raises `SurpriseError`."""
        found = self.read(client)
        least = self.acknowledged if is_same_history else self.safe
        for name, value in found.items():
            if not least[name] <= value <= self.tried[name]:
                raise SurpriseError(
                    f"{self.till}:{name} is {value}: {self.safe[name]} were acknowledged by WAIT, "
                    f"{self.acknowledged[name]} acknowledged, {self.tried[name]} tried"
                )
        self.acknowledged = dict(found)
        self.tried = dict(found)
        with client.pipeline(transaction=True) as pipe:
            pipe.hget(f"{self.till}:hash", "sold")
            pipe.llen(f"{self.till}:sales")
            noted, kept = (int(value or 0) for value in pipe.execute())
        if (noted, kept) != (found["sold"], min(_SALES_KEPT, found["sold"])):
            raise SurpriseError(f"{self.till}: {found['sold']} were sold, {noted} noted, {kept} kept")

    def count(self, name: str, change: Callable[[], Any]) -> None:
        """Increment one. Raises an error where its reply is not the next number."""
        self.tried[name] += 1
        value = int(change())
        if value != self.acknowledged[name] + 1:
            told = f"{self.till}:{name} became {value} after {self.acknowledged[name]}"
            # How far back is looked at when it begins again.
            raise RolledBackError(told) if value <= self.acknowledged[name] else SurpriseError(told)
        self.acknowledged[name] = value

    def look(self, client: Client) -> None:
        """Read each. Raises an error where one is not what was acknowledged."""
        found = self.read(client)
        if found != self.acknowledged:
            told = f"{self.till} holds {found} where {self.acknowledged} was acknowledged"
            is_less = all(found[name] <= self.acknowledged[name] for name in found)
            raise RolledBackError(told) if is_less else SurpriseError(told)


class Worker(threading.Thread):
    """One thread of the application; what fails is tried again, on a new connection."""

    def __init__(self, number: int, shop: Shop) -> None:
        super().__init__(name=f"worker {number}", daemon=True)
        self.ledger = Ledger(number)
        self.rounds = 0
        self.operations = 0
        self.failures: list[dict[str, Any]] = []
        self.side = ""
        """Which side the last whole round was on."""
        self.switched = threading.Event()
        self._number = number
        self._shop = shop
        self._client: Client = None
        self._client_side = ""
        self._rng = random.Random(number)

    def run(self) -> None:
        due = time.monotonic()
        while not self._shop.closing.is_set():
            begun = time.monotonic()
            try:
                self._connect()
                self._round()
                self.rounds += 1
                self.side = self._client_side
                if self.side == "cluster":
                    self.switched.set()
            except Exception as error:  # noqa: BLE001 - each is told, and judged by the test
                self._failed(begun, error)
                self._shop.closing.wait(_BETWEEN_TRIES)
            due = max(due + self._shop.pace, time.monotonic() - 1)  # what was missed is not all made up for
            self._shop.closing.wait(due - time.monotonic())

    def drop(self) -> None:
        """End its connections, also one that it waits on."""
        client = self._client
        if isinstance(client, Redis):
            client.connection_pool.disconnect()

    def _failed(self, begun: float, error: Exception) -> None:
        told = f"{type(error).__name__}: {error}"
        failure = {"begun": begun, "ended": time.monotonic(), "side": self._shop.side, "error": told}
        self.failures.append({**failure, "surprise": self._is_surprise(error)})
        self._client, client = None, self._client
        if client is not None:
            client.close()

    def _is_surprise(self, error: Exception) -> bool:
        return isinstance(error, SurpriseError) or (
            isinstance(error, RolledBackError) and self._client_side == "cluster"
        )

    def _connect(self) -> None:
        side = self._shop.side
        if self._client is not None and self._client_side == side:
            return
        old, self._client = self._client, None
        if old is not None:
            old.close()
        client = self._shop.open(side)
        # Nothing fails over while the application is switched: what was acknowledged has to be there.
        self.ledger.begin(client, is_same_history=side != self._client_side and bool(self._client_side))
        self._client, self._client_side = client, side

    def _round(self) -> None:
        self._count()
        self._browse()
        client, at_source = self._client, self._client_side == "source"
        if at_source and self.rounds % _WAIT_EVERY == 0:
            acknowledged = dict(self.ledger.acknowledged)
            if client.wait(_ACKNOWLEDGING, _WAIT_MS) >= _ACKNOWLEDGING:
                self.ledger.safe = acknowledged

    def _count(self) -> None:
        client, ledger, till = self._client, self.ledger, self.ledger.till
        keys = (f"{till}:scripted", f"{till}:board", f"{till}:profile")
        changes: list[tuple[str, Callable[[], Any]]] = [
            ("plain", lambda: client.incr(f"{till}:plain")),
            ("field", lambda: client.hincrby(f"{till}:hash", "n", 1)),
            ("score", lambda: client.zincrby(f"{till}:zset", 1, "n")),
            ("sold", self._sell),
            ("scripted", lambda: client.eval(_SELL, 3, *keys, f"buyer {self.rounds % 50}")),
        ]
        self._rng.shuffle(changes)  # so that each of them may be the first to be refused
        for name, change in changes:
            ledger.count(name, change)
        ledger.look(client)
        self.operations += 15

    def _sell(self) -> int:
        till, number = self.ledger.till, self.ledger.acknowledged["sold"] + 1
        with self._client.pipeline(transaction=True) as pipe:
            pipe.incr(f"{till}:sold")
            pipe.hincrby(f"{till}:hash", "sold", 1)
            pipe.rpush(f"{till}:sales", number)
            pipe.ltrim(f"{till}:sales", -_SALES_KEPT, -1)
            return int(pipe.execute()[0])

    def _browse(self) -> None:
        user, rng = self._rng.randrange(_USERS), self._rng
        with self._client.pipeline(transaction=False) as pipe:
            for words in visit(user, rng, self._shop.operations):
                pipe.execute_command(*words)
            replies = pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, ResponseError) and "no such key" in str(reply):
                continue  # RENAME and the like of what another worker has taken
            if isinstance(reply, Exception):
                raise reply
        self._client.blpop(f"{{user:{user}}}:cart", timeout=0.01)
        self._serve_mail(user)
        self.operations += len(replies) + 3

    def _serve_mail(self, user: int) -> None:
        mail, consumer = f"{{user:{user}}}:mail", f"worker {self._number}"
        got = self._client.xreadgroup("mailers", consumer, {mail: ">"}, count=5)
        streams = got.values() if isinstance(got, dict) else [row[1] for row in got]
        identities = [entry[0] for entries in streams for entry in _flat(entries)]
        if identities[1:]:  # the first stays pending
            self._client.xack(mail, "mailers", *identities[1:])


def _flat(entries: Sequence[Any]) -> Sequence[Any]:
    """Return the entries of a stream, which RESP3 nests once more."""
    return entries[0] if entries and entries[0] and isinstance(entries[0][0], (list, tuple)) else entries


class Shop:
    """The application: its workers, and the side they all speak to."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.side = "source"
        self.closing = threading.Event()
        self.workers = [Worker(number, self) for number in range(options.workers)]
        self.pace = options.workers * options.operations / options.rate
        self.operations = [*OPERATIONS["all"], *(OPERATIONS["field ttls"] if options.field_ttls else ())]

    def open(self, side: str) -> Client:
        """Return a new client of that side; what fails, fails at once, so that it is counted."""
        never = Retry(NoBackoff(), 0)
        if side == "source":
            hosts = [_address(each) for each in self._options.sentinels]
            sentinel: Any = Sentinel(hosts, socket_timeout=2)  # type: ignore[no-untyped-call]
            return sentinel.master_for(self._options.service, socket_timeout=10, retry=never)
        node: Any = ClusterNode
        nodes = [node(*_address(each)) for each in self._options.nodes]
        return RedisCluster(startup_nodes=nodes, socket_timeout=10, retry=never)

    def fill(self) -> None:
        """Write the goods and the users that are there before it opens."""
        client = self.open("source")
        for user in range(_USERS):
            with client.pipeline(transaction=False) as pipe:
                for words in fill_commands(user):
                    pipe.execute_command(*words)
                pipe.execute()
        client.close()

    def do(self, what: str) -> dict[str, Any]:
        """Answer what is asked."""
        if what == "switch":
            self.side = "cluster"
            for worker in self.workers:
                worker.drop()
            for worker in self.workers:
                worker.switched.wait()
        if what == "stop":
            self.closing.set()
            for worker in self.workers:
                worker.join()
        return self.told()

    def told(self) -> dict[str, Any]:
        """Return how it goes."""
        workers = self.workers
        return {
            "rounds": [worker.rounds for worker in workers],
            "sides": [worker.side for worker in workers],
            "operations": sum(worker.operations for worker in workers),
            "safe": [min(worker.ledger.safe.values()) for worker in workers],
            "counters": {worker.ledger.till: worker.ledger.acknowledged for worker in workers},
            "failures": [failure for worker in workers for failure in list(worker.failures)],
        }


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)


def serve(options: argparse.Namespace) -> None:
    """Open the shop; print the port where it is asked; end with stdin."""
    shop = Shop(options)
    shop.fill()

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            told = shop.do(self.rfile.readline().decode().strip())
            self.wfile.write(json.dumps(told).encode() + b"\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for worker in shop.workers:
            worker.start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()


def main() -> None:
    """Run the application."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sentinels", nargs="+", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--nodes", nargs="+", required=True)
    parser.add_argument("--rate", type=float, required=True, help="operations a second")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--operations", type=int, default=40, help="how many a round has, about")
    parser.add_argument("--field-ttls", action="store_true")
    serve(parser.parse_args())


if __name__ == "__main__":
    main()
