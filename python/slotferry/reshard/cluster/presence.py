"""One Slotferry at a time moves slots of a cluster, wherever it runs: the cluster itself is the lock.

Invariant: who holds it has, on every primary, a connection with a name that no other Slotferry has there. A
name is set before the others are looked for, so of two that come at once at least one sees the other. Nothing
is written to the cluster: the name goes with the connection, whatever ends the process.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from slotferry.errors import JobLockedError, SlotferryError
from slotferry.model.address import Address
from slotferry.net import replies
from slotferry.net.connector import Connector
from slotferry.reshard.cluster.members import Member
from slotferry.reshard.cluster.wire import Wire, is_error

_PREFIX = "slotferry-reshard:"
_PATIENCE_SECONDS = 1.0  # for the connection of a process that was killed, and for one that gives way
_LOOK_SECONDS = 0.05
_PING_SECONDS = 5.0  # servers may end connections that say nothing for long


@dataclass(frozen=True)
class _Holder:
    """A connection of another Slotferry that moves slots: as CLIENT LIST of `node` shows it."""

    number: int
    name: str
    peer: str
    node: Address

    def __str__(self) -> str:
        host, _, rest = self.name.removeprefix(_PREFIX).partition(":")
        pid = rest.partition(":")[0]
        return f"process {pid} on {host} (connected to {self.node} from {self.peer})"


class Presence:
    """Holds the lock of a cluster from `with` to its end. Raises `JobLockedError` where another has it."""

    def __init__(
        self, connector: Connector, members: Iterable[Member], notice: Callable[[str], None]
    ) -> None:
        host = re.sub(r"[^!-9;-~]", "-", socket.gethostname()) or "unknown"
        self._name = f"{_PREFIX}{host}:{os.getpid()}:{secrets.token_hex(4)}"
        self._connector = connector
        self._notice = notice
        self._first = list(members)
        self._wires: dict[Address, Wire] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._taken: JobLockedError | None = None
        self._thread = threading.Thread(target=self._keep, name="slotferry-presence", daemon=True)

    def __enter__(self) -> Presence:
        try:
            self.extend(self._first)
        except BaseException:
            self._hang_up()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._hang_up()

    def check(self) -> None:
        """Raise `JobLockedError` where another has taken the lock while a connection was lost."""
        if self._taken is not None:
            raise self._taken

    def extend(self, members: Iterable[Member]) -> None:
        """Hold the lock on these primaries too; one that does not answer is asked again the next time."""
        self.check()
        # In one order for all, so that of two that come at once one has nothing yet.
        for member in sorted(members, key=lambda member: member.id):
            if member.answered:
                with self._lock:
                    if member.address not in self._wires:
                        self._take(member.address)

    def _take(self, address: Address) -> None:
        """Take the lock of one primary."""
        try:
            wire = Wire(self._connector, address)
        except SlotferryError:
            return  # that it is away is for the moves to notice
        try:
            if self._acquire(wire):
                self._wires[address] = wire
                return
        except JobLockedError:
            wire.close()
            raise
        except SlotferryError:
            pass
        wire.close()

    def _acquire(self, wire: Wire) -> bool:
        """Name the connection, and wait until no other is named so; return whether that can be known."""
        for command in (("CLIENT", "SETNAME", self._name), ("CLIENT", "ID"), ("CLIENT", "LIST")):
            if is_error(wire.call(*command)):
                self._notice(
                    f"another Slotferry on another machine would not be noticed: the user may not run "
                    f"{' '.join(command[:2])} at {wire.address}"
                )
                return False
        own = wire.need_parsed(replies.integer, "CLIENT", "ID")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        named = True
        while True:
            others = self._others(wire)
            if not others and named:
                return True
            if not others:
                # What was seen without a name counts for nothing: look again.
                wire.need("CLIENT", "SETNAME", self._name)
                named = True
                continue
            if time.monotonic() >= deadline:
                raise JobLockedError(
                    f"slots of this cluster are being moved by {others[0]}",
                    hint="wait until it has ended, or stop it; where its machine has died, end its "
                    f"connection with CLIENT KILL ID {others[0].number} at {others[0].node}",
                )
            if named and others[0].number < own:
                # It was there before: give way, in case it has only just come too.
                wire.need("CLIENT", "SETNAME", "")
                named = False
            time.sleep(_LOOK_SECONDS)

    def _others(self, wire: Wire) -> list[_Holder]:
        """Return who else is named so, the one that came first first."""
        found = []
        for line in wire.need_parsed(replies.text, "CLIENT", "LIST").splitlines():
            fields = dict(part.partition("=")[::2] for part in line.split())
            name = fields.get("name", "")
            number = fields.get("id", "")
            if name.startswith(_PREFIX) and name != self._name and number.isdecimal() and len(number) < 20:
                found.append(_Holder(int(number), name, fields.get("addr", "?"), wire.address))
        return sorted(found, key=lambda holder: holder.number)

    def _keep(self) -> None:
        """Keep the connections alive, and take the lock anew where one was lost."""
        while not self._ended.wait(_PING_SECONDS):
            with self._lock:
                lost = [address for address, wire in self._wires.items() if not _answers(wire)]
                for address in lost:
                    self._wires.pop(address).close()
                try:
                    for address in lost:
                        self._take(address)
                except JobLockedError as error:
                    self._taken = error
                    return

    def _hang_up(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._wires.clear()


def _answers(wire: Wire) -> bool:
    try:
        return wire.call("PING") is not None
    except SlotferryError:
        return False
