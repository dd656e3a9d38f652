"""The journal: what a job has done, in one SQLite file, with its checks and its history.

Invariant: a row is what was acknowledged; a damaged or foreign row is refused by name.
"""
