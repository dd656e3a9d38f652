"""A cluster as the source of a job: one engine job for each of its primaries, driven as one.

Invariant: a cursor is used on the process alone that it comes from, and the job is done only when every slot
was read while one process owned it.
"""
