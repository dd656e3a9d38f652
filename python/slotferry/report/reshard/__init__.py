"""What a person sees of a reshard.

Invariant: a display never ends a run.
"""
