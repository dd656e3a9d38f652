"""The public face: Migration, Verification, Plan.

Invariant: every argument is checked before anything is connected.
"""
