"""How the servers of a side are reached: with which address, login and TLS files, as they are now.

Invariant: a connection that can't be opened comes out as a `SlotferryError` that names the side and the node;
a refused login is tried a second time only where the credentials have changed.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from slotferry.errors import SlotferryError
from slotferry.model.address import Address, Side
from slotferry.net.address_map import AddressMap
from slotferry.net.credentials import Login, PasswordFile, stamp_files
from slotferry.net.endpoints import Endpoint, Tls
from slotferry.net.link import Link
from slotferry.net.node import Node

if TYPE_CHECKING:
    import ssl
    from pathlib import Path

    from slotferry._core import Access

_Opened = TypeVar("_Opened", "Link", "Access", "Connector")


class Connector:
    """Opens administrative connections to the servers of one side."""

    def __init__(self, endpoint: Endpoint, side: Side, address_map: AddressMap | None = None) -> None:
        """Read the TLS files. Raises `UsageError` where they make no sense."""
        self.endpoint = endpoint
        self.side = side
        self.address_map = address_map or AddressMap()
        self.server: Address | None = None
        """The server that was found behind Sentinels, which `open` opens where it is given no address."""
        self.login = Login(side, endpoint.username, endpoint.password)
        self._opened: WeakSet[Link | Access | Connector] = WeakSet()
        self._opening = threading.Lock()
        self._context = _tls_context(endpoint.tls) if endpoint.uses_tls else None
        self._stamp = stamp_files(self.files)

    def sentinels(self) -> Connector:
        """Return what opens connections to the Sentinels of a source that is behind them."""
        return self._remembered(Connector(self.endpoint.sentinels, "Sentinel", self.address_map))

    def dial(self, address: Address | None = None) -> Link:
        """Return a `Link` that is open: to `address`, or else the endpoint's socket, server or first address.

        `address` is where the node is reached, not what it announces. Database 0 is selected, whatever the
        endpoint says. A login that is refused is tried once more where there is another one by now.
        """
        link = self._link(address)
        try:
            link.open()
        except SlotferryError:
            if not link.login_refused or not self.renew():
                raise
            link = self._link(address)
            link.open()
        return link

    def open(self, address: Address | None = None) -> Node:
        """Return a connected `Node` of what `dial` opens."""
        return Node(self.dial(address))

    def hang_up(self) -> None:
        """Hang up whatever is open, also what the engine has opened for a handover. For other threads."""
        with self._opening:
            opened = list(self._opened)
        for each in opened:
            each.hang_up()

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that connections are opened with; where one changes, `renew` has something new."""
        tls, password = self.endpoint.tls, self.endpoint.password
        secret = password.path if isinstance(password, PasswordFile) else None
        return tuple(path for path in (secret, tls.ca, tls.cert, tls.key) if path is not None)

    @property
    def generation(self) -> object:
        """What is another one after each change of the credentials or files."""
        return self.login.generation, self._stamp

    def access(self, database: int | None = None) -> Access:
        """Return what the engine opens its connections with now, to the endpoint's database or another one.

        Raises `SlotferryError`.
        """
        number = self.endpoint.database if database is None else database
        return self._remembered(replace(self.endpoint, database=number).access(self.login.current()))

    def renew(self) -> bool:
        """Ask for the credentials and read the files anew; return whether anything changed.

        Raises `SlotferryError`; what was there before holds then.
        """
        before, stamp = self.generation, stamp_files(self.files)
        self.login.renew()
        if stamp != self._stamp and self._context is not None:
            self._context = _tls_context(self.endpoint.tls)
        self._stamp = stamp
        return self.generation != before

    def _link(self, address: Address | None) -> Link:
        where = address or self.endpoint.path or self.server or self.endpoint.addresses[0]
        server_name = self.endpoint.tls.server_name
        return self._remembered(Link(self.side, where, self.login.current(), self._context, server_name))

    def _remembered(self, opened: _Opened) -> _Opened:
        with self._opening:
            self._opened.add(opened)
        return opened


def _tls_context(tls: Tls) -> ssl.SSLContext:
    from slotferry.net.tls import make_context  # only here: see its docstring

    return make_context(tls)
