"""What commands share: option lists, types, streams, endings.

Invariant: nothing here runs a job.
"""
