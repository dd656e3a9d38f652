"""What some options hold at the least or at the most.

Invariant: the command line refuses what `Options` refuses, by the same figures.
"""

from __future__ import annotations

MIN_MEMORY = 1 << 20
MAX_WAIT_REPLICAS = 100
MAX_WAIT_TIMEOUT = 20_000
"""Milliseconds: a connection that is silent for 30 s is given up."""
MIN_BIG_KEY = 64_000
