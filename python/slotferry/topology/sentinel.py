"""Which server of a service is read: as its Sentinels say, and as the server itself confirms.

Invariant: a Sentinel that knows less is never believed: only answers of the highest configuration epoch
count, their Sentinels must have a quorum, and the server that they name must say itself that it has the role.
A replica is used only with its link up, and not before it has what the primary had when it was chosen; so
what the source held at the start of a run is not missed on a replica. Sources: SENTINEL MASTER, REPLICAS and
CKQUORUM (Sentinel's documentation), INFO replication.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from slotferry.errors import SlotferryError, SourceLostError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.address_map import AddressMap
from slotferry.net.connector import Connector
from slotferry.net.endpoints import Service
from slotferry.net.link import lost, not_ready
from slotferry.net.node import Node, raise_for
from slotferry.net.replies import NoPermissionError, ResponseError

_CATCH_UP_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_ASK_SENTINELS_SECONDS = 5.0
MOST_LAG_SECONDS = 10.0
UNFIT_SECONDS = 10.0
"""How long a replica that was chosen may be without its link, or lag, before it is left."""

ServerRole = Literal["primary", "replica"]


@dataclass(frozen=True)
class Found:
    """The server to read, and what the operator should know of how it was found."""

    address: Address
    role: ServerRole
    primary: Address
    run_id: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _View:
    """What one Sentinel says. `quorum` is its complaint, empty where there is none or it may not be asked."""

    sentinel: Address
    primary: Address
    epoch: int
    replicas: tuple[Address, ...]
    quorum: str


@dataclass(frozen=True)
class _Server:
    """What one server says of itself; `trouble` is why it can't be read, empty where it can."""

    address: Address
    role: ServerRole
    run_id: str
    offset: int
    trouble: str = ""


