"""What a test may have changed at a server that others use after it, and how it is put back.

Invariant: after `restore`, a server is configured as it was when this was made, whatever a test has left.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.utils import str_if_bytes

from slotferry.testing.servers import LocalServer

_ROLE = ("replicaof", "slaveof")

_CLEARED = ("resetpass", "resetkeys", "resetchannels", "nocommands")
"""What clears a user's rules; RESET would leave one that ACL LIST shows (`sanitize-payload`)."""


class Settings:
    """The configuration and the users of a server."""

    def __init__(self, server: LocalServer) -> None:
        self._server = server
        with server.client() as client:
            self._config = _config(client)
            self._users = _users(client)

    def restore(self) -> None:
        """Put back what differs, and let a replica be none and a paused server go on."""
        with self._server.client() as client:
            client.client_unpause()
            if client.info("replication")["role"] != "master":
                client.replicaof("NO", "ONE")
            now = _config(client)
            for name, value in self._config.items():
                if now[name] != value:
                    client.config_set(name, value)
            users = _users(client)
            for name in users.keys() - self._users.keys():
                client.execute_command("ACL", "DELUSER", name)
            for name, rules in self._users.items():
                if users.get(name) != rules:
                    client.execute_command("ACL", "SETUSER", name, *_CLEARED, *rules)


def _config(client: Redis) -> dict[str, Any]:
    return {str(name): value for name, value in client.config_get("*").items() if name not in _ROLE}


def _users(client: Redis) -> dict[str, list[str]]:
    """Return the users with their rules, as ACL LIST writes and ACL SETUSER takes them."""
    lines = [str_if_bytes(line).split() for line in client.acl_list()]
    return {words[1]: words[2:] for words in lines}
