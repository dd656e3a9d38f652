"""A cluster as the source: its primaries, who owns which slot, and what moves meanwhile.

Invariant: looking changes nothing.
"""