class ServiceFinder:
    """Finds the server to read, anew at each call of `find`."""

    def __init__(self, connector: Connector) -> None:
        service = connector.endpoint.service
        if service is None:
            raise ValueError("the source is not behind Sentinel")
        self.service: Service = service
        self._servers = connector
        self._sentinels = connector.sentinels()

    @property
    def address_map(self) -> AddressMap:
        """Where announced addresses are reached."""
        return self._servers.address_map

    def find(self, preferred: str = "") -> Found:
        """Ask every Sentinel and look at the servers.

        Of several fit replicas the one whose `run_id` is `preferred` is taken, else the one that has most.
        Raises `SourceLostError` for what may pass (no Sentinel, no quorum, no server with the role),
        `SourceNotReadyError` for what needs a person (an unknown service, a refused login).
        """
        views = self._ask_all()
        newest = max(view.epoch for view in views)
        best = [view for view in views if view.epoch == newest]
        self._check_quorum(best)
        notes = [
            f"the Sentinel {view.sentinel} is behind the others: it names {view.primary} as the primary of "
            f"{self.service.name}"
            for view in views
            if view.epoch < newest and view.primary != best[0].primary
        ]
        primary = self._confirmed_primary(best)
        if self.service.role == "primary":
            if primary.trouble:
                raise self._lost(
                    f"has no primary that can be read: {primary.trouble}",
                    "wait until its Sentinels have made another server the primary, then run it again",
                )
            return Found(primary.address, "primary", primary.address, primary.run_id, tuple(notes))
        return self._choose_replica(best, primary, preferred, notes)

    def look(self, address: Address) -> _Server:
        """Look at one server. Raises `SlotferryError` where it does not answer."""
        with self._servers.open(address) as node:
            return _describe(address, node.info())

    def _ask_all(self) -> list[_View]:
        """Return the views of the Sentinels that know the service; raise where there are none."""
        addresses = list(dict.fromkeys(self._sentinels.endpoint.addresses))
        with ThreadPoolExecutor(len(addresses)) as pool:
            answers = list(pool.map(self._ask, addresses))
        views = [answer for answer in answers if isinstance(answer, _View)]
        if views:
            return views
        errors = [answer for answer in answers if isinstance(answer, SlotferryError)]
        # One that a person must fix says more than one that is only not there.
        errors.sort(key=lambda error: isinstance(error, SourceLostError))
        if len(errors) > 1 and isinstance(errors[0], SourceLostError):
            listed = "; ".join(error.message.removeprefix("the Sentinel ") for error in errors)
            raise self._lost(
                f"has no Sentinel that answers: {listed}",
                "check that they run and that their addresses are right",
            )
        raise errors[0]

    def _ask(self, address: Address) -> _View | SlotferryError:
        name = self.service.name
        try:
            with self._sentinels.open(address) as node:
                replicas = (
                    node.need_parsed(self._addresses, "SENTINEL", "REPLICAS", name)
                    if self.service.role != "primary"
                    else ()
                )
                primary, epoch = self._master(node, name)
                return _View(
                    sentinel=address,
                    primary=primary,
                    epoch=epoch,
                    replicas=replicas,
                    quorum=_quorum_complaint(node, name),
                )
        except SlotferryError as error:
            return error

    def _master(self, node: Node, name: str) -> tuple[Address, int]:
        """Return the primary that a Sentinel names, and as of which epoch."""

        def parse(reply: Any) -> tuple[Address, int]:
            state = replies.pairs(reply)
            return self._address(state), replies.number_of(state, "config-epoch")

        try:
            return node.parsed(parse, "SENTINEL", "MASTER", name)
        except NoPermissionError as error:
            raise_for(error, node, "SENTINEL MASTER")
        except ResponseError as error:
            if "no such master" in str(error).lower():
                raise not_ready(
                    "Sentinel",
                    f"{node.name} does not know the service {name!r}",
                    f"name one that it watches{_watched(node)}, as in redis+sentinel://…/SERVICE",
                ) from None
            if "unknown command" in str(error).lower():
                raise not_ready(
                    "Sentinel",
                    f"{node.name} is not a Sentinel: it is a server that holds keys",
                    "name a Sentinel, or the server itself with redis://",
                ) from None
            raise_for(error, node, "SENTINEL MASTER")

    def _check_quorum(self, best: Sequence[_View]) -> None:
        complaints = [view.quorum for view in best]
        if all(complaints):
            raise self._lost(
                f"has no quorum: the Sentinel {best[0].sentinel} says {complaints[0]}",
                "start the Sentinels that are missing; what they name now may not be the primary any more",
            )

    def _confirmed_primary(self, best: Sequence[_View]) -> _Server:
        """Return the server that is named as the primary and says so itself; its trouble where none does."""
        votes = Counter(view.primary for view in best)
        troubles = []
        for address, _ in votes.most_common():
            try:
                server = self.look(address)
            except SourceLostError as error:
                troubles.append(error.message)
                continue
            if server.role == "primary":
                return server
            troubles.append(f"{address}, named by {votes[address]} of its Sentinels, says it is a replica")
        first = votes.most_common(1)[0][0]
        return _Server(first, "primary", "", -1, "; ".join(troubles))

    def _choose_replica(
        self, best: Sequence[_View], primary: _Server, preferred: str, notes: list[str]
    ) -> Found:
        addresses = list(dict.fromkeys(address for view in best for address in view.replicas))
        troubles: list[str] = []
        fit: list[_Server] = []
        with ThreadPoolExecutor(max(1, len(addresses))) as pool:
            for found in pool.map(self._look_at_replica, addresses):
                if found.trouble:
                    troubles.append(f"{found.address} {found.trouble}")
                else:
                    fit.append(found)
        fit.sort(key=lambda server: (server.run_id != preferred, -server.offset, server.address))
        for server in fit:
            behind = self._catch_up(server, primary.offset)
            if not behind:
                found_notes = (*notes, *(f"the replica {trouble}: it is not used" for trouble in troubles))
                return Found(server.address, "replica", primary.address, server.run_id, found_notes)
            troubles.append(f"{server.address} {behind}")
        why = "; ".join(troubles) or "its Sentinels name none"
        if preferred and primary.run_id == preferred:
            notes.append(f"{primary.address} is the primary now; the cursors are its own: it is read on")
            return Found(primary.address, "primary", primary.address, primary.run_id, tuple(notes))
        if self.service.role == "replica":
            raise self._lost(
                f"has no replica that can be read: {why}",
                "wait until one has caught up, or allow the primary with ?role=prefer-replica",
            )
        if primary.trouble:
            raise self._lost(
                f"has no server that can be read: {primary.trouble}; replicas: {why}",
                "wait until its Sentinels have made another server the primary, then run it again",
            )
        notes.append(f"no replica of {self.service.name} can be read ({why}): the primary is")
        return Found(primary.address, "primary", primary.address, primary.run_id, tuple(notes))

    def _look_at_replica(self, address: Address) -> _Server:
        try:
            server = self.look(address)
        except SlotferryError as error:
            return _Server(address, "replica", "", -1, error.message.removeprefix("the source "))
        if server.role == "primary":
            return _Server(address, "primary", server.run_id, server.offset, "says it is a primary")
        return server

    def _catch_up(self, server: _Server, offset: int) -> str:
        """Wait until the replica has what the primary had; return why it can't be read, or nothing."""
        deadline = time.monotonic() + _CATCH_UP_SECONDS
        while True:
            if server.trouble:
                return server.trouble
            if server.offset >= offset:
                return ""
            if time.monotonic() > deadline:
                return f"is {offset - server.offset:,} bytes behind its primary"
            time.sleep(0.1)
            server = self._look_at_replica(server.address)

    def _address(self, fields: dict[str, str]) -> Address:
        host, port = replies.host_and_port(fields.get("ip"), replies.number_of(fields, "port"))
        if not host:
            raise replies.MalformedReplyError("that names no address")
        return self.address_map.reach(Address(host, port))

    def _addresses(self, reply: Any) -> tuple[Address, ...]:
        return tuple(self._address(replies.pairs(fields)) for fields in replies.array(reply))

    def _lost(self, what: str, hint: str) -> SlotferryError:
        error = lost("source", "", hint)
        error.message = f"the service {self.service.name} {what}"
        return error


