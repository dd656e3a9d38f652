"""URLs and credentials: what a side of a migration is and how it is opened.

Invariant: no text made here (repr, str, identity, error message) holds a password, a private key or any part
of a URL that could be one. Schemes: the redis-py ones, `redis+cluster://h1:p1,h2:p2` and
`redis+sentinel://h1:p1,h2:p2/service/db`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args
from urllib.parse import quote, unquote

from slotferry.errors import UsageError
from slotferry.model.address import Address, Password, Role, Side
from slotferry.redaction import remember_secret

if TYPE_CHECKING:
    from slotferry._core import Access


DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379
_CLUSTER, _SENTINEL = "+cluster", "+sentinel"
_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    *(tls + kind for kind in (_CLUSTER, _SENTINEL) for tls in ("redis", "rediss")),
)
_FILE = "file"
STDIN = "-"
"""The path of a file that comes from stdin."""
_QUERY_KEYS = ("db", "username", "password")
_SENTINEL_QUERY_KEYS = (*_QUERY_KEYS, "role", "sentinel_username", "sentinel_password")
_FILE_NAME = re.compile(r"\.{0,2}/(?!/)[^@]*|[^@]*\.(rdb|gz|zst)")
_LONGEST_PASSWORD = 64 << 10
_ENCODE_HINT = "percent-encode '/', '?', '#' and '@' in a user name or password"


@dataclass(frozen=True)
class Tls:
    """TLS settings; `ca`, `cert` and `key` are PEM files, read and checked when the endpoint is made."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    insecure: bool = False


@dataclass(frozen=True)
class Service:
    """What Sentinels watch under `name`: which of its servers is read, and the login at the Sentinels."""

    name: str
    role: Role = "primary"
    username: str | None = None
    password: Password | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _remember(self.password)


