"""The servers that tests share: what one of them leaves behind, the next one does not see."""

from __future__ import annotations

import pytest

from tests.conftest import ServerPool
from tests.servers.kinds import available

KINDS = ("redis-6.2", "redis-7.0", "redis-8.0", "valkey-9.1")


@pytest.mark.parametrize("name", KINDS)
def test_what_a_test_leaves_is_put_back(pool: ServerPool, name: str) -> None:
    if name not in available():
        pytest.skip(f"this machine has no {name}")
    kind = available()[name]
    limit = "client-output-buffer-limit"
    with pool.server(kind).client() as client:
        before = client.config_get("*"), client.acl_list()
        client.set("key", 1)
        client.config_set("min-replicas-to-write", 3)
        client.config_set(limit, "slave 100000 50000 10")
        client.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get")
        client.execute_command("ACL", "SETUSER", "default", "-psync")
        client.replicaof("127.0.0.1", 1)
        client.client_pause(600_000, all=False)
        with pool.server(kind).client() as again:
            assert (again.config_get("*"), again.acl_list()) == before
            assert again.info("replication")["role"] == "master"
            assert again.dbsize() == 0
            again.set("key", 1)