def _describe(address: Address, info: dict[str, str]) -> _Server:
    run_id = info.get("run_id", "")
    if info.get("role") == "master":
        return _Server(address, "primary", run_id, replies.number_of(info, "master_repl_offset", -1))
    trouble = ""
    if info.get("master_link_status") != "up":
        down = info.get("master_link_down_since_seconds", "-1")
        since = f" since {down} s" if down.isdecimal() else ""
        trouble = f"has no link to its primary{since}"
    elif info.get("master_sync_in_progress") == "1":
        trouble = "is being synchronised"
    return _Server(address, "replica", run_id, replies.number_of(info, "slave_repl_offset", -1), trouble)


def _quorum_complaint(node: Node, name: str) -> str:
    try:
        node.call("SENTINEL", "CKQUORUM", name)
    except NoPermissionError:
        return ""  # a courtesy: without it the servers' own word has to do
    except ResponseError as error:
        return str(error).removeprefix("NOQUORUM ").rstrip(".")
    return ""


def _watched(node: Node) -> str:
    """Return the names that a Sentinel knows, for a hint."""
    try:
        names = node.parsed(
            lambda reply: [replies.pairs(one).get("name", "") for one in replies.array(reply)],
            "SENTINEL",
            "MASTERS",
        )
    except ResponseError:
        return ""
    return f" ({', '.join(sorted(names))})" if names else ""


