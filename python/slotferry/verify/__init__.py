"""Comparing both sides, in both directions, and repairing what differs.

Invariant: nothing is written unless repair is asked for, nothing deleted unless somebody said so.
"""
