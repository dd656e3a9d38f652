"""The cluster as a reshard sees it: members, health, methods, who else is at work.

Invariant: an address is mapped once, and what a node says is read with bounds.
"""
