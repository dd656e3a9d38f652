"""Copying keys from a source into a cluster: a run, its resume, its account.

Invariant: completed means that the target holds what the source held.
"""