class SourceWatch:
    """Looks after the server that is read, once a second in a thread of its own, while a job runs.

    The caller polls: `notes()` are for the operator; `left()` says why another server has to be found, once
    that is so. A server that only does not answer is waited for, unless the Sentinels have another one.
    """

    def __init__(self, finder: ServiceFinder, found: Found) -> None:
        self._finder = finder
        self._found = found
        self._role: ServerRole = found.role
        self._notes: deque[str] = deque()
        self._left = ""
        self._not_ready_since: float | None = None
        self._asked = time.monotonic()
        self._offsets: deque[tuple[float, int]] = deque()
        self._end = threading.Event()
        # A daemon: a node that hangs must not hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="slotferry-source", daemon=True)

    def __enter__(self) -> SourceWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def notes(self) -> Iterable[str]:
        """Yield what is new."""
        while self._notes:
            yield self._notes.popleft()

    def left(self) -> str:
        """Return why the server is no longer the one to read; empty while it is."""
        return self._left

    def look_once_more(self) -> None:
        """Look at the end of what was read: a primary that was replaced is left even now.

        One that does not answer any more is not, unless there is another: what was asked of it has come.
        """
        self._end.set()
        if self._role == "primary" and not self._left:
            with contextlib.suppress(SlotferryError):
                self._seek(time.monotonic())

    def _run(self) -> None:
        while not self._left and not self._end.wait(_LOOK_SECONDS):
            with contextlib.suppress(SlotferryError):  # seen again in a second; the engine's limit ends it
                self._look()

    def _look(self) -> None:
        now, address = time.monotonic(), self._found.address
        try:
            server = self._finder.look(address)
        except SlotferryError:
            if self._role == "primary" or self._is_not_ready_for_long("does not answer", now):
                self._seek(now)
            return
        if server.run_id != self._found.run_id:
            self._left = f"the source {address} is another process now"
        elif server.role != self._role:
            self._role_changed(server)
        elif self._role == "replica":
            trouble = server.trouble or self._lag(server, now)
            if self._is_not_ready_for_long(trouble, now):
                self._left = f"the replica {address} {trouble}: it is not read like this"
        elif now - self._asked >= _ASK_SENTINELS_SECONDS:
            # A primary that is cut off from its Sentinels does not know that it was replaced.
            self._seek(now)

    def _seek(self, now: float) -> None:
        """Ask the Sentinels; leave the server if they have another one in its place."""
        self._asked = now
        found = self._finder.find(self._found.run_id)
        # A replica that was promoted is read on, even where another replica would do.
        if self._found.run_id != found.run_id and self._found.address != found.primary:
            self._left = (
                f"failover of the service {self._finder.service.name}: {found.address} is read in place of "
                f"{self._found.address}"
            )

    def _role_changed(self, server: _Server) -> None:
        name, address = self._finder.service.name, self._found.address
        if server.role == "replica":
            self._left = f"failover of the service {name}: {address} is no longer its primary"
            return
        self._role, self._not_ready_since = "primary", None
        self._notes.append(
            f"the replica {address} was promoted to primary of {name}; the cursors are its own: it is read on"
        )

    def _is_not_ready_for_long(self, trouble: str, now: float) -> bool:
        """Tell of a replica's trouble when it begins and ends; return whether it lasts for too long."""
        address = self._found.address
        if not trouble:
            if self._not_ready_since is not None:
                self._notes.append(f"the replica {address} is ready again")
            self._not_ready_since = None
            return False
        if self._not_ready_since is None:
            self._not_ready_since = now
            self._notes.append(f"the replica {address} {trouble}")
        return now - self._not_ready_since >= UNFIT_SECONDS

    def _lag(self, server: _Server, now: float) -> str:
        """Return how far the replica is behind, if that is too far: it lacks what the primary had then."""
        try:
            primary = self._finder.look(self._found.primary)
        except SlotferryError:
            return ""  # its link says enough
        if primary.role == "primary":
            self._offsets.append((now, primary.offset))
        while len(self._offsets) > 1 and self._offsets[1][1] <= server.offset:
            self._offsets.popleft()
        since = next((at for at, offset in self._offsets if offset > server.offset), now)
        return f"is {now - since:.0f} s behind its primary" if now - since > MOST_LAG_SECONDS else ""
