"""The cut-over: from a source that is followed to an application that speaks to the target.

Invariant: the source is never left stopped by accident, and *go* is said only when the target holds what the
source held at the fence.
"""
