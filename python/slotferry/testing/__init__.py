"""Servers and clusters on loopback, for the demo and the tests.

Invariant: what was started is stopped, by its own process id.
"""