@dataclass(frozen=True)
class Endpoint:
    """One side of a migration.

    `addresses` is empty for a Unix socket, whose path is `path`, and for an RDB file (scheme `file`; the path
    `-` is stdin); they are the Sentinels' where the side is a `service` behind Sentinel, and the credentials
    those of its servers.
    """

    scheme: str
    addresses: tuple[Address, ...] = ()
    path: str | None = None
    username: str | None = None
    password: Password | None = field(default=None, repr=False)
    database: int = 0
    tls: Tls = Tls()
    service: Service | None = None

    def __post_init__(self) -> None:
        _remember(self.password)

    @classmethod
    def parse(cls, url: str, side: Side) -> Endpoint:
        """Parse a URL; `side` is named in errors. Raises `UsageError`, which never repeats the URL."""
        return _UrlParser(url, side).parse()

    @property
    def uses_tls(self) -> bool:
        """Whether connections are opened with TLS."""
        return self.scheme.startswith("rediss")

    @property
    def is_file(self) -> bool:
        """Whether this is an RDB file."""
        return self.scheme == _FILE

    @property
    def is_stdin(self) -> bool:
        """Whether this is an RDB file that comes from stdin."""
        return self.is_file and self.path == STDIN

    @property
    def is_cluster_url(self) -> bool:
        """Whether the URL says that this is a cluster."""
        return self.scheme.endswith(_CLUSTER)

    @property
    def identity(self) -> str:
        """The canonical URL without user and secrets: what the journal knows this side by."""
        if self.is_file:
            return f"file://{quote(self.path or '')}"
        if self.path is not None:
            return f"unix://{quote(self.path)}?db={self.database}"
        service = f"/{quote(self.service.name, safe='')}" if self.service else ""
        return f"{self.scheme}://{','.join(map(str, sorted(self.addresses)))}{service}/{self.database}"

    @property
    def target_identity(self) -> str:
        """`identity` of a target, where `redis://` means a seed of a cluster as well."""
        scheme = "rediss+cluster" if self.uses_tls else "redis+cluster"
        return replace(self, scheme=scheme).identity

    def __str__(self) -> str:
        user = quote(self.username, safe="") if self.username else ""
        login = f"{user}{':***' if self.password else ''}"
        return self.identity.replace("://", f"://{login}@", 1) if login else self.identity

    def with_credentials(self, password: Password | None, tls: Tls) -> Endpoint:
        """Return this endpoint with `password` (where not None) instead of the URL's, and with `tls`."""
        if tls != Tls() and not self.uses_tls:
            raise UsageError(
                f"TLS options are given for {self.identity}, which is not reached over TLS",
                hint="use rediss:// or rediss+cluster://",
            )
        return replace(self, password=self.password if password is None else password, tls=tls)

    def with_sentinel_login(self, username: str | None, password: Password | None) -> Endpoint:
        """Return this endpoint with the login at its Sentinels where it is given outside of the URL.

        Raises `UsageError` where there are no Sentinels but a login for them.
        """
        if username is None and password is None:
            return self
        if self.service is None:
            raise UsageError(
                f"a login for Sentinels is given, and {self.identity} is not behind any",
                hint="use redis+sentinel://, or leave out the Sentinel user and password",
            )
        service = replace(
            self.service,
            username=self.service.username if username is None else username,
            password=self.service.password if password is None else password,
        )
        return replace(self, service=service)

    @property
    def sentinels(self) -> Endpoint:
        """The Sentinels of a service, as an endpoint of their own."""
        if self.service is None:
            raise ValueError("no Sentinels without a service")
        username, password = self.service.username, self.service.password
        return replace(self, username=username, password=password, database=0, service=None)

    def check_files(self) -> None:
        """Read the TLS files. Raises `UsageError` where they make no sense."""
        self.access((None, None))

    def access(self, login: tuple[str | None, str | None]) -> Access:
        """Return what the engine opens its connections with, logged in as `login` (user, password).

        Raises `UsageError` for an unusable PEM.
        """
        from slotferry._core import Access, EngineError

        username, password = login
        try:
            return Access(
                username=username,
                # A user without a password logs in with an empty one, as redis-py does it.
                password="" if username and password is None else password,
                database=self.database,
                renewable=callable(self.password),
                tls=self.uses_tls,
                tls_ca=_read_pem(self.tls.ca),
                tls_cert=_read_pem(self.tls.cert),
                tls_key=_read_pem(self.tls.key),
                tls_server_name=self.tls.server_name,
                tls_insecure=self.tls.insecure,
            )
        except EngineError as error:
            files = [str(path) for path in (self.tls.ca, self.tls.cert, self.tls.key) if path is not None]
            raise UsageError(
                f"{error.args[1]} ({', '.join(files) or 'no TLS files are given'})",
                hint="check the TLS files",
            ) from None


def _remember(password: Password | None) -> None:
    if isinstance(password, str):
        remember_secret(password)


def _read_pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the TLS file {path} can't be read: {error.strerror}", hint="check the path and its permissions"
        ) from None
    if b"-----BEGIN " not in content:
        raise UsageError(f"the TLS file {path} is not in PEM format", hint="convert it to PEM")
    return content


def file_endpoint(given: str) -> Endpoint | None:
    """Return the RDB file that a source names: `-`, or a path that is there or looks so; None: a URL."""
    if given == STDIN:
        return Endpoint(_FILE, path=STDIN)
    if not given or "://" in given:
        return None
    is_there = os.path.lexists(given)
    return Endpoint(_FILE, path=os.path.abspath(given)) if is_there or _FILE_NAME.fullmatch(given) else None


def parse_endpoint(given: str | Endpoint, side: Side) -> Endpoint:
    """Return the endpoint of a URL. Raises `UsageError` for one that makes no sense on that side."""
    if isinstance(given, str) and side == "source" and file_endpoint(given) is not None:
        raise UsageError(
            f"the source is an RDB file, {given}, which only 'slotferry migrate' and 'verify' read",
            hint="load it into a server, and name that one",
        )
    endpoint = Endpoint.parse(given, side) if isinstance(given, str) else given
    if side == "target" and endpoint.path is not None:
        raise UsageError(
            "the target is a Unix socket", hint="a cluster is reached over TCP: name one of its nodes"
        )
    return endpoint


