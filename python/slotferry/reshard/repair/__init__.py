"""Repairing slots that were left open, lost or held twice.

Invariant: no key is deleted to repair a slot.
"""
