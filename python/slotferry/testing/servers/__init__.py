"""Embedded servers on loopback: standalone, behind Sentinel or a cluster, for the demo and the tests."""

from slotferry.testing.servers.cluster import LocalCluster
from slotferry.testing.servers.process import (
    LocalServer,
    LocalServerError,
    embedded_binary,
    free_port,
    wait_until,
)
from slotferry.testing.servers.sentinel import LocalSentinel, LocalSentinelService

__all__ = [
    "LocalCluster",
    "LocalSentinel",
    "LocalSentinelService",
    "LocalServer",
    "LocalServerError",
    "embedded_binary",
    "free_port",
    "wait_until",
]