def read_password_file(party: Side, file: Path) -> str:
    """Return the first line of `file`, which may be a pipe. Raises `UsageError`."""
    try:
        with file.open("rb") as opened:
            password = first_line(opened.readline(_LONGEST_PASSWORD + 1))
    except OSError as error:
        raise UsageError(
            f"the {party} password file {file} can't be read: {error.strerror}",
            hint="check the path and its permissions",
        ) from None
    except UnicodeDecodeError:
        raise UsageError(f"the {party} password file {file} is not UTF-8", hint="save it as UTF-8") from None
    if not password:
        raise UsageError(
            f"the {party} password file {file} is empty", hint="put the password on its first line"
        )
    if len(password) > _LONGEST_PASSWORD:
        raise UsageError(
            f"the {party} password file {file} has a first line of more than {_LONGEST_PASSWORD >> 10} kB",
            hint="put the password on its first line",
        )
    return password


def first_line(content: bytes) -> str:
    """Return the first line of UTF-8 text, without its end and without a byte order mark."""
    return content.partition(b"\n")[0].removesuffix(b"\r").decode("utf-8-sig")


class _UrlParser:
    """Takes a URL apart by hand: urllib's errors repeat their input, which may hold a password."""

    def __init__(self, url: str, side: Side) -> None:
        self.url = url
        self.side = side

    def parse(self) -> Endpoint:
        scheme, found, rest = self.url.partition("://")
        if not found:
            raise self.error("is not a URL", "write it like redis://host:6379/0")
        scheme = scheme.lower()
        if scheme not in _SCHEMES:
            raise self.error(self.unknown_scheme(scheme), f"use one of {', '.join(_SCHEMES)}")
        if "#" in rest:
            raise self.error("holds a '#'", _ENCODE_HINT)
        rest, _, query = rest.partition("?")
        params = self.parse_query(query, _SENTINEL_QUERY_KEYS if scheme.endswith(_SENTINEL) else _QUERY_KEYS)
        if scheme == "unix":
            return self.parse_unix(rest, params)
        if scheme.endswith(_SENTINEL):
            return self.parse_sentinel(scheme, rest, params)
        return self.parse_tcp(scheme, rest, params)

    def parse_unix(self, rest: str, params: dict[str, str]) -> Endpoint:
        login, slash, path = rest.partition("/")
        if not slash or not path:
            raise self.error("has no path to a socket", "write it like unix:///run/redis.sock?db=0")
        if login and not login.endswith("@"):
            raise self.error("has a relative path to its socket", "write it like unix:///run/redis.sock")
        username, password = self.parse_login(login[:-1], params)
        return Endpoint(
            "unix",
            path="/" + unquote(path),
            username=username,
            password=password,
            database=self.parse_database(params.get("db", "")),
        )

    def parse_tcp(self, scheme: str, rest: str, params: dict[str, str]) -> Endpoint:
        authority, _, path = rest.partition("/")
        login, _, hosts = authority.rpartition("@")
        if "@" in login and scheme.endswith(_CLUSTER):
            raise self.error("has more than one '@'", f"give the user and password once; {_ENCODE_HINT}")
        username, password = self.parse_login(login, params)
        if path and "db" in params:
            raise self.error("names its database twice", "leave out '?db='")
        addresses = tuple(self.parse_address(text) for text in hosts.split(","))
        if len(addresses) > 1 and not scheme.endswith(_CLUSTER):
            raise self.error("names several hosts", f"use {scheme}+cluster:// for the nodes of a cluster")
        return Endpoint(
            scheme,
            addresses=addresses,
            username=username,
            password=password,
            database=self.parse_database(path.rstrip("/") or params.get("db", "")),
        )

    def parse_sentinel(self, scheme: str, rest: str, params: dict[str, str]) -> Endpoint:
        if self.side == "target":
            raise self.error(
                f"uses {scheme}://, and Sentinels watch no cluster",
                "name nodes of the cluster to migrate into",
            )
        authority, _, path = rest.partition("/")
        login, _, hosts = authority.rpartition("@")
        if "@" in login:
            raise self.error("has more than one '@'", f"give the user and password once; {_ENCODE_HINT}")
        username, password = self.parse_login(login, params)
        name, slash, database = path.partition("/")
        if not re.fullmatch(r"[\w.-]+", unquote(name), re.ASCII):
            raise self.error(
                "names no service that its Sentinels could know" if not name else "has an unreadable service",
                f"write it like {scheme}://host:26379,host:26379/mymaster/0; {_ENCODE_HINT}",
            )
        if slash and database and "db" in params:
            raise self.error("names its database twice", "leave out '?db='")
        roles: tuple[Role, ...] = get_args(Role)
        role = next((role for role in roles if role == params.get("role", "primary")), None)
        if role is None:
            raise self.error("has an unknown role", f"use ?role= with one of {', '.join(roles)}")
        return Endpoint(
            scheme,
            addresses=tuple(self.parse_address(text, DEFAULT_SENTINEL_PORT) for text in hosts.split(",")),
            username=username,
            password=password,
            database=self.parse_database(database.rstrip("/") or params.get("db", "")),
            service=Service(
                unquote(name),
                role,
                params.get("sentinel_username") or None,
                params.get("sentinel_password") or None,
            ),
        )

    def parse_login(self, login: str, params: dict[str, str]) -> tuple[str | None, str | None]:
        username, _, password = login.partition(":")
        return (
            unquote(username) or params.get("username") or None,
            unquote(password) or params.get("password") or None,
        )

    def parse_address(self, text: str, default_port: int = DEFAULT_PORT) -> Address:
        # The text may be a part of a password that should have been encoded: it is never repeated.
        match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([\w.-]*))(?::([0-9]+))?", text)
        if match is None:
            raise self.error(
                "has an unreadable host or port", f"write host:port or [ipv6]:port; {_ENCODE_HINT}"
            )
        host = match[1] or match[2]
        if not host:
            raise self.error("has no host", "write it like redis://host:6379/0")
        port = int(match[3]) if match[3] else default_port
        if not 1 <= port <= 65535:
            raise self.error("has a port outside of 1 to 65535", "write it like redis://host:6379/0")
        return Address(host.lower(), port)

    def parse_database(self, text: str) -> int:
        if not text:
            return 0
        if not re.fullmatch(r"[0-9]{1,9}", text):
            raise self.error("has a database that is not a number", f"write it like /0; {_ENCODE_HINT}")
        return int(text)

    def parse_query(self, query: str, known: tuple[str, ...]) -> dict[str, str]:
        params: dict[str, str] = {}
        for name, _, value in (part.partition("=") for part in query.split("&") if part):
            # Only what can be no password is repeated: with an '@' behind it, the '?' was part of one.
            if name not in known:
                plain = re.fullmatch(r"[A-Za-z_]{1,40}", name) and "@" not in query
                what = f"the unknown parameter {name!r}" if plain else "an unreadable query"
                raise self.error(f"has {what}", f"known are {', '.join(known)}; {_ENCODE_HINT}")
            if name in params:
                raise self.error(f"has the parameter {name!r} twice", "leave one of them out")
            params[name] = unquote(value)
        return params

    def unknown_scheme(self, scheme: str) -> str:
        plain = re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme)
        return f"has the unknown scheme {scheme}://" if plain else "has an unreadable scheme"

    def error(self, what: str, hint: str) -> UsageError:
        return UsageError(f"the {self.side} URL {what}", hint=hint)
